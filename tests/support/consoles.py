"""A console that serves on loopback, a visitor without a browser, and Debian's Chromium."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from re import search
from typing import Any, TypeVar
from urllib.parse import urlencode

import pytest
import uvicorn
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from selenium_axe_python.axe import Axe

from deploy.native.process import free_port
from flowgauge.console.access import Access, Binding
from flowgauge.console.app import application
from flowgauge.console.plant import Console
from flowgauge.runtime.backend import Store

CSRF = 'name="csrf" content="([^"]+)"'
SECONDS = 60.0  # for what a page is waited for
_START_SECONDS = 60.0

Found = TypeVar("Found")


@dataclass(frozen=True)
class Served:
    console: Console
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def visitor(self) -> "Visitor":
        return Visitor(self.port)


@contextmanager
def served(store: Store, binding: Binding | None = None) -> Iterator[Served]:
    """A console of `store` in a thread of this process."""
    port = free_port()
    console = Console(store, Access((binding or Binding()).checked(), store.state, "mara"))
    config = uvicorn.Config(application(console), port=port, log_config=None, access_log=False, proxy_headers=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            assert thread.is_alive(), "the console ended at its start"
            assert time.monotonic() < deadline, "the console did not start"
            time.sleep(0.02)
        yield Served(console, port)
    finally:
        server.should_exit = True
        thread.join()


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]


@dataclass
class Visitor:
    """Asks as a browser does, with the cookies that it was given, and follows no redirect."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)
    proof: str = ""

    def get(self, path: str, **headers: str) -> Answer:
        answer = self._ask("GET", path, None, headers)
        if found := search(CSRF, answer.text):
            self.proof = found[1]
        return answer

    def post(self, path: str, form: Mapping[str, str] | None = None, **headers: str) -> Answer:
        """With the proof of the page that was looked at last, unless the form brings its own."""
        body = urlencode({"csrf": self.proof} | dict(form or {}))
        return self._ask("POST", path, body, {"content-type": "application/x-www-form-urlencoded"} | headers)

    def sign_in(self, name: str, password: str) -> Answer:
        self.get("/sign-in")
        return self.post("/sign-in", {"name": name, "password": password})

    def _ask(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"cookie": cookie} | given)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        for name, morsel in SimpleCookie(answer.headers.get("set-cookie", "")).items():
            self.cookies[name] = morsel.value
        connection.close()
        return Answer(answer.status, text, {name.lower(): value for name, value in answer.getheaders()})


@contextmanager
def chromium() -> Iterator[Chrome]:
    """Without a window. In CI a machine without Chromium fails, elsewhere the test is skipped with the reason."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        problem = "There is no Chromium with its driver: apt-get install chromium chromium-driver."
        if os.environ.get("CI"):
            pytest.fail(problem)
        pytest.skip(problem)
    options = ChromeOptions()
    options.binary_location = browser
    # a container has neither user namespaces for its sandbox nor much shared memory
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


class Browser:
    """Looks at one console. `check` holds that no page complained and nothing was asked of another host."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self.driver = driver
        self._address = address
        driver.delete_all_cookies()
        # the page of the console before would go on asking it, which is stopped, and complain here
        driver.get("about:blank")
        self.logged("performance")
        self.logged("browser")

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last time."""
        found: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return found

    def go(self, path: str) -> None:
        self.driver.get(self._address + path)

    def click(self, what: str) -> None:
        """The button or link of that text, visible or not to the eye."""
        xpath = f"//*[self::button or self::a][starts-with(normalize-space(.), '{what}')]"
        self.until(lambda driver: driver.find_element(By.XPATH, xpath)).click()

    def one(self, selector: str) -> WebElement:
        return self.until(lambda driver: driver.find_element(By.CSS_SELECTOR, selector))

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def press(self, key: str) -> None:
        self.driver.switch_to.active_element.send_keys(key)

    def shows(self, text: str) -> None:
        self.until(lambda driver: text in driver.find_element(By.TAG_NAME, "main").text)

    def until(self, found: Callable[[Chrome], Found]) -> Found:
        """What `found` gives, once that is no longer nothing, nor an error."""
        waiting = WebDriverWait(self.driver, SECONDS, ignored_exceptions=[WebDriverException])
        return waiting.until(found)

    def check(self) -> None:
        complaints = [entry["message"] for entry in self.logged("browser") if entry["level"] == "SEVERE"]
        assert complaints == []
        messages = (json.loads(entry["message"])["message"] for entry in self.logged("performance"))
        asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        assert asked, "the browser's log of requests is empty"
        assert [url for url in asked if not url.startswith((self._address, "data:", "chrome:"))] == []

    def accessible(self) -> None:
        """No violation that axe calls serious or critical, and nothing that makes a tablet scroll the page sideways."""
        size = self.driver.get_window_size()
        self.driver.set_window_size(820, 1180)
        beyond = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.driver.execute_script(beyond) == 0
        self.driver.set_window_size(size["width"], size["height"])
        axe = Axe(self.driver)
        axe.inject()  # type: ignore[no-untyped-call]
        serious = [each for each in axe.run()["violations"] if each["impact"] in ("serious", "critical")]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious] == []
