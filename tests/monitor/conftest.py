"""One browser for all tests of pages; without Chromium they are skipped, with a word."""

from collections.abc import Iterator

import pytest

from tests.monitor.browser import CHROMIUM, DRIVER, Browser, browsing


@pytest.fixture(scope="session")
def started_browser() -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    with browsing() as started:
        yield started


@pytest.fixture
def browser(started_browser: Browser) -> Iterator[Browser]:
    """With no page of another test, which would go on asking for its news."""
    yield started_browser
    started_browser.driver.get("about:blank")
