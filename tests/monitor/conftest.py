"""One browser for all tests of pages; without Chromium they are skipped, with a word."""

from collections.abc import Iterator

import pytest

from tests.monitor.browser import CHROMIUM, DRIVER, Browser, browsing


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    with browsing() as opened:
        yield opened
