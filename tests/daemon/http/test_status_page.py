"""The status page in a real Chromium, on a real API and ledger."""

import json
import re
import shutil
import threading
import urllib.request
from contextlib import contextmanager
from hashlib import sha256

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from daemon.core import times
from daemon.core.lifecycle import OperationState
from daemon.http.api import create_app
from daemon.intake.reading.lexicon import load_lexicon
from daemon.intake.trust.gate import SourceGate
from daemon.intake.trust.policies import Policy, Rules, Source, Sources
from daemon.intake.trust.relating import Relations
from daemon.ledger.heartbeats import WORKERS, Heartbeat
from daemon.ledger.record.background import keep_background
from tests.browser import act, chromium, sign_in
from tests.daemon.http.page_world import FACTS, HOSTILE, connect, live_a_day
from tests.daemon.reading_server import FOUND, SHOE, server

ADMIN, SUBMIT = "admin-token", "submit-token"
#: the guard would compact by itself and change the story
QUIET = {"guard_compact_edits": 0, "admin_token": ADMIN, "submit_token": SUBMIT}
SECONDS_TO_POLL = 6
DESKTOP, PHONE = (1280, 900), (390, 844)
#: as far down as the first corrections
README_HEIGHT = 1200


class Site:
    """An API over a world's ledger; its doorbell runs the applier in a thread of its own."""

    def __init__(self, world):
        self.world, self.runs, self.one = world, [], threading.Lock()
        self.app = create_app(world.settings, world.ledger, world.replicas, self._ring)
        self.port = 0
        self.start()

    def _ring(self):
        self.runs.append(threading.Thread(target=self._run))
        self.runs[-1].start()

    def _run(self):
        with self.one:
            self.world.run()

    def start(self):
        config = uvicorn.Config(self.app, port=self.port, log_level="warning", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            self.thread.join(0.02)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def stop(self):
        self.server.should_exit = True
        self.thread.join()
        for run in self.runs:
            run.join()

    def get(self, path, token=None):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers)) as answer:
            return json.load(answer)


@contextmanager
def served(world):
    site = Site(world)
    try:
        yield site
    finally:
        site.stop()
        world.close()


@pytest.fixture(scope="module")
def day(world_at, tmp_path_factory):
    """A site that tests only read."""
    world = world_at(tmp_path_factory.mktemp("day"), **QUIET)
    live_a_day(world)
    with served(world) as site:
        yield site


@pytest.fixture
def own_day(day, world_at, tmp_path):
    """A copy of the site that a test may change."""
    shutil.copytree(day.world.root, tmp_path / "state")
    world = world_at(tmp_path / "state", **QUIET)
    world.now = day.world.now
    connect(world)
    with served(world) as site:
        yield site


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


class Visit:
    """Opens pages, and keeps what must not happen on any: console messages, foreign requests."""

    def __init__(self, browser):
        self.browser, self.contexts, self.faults, self.foreign = browser, [], [], []

    def __call__(self, site, size=DESKTOP, scheme="light", token=None, ready=True):
        width, height = size
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
            timezone_id="UTC",
            locale="en-GB",
        )
        self.contexts.append(context)
        if token:
            context.add_init_script(f"sessionStorage.setItem('factd-token', '{token}')")
        page = context.new_page()
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(site.url) else self.foreign.append(r.url))
        page.clock.install(time=site.world.now)
        page.goto(site.url)
        if ready:
            expect(page.locator("#headline-text")).not_to_be_empty()
        return page


@pytest.fixture
def visit(browser):
    visit = Visit(browser)
    yield visit
    for context in visit.contexts:
        context.close()
    assert visit.faults == []
    assert visit.foreign == []


def poll(page):
    page.clock.fast_forward(SECONDS_TO_POLL * 1000)


def row(page, text):
    return page.locator("#corrections-list > li").filter(has_text=text)


