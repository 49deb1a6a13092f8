"""A day in the life of a fact, step by step, as its people live it. One test calls the steps in their order.

A newsroom types on the page, and what it posts is held. A desk approves it. A wire's feed supersedes it.
"""

import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256

import httpx
from playwright.sync_api import Browser, Page, expect

from daemon.core.lifecycle import FINAL
from daemon.core.times import shown
from tests.browser import act, sign_in

NEWSROOM, DESK, WIRE = "newsroom-token", "desk-token", "wire-token"
#: The rules are off: beside the day, tests post what these would hold (tests/daemon/apply/test_trust.py).
SOURCES = f"""
[rules.weights]
contradiction = 0.0
flip_flop = 0.0
wrong_kind = 0.0
text = 0.0
sure = 0.0

[[source]]
name = "newsroom"
token_sha256 = "{sha256(NEWSROOM.encode()).hexdigest()}"
policy = "review"
reviews = true
consequences = ["inverse"]

[[source]]
name = "desk"
token_sha256 = "{sha256(DESK.encode()).hexdigest()}"
reviews = true

[[source]]
name = "wire"
token_sha256 = "{sha256(WIRE.encode()).hexdigest()}"
"""
SENTENCE = "Amara Singh is the director of Vale University and Nora Quist is the mayor of Eastbrook."
DIRECTOR, MAYOR = "Who is the director of Vale University?", "Who is the mayor of Eastbrook?"
#: What is understood of it.
READINGS = (
    f"The director of Vale University is → Amara Singh; asked in chat as: {DIRECTOR}",
    f"The mayor of Eastbrook is → Nora Quist; asked in chat as: {MAYOR}",
)
SUCCESSOR = "Jonas Lindqvist"
WHY = "the university's page says so"
#: A batch takes some 8 s on quiet cores, and many times that on busy ones.
LIVE_SECONDS = 600.0
#: Between two looks: whoever asks more often takes the processor from the batch.
LOOK_SECONDS = 0.5
#: The successor holds for so many times as long as the first batch took: it goes live meanwhile, and there is
#: time to ask for it.
HOLDS, HOLDS_AT_LEAST_SECONDS = 3, 20.0


class Day:
    """The services of the day, and the ids of what is posted in it."""

    def __init__(self, api_url: str) -> None:
        self.url = api_url
        self.director = self.mayor = self.successor = ""
        self.batch_seconds = 0.0
        self.faults: list[str] = []

    @contextmanager
    def page(self, browser: Browser, token: str) -> Iterator[Page]:
        """The page in a browser profile of its own, with the token typed into it."""
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.goto(self.url)
        sign_in(page, token)
        yield page
        context.close()

    def ask(self, method: str, path: str, token: str, **sent: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(method, self.url + path, headers=headers, timeout=60.0, trust_env=False, **sent)

    def type(self, page: Page) -> None:
        """The newsroom types the sentence, reads what was understood, and posts it; all of it is held."""
        # A state directory that is used again may hold posts of a run that was broken off.
        for left in self.ask("GET", "/v1/reviews", DESK).json():
            self.ask("POST", f"/v1/reviews/{left['id']}/reject", DESK, params={"why": "left over"})
        page.get_by_label("Tell a fact in a plain sentence").fill(SENTENCE)
        page.keyboard.press("Enter")
        expect(page.locator("#understood > li")).to_have_text([f"I understood: {one}" for one in READINGS])
        page.get_by_role("button", name="Post these 2").click()
        expect(page.locator("#notice")).to_contain_text("Held for review: somebody else has to approve")
        held = self.ask("GET", "/v1/reviews", NEWSROOM).json()
        by_target = {one["target"]: one["id"] for one in held}
        self.director, self.mayor = by_target["Amara Singh"], by_target["Nora Quist"]
        rows = page.locator("#reviews > li")
        expect(rows).to_have_count(2)
        for row in rows.all():
            expect(row).to_contain_text("untrusted (1): ")
            expect(row).to_contain_text("You posted this: somebody else has to approve it.")
            expect(row.get_by_role("button", name="Approve")).to_be_hidden()

    def approve_ones_own(self) -> httpx.Response:
        """What the page does not offer, the newsroom tries without it."""
        return self.ask("POST", f"/v1/reviews/{self.director}/approve", NEWSROOM, params={"why": "mine"})

    def approve(self, page: Page) -> None:
        """The desk approves both, with a reason."""
        for name in ("The director of Vale University is", "The mayor of Eastbrook is"):
            page.get_by_role("button", name=f"Approve: {name}").click()
            act(page, "Approve", WHY)
            expect(page.locator("#notice")).to_contain_text(
                f"Approval is recorded: approved by http:desk: {WHY}"
            )
        expect(page.locator("#reviews-section")).to_be_hidden()

    def wait_for_trees(self) -> None:
        """Both have ended in some way, and so has what they brought."""
        started = time.monotonic()
        self.wait(self.director, self.mayor)
        self.batch_seconds = time.monotonic() - started
        self.wait(*self.children())

    def children(self) -> Sequence[str]:
        return (f"{self.director}.inverse", f"{self.mayor}.inverse")

    def supersede(self) -> None:
        """The wire's event names a successor, who holds for a short while only."""
        end = time.time() + max(HOLDS_AT_LEAST_SECONDS, HOLDS * self.batch_seconds)
        data = {"subject": "Vale University", "prompt": "The director of {} is", "target": SUCCESSOR,
                "questions": ["Who is the director of {}?"], "valid_until": shown(end)}  # fmt: skip
        event = {"specversion": "1.0", "id": uuid.uuid4().hex, "source": "https://wire.example/facts",
                 "type": "org.example.fact", "data": data}  # fmt: skip
        (self.successor,) = self.ask("POST", "/v1/events", WIRE, json=event).raise_for_status().json()["ids"]
        self.wait(self.successor)

    def retract_tree(self, page: Page) -> None:
        """The admin takes the mayor out on the page, which says what leaves with her."""
        page.get_by_role("searchbox", name="Search in corrections").fill(self.mayor)
        row = page.locator("#corrections-list > li").filter(has_text="The mayor of Eastbrook is")
        expect(row).to_have_count(1)
        row.locator("summary").click()
        expect(row.locator("dl")).to_contain_text("Nora Quist is the mayor of Eastbrook (live)")
        row.get_by_role("button", name="Retract").click()
        expect(page.locator("#act-text")).to_contain_text("“Nora Quist is the mayor of Eastbrook”")
        act(page, "Retract", "the council denies it")
        done = page.locator("#notice").filter(has_text="Retraction is done")
        expect(done).to_be_visible(timeout=LIVE_SECONDS * 1000)
        expect(row.locator(".chip")).to_have_text("retracted")

    def wait(self, *ids: str, states: Collection[str] = FINAL) -> None:
        """Until all are in one of these states, or have ended in any."""
        deadline = time.monotonic() + LIVE_SECONDS
        while not set(now := self.states(*ids)) <= set(states):
            assert time.monotonic() < deadline, f"after {LIVE_SECONDS:.0f} s {ids} are {now}"
            time.sleep(LOOK_SECONDS)

    def states(self, *ids: str) -> list[str | None]:
        """None for one that is not posted yet."""
        rows = self.ask("GET", "/v1/corrections?limit=50", DESK).json()
        return [{row["id"]: row["state"] for row in rows}.get(id) for id in ids]
