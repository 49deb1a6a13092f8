"""A real Chromium, and what every test of the status page does with it."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.programs import program

#: A busy machine is no counterexample: an expectation has so long to come true, milliseconds.
PATIENCE_MS = 30_000


@contextmanager
def chromium() -> Iterator[Browser]:
    path = program("chromium", "chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        # Containers of CI run as root, where Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def sign_in(page: Page, token: str) -> None:
    page.locator("#sign-in").click()
    page.locator("#token").fill(token)
    page.keyboard.press("Enter")
    expect(page.locator("#token-dialog")).to_be_hidden()


def act(page: Page, verb: str, why: str) -> None:
    """Gives the open dialog a reason and presses its button."""
    page.get_by_label("Why?").fill(why)
    page.locator("#act-dialog").get_by_role("button", name=verb).click()