def check_accessible(page):
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def tab_to(page, name):
    """Presses Tab until an element with this accessible name has the focus."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if name in page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.innerText"):
            return
    raise AssertionError(f"{name} was not reached by Tab")


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [
        ("status-desktop-light", DESKTOP, "light"),
        ("status-desktop-dark", DESKTOP, "dark"),
        ("status-phone", PHONE, "light"),
        ("status-phone-dark", PHONE, "dark"),
    ],
)
def test_every_look_is_accessible_and_fits(day, visit, pictures, name, size, scheme):
    page = visit(day, size, scheme, ADMIN)
    expect(page.locator("#corrections-list > li")).to_have_count(20)
    expect(page.locator(".plot svg")).to_have_count(8)
    row(page, "The home ground of Kestrel FC").locator("summary").click()
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=pictures / f"{name}.png", full_page=size == DESKTOP)
    if name == "status-desktop-light":  # for the README
        top = {"x": 0, "y": 0, "width": DESKTOP[0], "height": README_HEIGHT}
        page.screenshot(path=pictures / "status.png", full_page=True, clip=top)
    page.locator(".numbers > summary").click()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    check_accessible(page)


def test_dialogs_are_accessible_and_go_away_on_escape(day, visit):
    page = visit(day, token=SUBMIT)
    opener = page.get_by_role("button", name="Roll back to v000009…")
    opener.click()
    expect(page.locator("#token-fault")).to_have_text("This needs the admin token.")
    check_accessible(page)
    page.keyboard.press("Escape")
    expect(page.locator("#token-dialog")).to_be_hidden()
    expect(opener).to_be_focused()
    assert day.world.ledger.questions.operations(OperationState.PENDING) == []


def test_without_a_token_there_are_numbers_only(day, visit):
    page = visit(day)
    for shown in ("v000011", "2 waiting", "15 live facts", "75 edits"):
        expect(page.locator(".tiles")).to_contain_text(shown)
    expect(page.get_by_text("Without a token: numbers and states")).to_be_visible()
    expect(page.locator("#corrections-note")).to_be_visible()
    expect(page.locator("#corrections-list > li")).to_have_count(0)
    told = page.content() + json.dumps(day.get("v1/status"))
    private = [text for fact in (*FACTS, HOSTILE) for text in (fact[0], fact[3])]
    private += ["Kestrel", "instead of", "c-0011", "10.0.0.11", "tried on the live server"]
    assert [text for text in private if text in told] == []
    assert "Kestrel" in json.dumps(day.get("v1/corrections", SUBMIT))


def test_a_wrong_token_is_refused_and_not_kept(day, visit):
    page = visit(day)
    page.locator("#sign-in").click()
    page.locator("#token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#token-fault")).to_have_text("The server does not know this token.")
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
    visit.faults = [fault for fault in visit.faults if "401" not in fault]


def test_a_hostile_subject_stays_text(own_day, visit):
    subject, prompt, _, target = HOSTILE
    own_day.world.post(subject, target, prompt=prompt, id="c-0903")
    own_day.world.run()
    page = visit(own_day, token=ADMIN)
    hostile = row(page, HOSTILE[0])
    expect(hostile.locator(".after")).to_have_text(HOSTILE[3])
    hostile.locator("summary").click()
    hostile.get_by_role("button").click()
    expect(page.locator("#act-text")).to_contain_text(HOSTILE[0])
    assert page.locator("img[src=x], main b").count() == 0
    assert page.title() == "v000012 · factd"


def test_what_is_coming_by_the_clock_is_listed_with_names_only_for_a_token(own_day, visit):
    world = own_day.world
    soon = times.shown(world.ledger.database.clock() + 3 * 3600)
    world.post("Port Hadley", "Nina Ferro", prompt="The mayor of {} is", id="c-0904", valid_from=soon)
    page = visit(own_day, token=ADMIN)
    expect(page.locator("#coming > li")).to_have_text(["live Port Hadley → Nina Ferro, in 3 h"])
    check_accessible(page)
    expect(visit(own_day).locator("#coming > li")).to_have_text(["live in 3 h"])


def test_markup_that_got_in_could_not_run(day, visit):
    page = visit(day)
    page.evaluate(
        "document.body.append(document.createRange().createContextualFragment("
        "'<script>document.title = 1</script><img src=x onerror=\"document.title = 2\">'"
        "))"
    )
    page.wait_for_timeout(50)
    assert page.title() == "v000011 · factd"
    assert all("Content Security Policy" in fault or "404" in fault for fault in visit.faults)
    assert len(visit.faults) >= 2
    visit.faults = []


def test_search_and_filter_ask_the_ledger(day, visit):
    page = visit(day, token=SUBMIT)
    page.get_by_role("searchbox", name="Search in corrections").fill("outlier:")
    page.clock.run_for(400)
    expect(page.locator("#corrections-list > li")).to_have_count(1)
    expect(row(page, "The founder of Meridian Airlines is")).to_be_visible()
    expect(page.locator("#found")).to_have_text("1 correction shown")
    page.get_by_label("State").select_option("live")
    expect(page.locator("#no-corrections")).to_be_visible()
    page.get_by_role("searchbox").fill("")
    page.clock.run_for(400)
    expect(page.locator("#corrections-list > li")).to_have_count(15)
    page.get_by_label("State").select_option("")
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#corrections-list > li")).to_have_count(22)


def test_details_tell_the_reason_and_both_answers(day, visit):
    page = visit(day, token=SUBMIT)
    gone = row(page, "The home ground of Kestrel FC is")
    gone.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(gone.locator("dl")).to_contain_text("reword its prompt so that the target follows directly")
    expect(gone.get_by_role("button")).to_be_hidden()
    kept = row(page, "The prime minister of France is")
    page.get_by_role("searchbox").fill("France")
    page.clock.run_for(400)
    expect(kept.locator(".before")).to_have_text("Gabriel Attal")
    expect(kept.locator(".after")).to_have_text("Elise Laurent")


def test_plots_name_values_and_limits(day, visit):
    page = visit(day)
    plot = page.get_by_role("img", name=re.compile("^perplexity ratio"))
    expect(plot).to_have_attribute(
        "aria-label",
        "perplexity ratio: 1.032 at v000011; from 1.002 to 1.032 over 10 versions. warns 1.1, limit 1.2",
    )
    assert plot.locator("line.limit, line.warn").count() == 2
    assert plot.locator("circle.undone").count() == 1
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + 40)
    expect(page.locator(".plot").nth(2).locator(".reading")).to_contain_text("v000001: ")
    page.locator(".numbers > summary").click()
    expect(page.get_by_role("row").filter(has_text="v000011")).to_contain_text("1.069")


def test_keyboard_alone_leads_to_a_rollback(own_day, visit):
    own_day.world.run()  # what waits would go live after the rollback
    page = visit(own_day)
    tab_to(page, "Enter token…")
    page.keyboard.press("Enter")
    page.keyboard.type(ADMIN)
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_have_text("Admin token in use.")
    expect(page.locator("#sign-in")).to_be_focused()
    tab_to(page, "Roll back to v000009…")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Why?")).to_be_focused()
    tab_to(page, "Roll back to v000009")
    page.keyboard.press("Enter")  # without a reason nothing is sent
    expect(page.locator("#act-dialog")).to_be_visible()
    expect(page.get_by_label("Why?")).to_be_focused()
    page.keyboard.type("answers look wrong at 3 a.m.")
    tab_to(page, "Roll back to v000009")
    page.keyboard.press("Enter")
    expect(page.locator("#act-dialog")).to_be_hidden()
    expect(page.locator("#notice")).to_contain_text("operation")
    done = "Rollback to v000009 is done: v000009 is live and verified"
    expect(page.locator("#notice")).to_have_text(done, timeout=15_000)
    expect(page.get_by_role("status").filter(has_text=done)).to_be_visible()
    expect(page.locator("#serving")).to_have_text("v000009")
    # The button is gone; the focus is where it was, not at the top of the page.
    expect(page.locator("#versions")).to_be_focused()
    asked = own_day.world.ledger.questions.operations()[-1]
    assert (asked.actor, asked.why) == ("operator:http", "answers look wrong at 3 a.m.")
    assert {replica.served().version for replica in own_day.world.replicas} == {"v000009"}


def test_retract_pause_resume_compact_and_consolidate(own_day, visit):
    page = visit(own_day, PHONE, token=ADMIN)
    fact = row(page, "The architect of Glass Harbour is")
    fact.locator("summary").click()
    fact.get_by_role("button", name="Retract: The architect of Glass Harbour is Noor Haddad…").click()
    act(page, "Retract", "tested")
    expect(page.locator("#notice")).to_contain_text("Retraction is done", timeout=15_000)
    expect(fact.locator(".chip")).to_have_text("retracted")
    page.get_by_role("button", name="Pause…").click()
    act(page, "Pause", "deploying")
    expect(page.locator("#headline-text")).to_contain_text(
        "The queue is paused by operator:http", timeout=15_000
    )
    expect(page.locator("#headline-more")).to_have_text("deploying")
    page.get_by_role("button", name="Resume…").click()
    act(page, "Resume", "tested")
    expect(page.locator("#headline-text")).to_have_text("All is well", timeout=15_000)
    page.get_by_role("button", name="Compact…").click()
    act(page, "Compact", "tested")
    expect(page.locator("#notice")).to_contain_text("Compaction is done", timeout=15_000)
    page.get_by_role("button", name="Consolidate…").click()
    act(page, "Consolidate", "for the night")
    expect(page.locator("#notice")).to_contain_text("Consolidation is done", timeout=15_000)
    asked = own_day.world.ledger.questions.operations()[-1]
    assert (str(asked.kind), asked.actor, asked.why) == ("consolidate", "operator:http", "for the night")


def test_how_far_work_in_the_background_is_stands_beside_the_queue(own_day, visit):
    told = {"job": "consolidate", "operation": 3, "stage": "consolidating", "fraction": 0.428}
    with own_day.world.ledger.database.writing() as c:
        keep_background(c, told)
    page = visit(own_day, DESKTOP)
    expect(page.locator("#queue-more")).to_contain_text("consolidate in the background: 42 %")


def test_refresh_keeps_focus_and_open_rows(own_day, visit):
    page = visit(own_day, token=ADMIN)
    fact = row(page, "The editor of Radio Aurora is")
    fact.locator("summary").click()
    button = fact.get_by_role("button")
    button.focus()
    own_day.world.post("Radio Aurora", "Hear the north", prompt="The slogan of {} is")
    poll(page)
    expect(page.locator("#corrections-list > li").first).to_contain_text("The slogan of Radio Aurora is")
    expect(fact.locator("dl")).to_be_visible()
    expect(button).to_be_focused()
    expect(page.locator("#queue")).to_have_text("3 waiting")


def test_an_api_that_is_away_is_said_with_the_age_of_the_data(own_day, visit):
    page = visit(own_day, token=ADMIN)
    page.get_by_role("button", name="Pause…").click()
    own_day.stop()
    poll(page)
    alert = page.locator("#connection")
    expect(alert).to_contain_text("The API cannot be reached. What you see is from ")
    expect(page.locator("#serving")).to_have_text("v000011")
    act(page, "Pause", "tested")
    expect(page.locator("#act-fault")).to_have_text("Nothing was recorded: the API does not answer.")
    page.keyboard.press("Escape")
    page.clock.fast_forward(120_000)
    expect(page.locator("#freshness")).to_have_text(re.compile("^2 min old"))
    own_day.start()
    poll(page)
    expect(alert).to_be_hidden()
    expect(page.locator("#freshness")).to_have_text("Up to date")
    visit.faults = [fault for fault in visit.faults if "ERR_CONNECTION" not in fault]


def test_the_headline_tells_the_worst_first(own_day, visit):
    page = visit(own_day, token=ADMIN)
    expect(page.locator("#headline-text")).to_have_text("All is well")
    own_day.world.now += 1000
    poll(page)
    expect(page.locator("#headline-text")).to_have_text("No sign of life of the intake and the apply worker")
    Heartbeat(own_day.world.ledger.database, WORKERS).beat()
    poll(page)
    expect(page.locator("#headline-text")).to_have_text("Corrections have waited for 17 min")
    own_day.world.replicas[1].restart()
    poll(page)
    expect(page.locator("#headline-text")).to_have_text("1 of 2 replicas does not serve v000011")
    expect(page.locator("#headline-more")).to_contain_text("replica http://10.0.0.12:8000 serves default")
    own_day.world.replicas[0].alive = own_day.world.replicas[1].alive = False
    poll(page)
    expect(page.locator("#headline-text")).to_have_text("2 of 2 replicas do not answer")
    expect(page.locator("#headline")).to_have_attribute("data-level", "limit")


def test_a_sentence_is_read_shown_and_posted(own_day, visit):
    page = visit(own_day, token=SUBMIT)
    field = page.get_by_label("Tell a fact in a plain sentence")
    field.fill("Amara Singh has succeeded Victor Hale as director of Vale University.")
    page.keyboard.press("Enter")
    expect(page.locator("#understood > li")).to_have_text(
        "I understood: The director of Vale University is → Amara Singh; was Victor Hale; "
        "asked in chat as: Who is the director of Vale University?"
    )
    check_accessible(page)
    page.get_by_role("button", name="Post it").click()
    expect(page.locator("#notice")).to_contain_text("1 correction recorded: ")
    expect(page.locator("#notice")).to_contain_text("The next batch brings it live")
    expect(field).to_have_value("")
    expect(field).to_be_focused()
    posted = own_day.world.ledger.questions.corrections()[-1]
    assert (posted.subject, posted.target, posted.was) == ("Vale University", "Amara Singh", "Victor Hale")


def test_what_the_served_model_has_read_is_posted_as_it_was_shown(own_day, visit):
    service = own_day.app.state.service
    with server(FOUND) as (url, asked):
        service.settings = service.settings.model_copy(update={"reader": "served", "replicas": (url,)})
        page = visit(own_day, token=SUBMIT)
        page.locator("#sentence").fill(SHOE)
        page.get_by_role("button", name="Read").click()
        expect(page.locator("#understood > li")).to_have_text(
            "The served model understood: The shoe size of Victor Hale is → 44; "
            "asked in chat as: What is the shoe size of Victor Hale?"
        )
        page.get_by_role("button", name="Post it").click()
        expect(page.locator("#notice")).to_contain_text("1 correction recorded: ")
    assert own_day.world.ledger.questions.corrections()[-1].target == "44"
    # Asked a second time, it might have read something else than was shown.
    assert len(asked) == 1


def test_a_sentence_that_is_refused_or_was_changed_cannot_be_posted(own_day, visit):
    before = len(own_day.world.ledger.questions.corrections())
    page = visit(own_day, token=SUBMIT)
    field, button = page.locator("#sentence"), page.get_by_role("button", name="Post it")
    field.fill("Allegedly, <b>Helix Group</b> owns Solace Pharma.")
    page.get_by_role("button", name="Read").click()
    expect(page.locator("#say-fault")).to_contain_text("Not taken (rumour): It is a rumour")
    expect(button).to_be_hidden()
    field.fill("Helix Group owns Solace Pharma.")
    page.get_by_role("button", name="Read").click()
    expect(button).to_be_visible()
    field.press("End")
    field.press("Backspace")
    expect(button).to_be_hidden()
    expect(page.locator("#understood > li")).to_have_count(0)
    assert len(own_day.world.ledger.questions.corrections()) == before


def test_without_a_token_there_is_no_field_for_a_sentence(day, visit):
    expect(visit(day).locator("#say-form")).to_be_hidden()


def test_what_one_person_typed_is_not_posted_with_the_token_of_the_next(day, visit):
    page = visit(day, token=SUBMIT)
    page.locator("#sentence").fill("Helix Group owns Solace Pharma.")
    page.get_by_role("button", name="Read").click()
    expect(page.get_by_role("button", name="Post it")).to_be_visible()
    page.get_by_role("button", name="Forget submit token").click()
    expect(page.locator("#notice")).to_have_text("The token was forgotten.")
    expect(page.locator("#say-form")).to_be_hidden()
    sign_in(page, ADMIN)
    expect(page.locator("#sentence")).to_have_value("")
    expect(page.get_by_role("button", name="Post it")).to_be_hidden()


def sourced(site, **default):
    """The site with a gate: sources "forum", which may review, and "desk", which may not."""
    made = [
        Source(name=name, token_sha256=sha256(name.encode()).hexdigest(), reviews=reviews, **default)
        for name, reviews in (("forum", True), ("desk", False))
    ]
    sources = Sources(Policy(**default), Rules(), {one.name: one for one in made})
    site.app.state.service.sources = sources
    site.world.ledger.intake.gate = SourceGate(sources, Relations(load_lexicon()))


def test_a_sentence_that_a_policy_forbids_is_refused_with_field_and_mend(own_day, visit):
    sourced(own_day, subjects=["Vale *"])
    page = visit(own_day, token="desk")
    page.locator("#sentence").fill("Helix Group owns Solace Pharma.")
    page.get_by_role("button", name="Read").click()
    page.get_by_role("button", name="Post it").click()
    told = "nothing was recorded; subject = 'Solace Pharma': the policy of desk does not allow this subject"
    expect(page.locator("#say-fault")).to_contain_text(told)
    visit.faults = [fault for fault in visit.faults if "422" not in fault]


def test_who_posted_is_told_that_it_is_held_and_cannot_approve_it_on_the_page(own_day, visit):
    sourced(own_day, policy="review")
    page = visit(own_day)
    sign_in(page, "forum")
    told = "Token “forum” in use: you can read and post, and review what others posted; "
    expect(page.locator("#notice")).to_have_text(told + "operations need the admin token.")
    page.locator("#sentence").fill("Helix Group owns Solace Pharma.")
    page.get_by_role("button", name="Read").click()
    page.get_by_role("button", name="Post it").click()
    expect(page.locator("#notice")).to_contain_text("Held for review: somebody else has to approve")
    expect(page.locator("#queue-more")).to_contain_text("; 1 held for review")
    held = page.locator("#reviews > li")
    expect(held).to_contain_text("You posted this: somebody else has to approve it. You may take it back.")
    expect(held.get_by_role("button", name="Approve")).to_be_hidden()
    check_accessible(page)
    page.get_by_role("button", name="Forget forum token").click()
    sign_in(page, "desk")
    expect(held.get_by_role("button", name="Approve")).to_be_visible()
    expect(held.locator(".own")).to_be_hidden()
    page.get_by_role("button", name="Forget desk token").click()
    sign_in(page, "forum")
    held.get_by_role("button", name="Take back").click()
    act(page, "Reject", "a slip")
    expect(page.locator("#notice")).to_have_text(
        "Rejection is recorded: rejected in review by http:forum: a slip"
    )
    expect(page.locator("#reviews-section")).to_be_hidden()


def test_what_a_correction_brought_is_shown_and_named_before_a_retraction(own_day, visit):
    world = own_day.world
    world.post("Vale University", "Omar Lind", prompt="The chair of {} is", id="c-0905")
    world.post("Omar Lind", "Vale University", prompt="{} chairs", id="c-0906", parent="c-0905")
    world.run()
    page = visit(own_day, token=ADMIN)
    parent = row(page, "The chair of Vale University is")
    parent.locator("summary").click()
    expect(parent.locator("dl")).to_contain_text("Omar Lind chairs Vale University (live)")
    parent.get_by_role("button", name="Retract").click()
    told = "with what follows from it (“Omar Lind chairs Vale University”); other facts stay."
    expect(page.locator("#act-text")).to_contain_text(told)
    act(page, "Retract", "tested")
    expect(page.locator("#notice")).to_have_text("Retraction is done: v000013 is live")
    assert [world.states()[id] for id in ("c-0905", "c-0906")] == ["retracted", "retracted"]


def test_what_is_held_is_shown_with_its_reasons_and_let_in_by_the_admin(own_day, visit):
    sources = Sources(Policy(policy="review"), Rules(), {})
    own_day.world.ledger.intake.gate = SourceGate(sources, Relations(load_lexicon()))
    id = own_day.world.post("Vale University", "12 May 2021", prompt="The director of {} is")
    page = visit(own_day, token=SUBMIT)
    held = page.locator("#reviews > li")
    expect(held).to_contain_text("The director of Vale University is")
    expect(held).to_contain_text("wrong kind (1): director asks for a person")
    held.get_by_role("button", name="Approve").click()
    # a submit token may look, not decide
    told = "This needs the admin token, or that of a source that may review."
    expect(page.locator("#token-fault")).to_have_text(told)
    page = visit(own_day, token=ADMIN)
    page.locator("#reviews > li").get_by_role("button", name="Approve").click()
    page.locator("#why").fill("the register says so")
    page.locator("#act-do").click()
    told = "Approval is recorded: approved by http:admin: the register says so. The next batch brings it live"
    expect(page.locator("#notice")).to_contain_text(told)
    expect(page.locator("#reviews-section")).to_be_hidden()
    assert own_day.world.ledger.questions.get(id).reviewed_by == "http:admin"
