"""A real headless Chromium for tests: pages are opened in it as a person opens them."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
#: Chromium asks its maker for nothing, and runs without a user's profile.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
)
_FLAGS += ("--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--force-prefers-reduced-motion")


class Browser:
    """A window, and what tests do with it."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str, *, width: int = 1366, height: int = 900) -> None:
        """Opens a page and waits until its charts are drawn."""
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.driver.set_window_size(width, height)
        self.driver.get(url)
        self.wait_for("return document.documentElement.dataset.ready")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, script: str) -> Any:
        """The first true answer of a script."""
        deadline = time.monotonic() + 60
        while not (answer := self.run(script)):
            assert time.monotonic() < deadline, f"never true: {script}\n{self.problems()}"
            time.sleep(0.05)
        return answer

    def problems(self) -> list[str]:
        """What the console has said since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def asked(self) -> set[str]:
        """Addresses that the page has asked for since it was opened, but for what stands in it."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = (event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent")
        return {url for url in urls if not url.startswith(("data:", "chrome:", "chrome-untrusted:"))}

    def chart(self, measure: str) -> WebElement:
        return self.driver.find_element("css selector", f'.chart[data-measure="{measure}"]')

    def over(self, measure: str, share: float) -> ActionChains:
        """A pointer over a chart, at a share of its width between the axes."""
        area = self.chart(measure).find_element("css selector", ".u-over")
        self.run("arguments[0].scrollIntoView({block: 'center'})", area)
        width = area.size["width"]
        return ActionChains(self.driver, duration=20).move_to_element_with_offset(area, round((share - 0.5) * width), 0)

    def readout(self, measure: str) -> str:
        return self.chart(measure).find_element("css selector", ".readout").text

    def text(self, selector: str) -> str:
        return self.driver.find_element("css selector", selector).text


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with it."""
    with tempfile.TemporaryDirectory(prefix="profile-") as profile:
        options = ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = Chrome(options=options, service=Service(DRIVER, log_output=os.devnull))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
