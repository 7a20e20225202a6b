"""What a person sees: Chromium at the address that the platform gives a server, and the runs in it.

The runs are written by a training job straight to the store, with no server up, as the reference shows for
`mode: ui`; and through a protected server by a client with a token.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from dev import programs
from local_platform import client

from .harness import API, LONG, Flow, Job, Platform, call

pytestmark = pytest.mark.e2e


class Browser:
    """Chromium without a window, with a profile and a download folder of its own."""

    def __init__(self, folder: Path) -> None:
        browser, driver = programs.browser() or pytest.fail("no browser: bash dev/setup.sh installs one")
        if programs.is_snap(browser):  # it sees no /tmp
            own = Path.home() / "snap/chromium/common"
            own.mkdir(parents=True, exist_ok=True)
            self.own = tempfile.TemporaryDirectory(dir=own)
            folder = Path(self.own.name)
        self.shots, self.downloads = folder, folder / "downloads"
        self.downloads.mkdir()
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for word in (
            *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic"),
            *("no-first-run", "no-proxy-server", "disable-background-networking", "disable-component-update"),
            *("disable-sync", "window-size=1500,1000", f"user-data-dir={folder}/profile"),
        ):
            options.add_argument(f"--{word}")
        options.add_experimental_option("prefs", {"download.default_directory": str(self.downloads)})
        self.driver = webdriver.Chrome(options, Service(driver))

    def open(self, url: str) -> None:
        """Load a page, also when only what is behind the # differs from the present one."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def see(self, what: str) -> WebElement:
        """Wait until what an XPath says is to be seen, and return it."""
        deadline = time.monotonic() + LONG
        while True:
            with suppress(StaleElementReferenceException):  # the page has just been redrawn
                found = self.driver.find_elements(By.XPATH, what)
                shown = [element for element in found if element.is_displayed()]
                if shown:
                    return shown[0]
            if time.monotonic() > deadline:
                self.driver.save_screenshot(f"{self.shots}/missing.png")
                pytest.fail(f"{what} is not on {self.driver.current_url}: see {self.shots}/missing.png")
            time.sleep(0.1)

    def keep(self, name: str) -> None:
        """Take a screenshot into the test's folder."""
        assert self.driver.save_screenshot(f"{self.shots}/{name}.png")

    def downloaded(self, name: str) -> bytes:
        """Wait for a download and return what it holds."""
        deadline = time.monotonic() + LONG
        while not (self.downloads / name).exists():
            assert time.monotonic() < deadline, list(self.downloads.iterdir())
            time.sleep(0.1)
        return (self.downloads / name).read_bytes()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path)
    yield made
    made.driver.quit()


@pytest.fixture(scope="module")
def servers(platform: Platform, flow: Callable[..., Flow]) -> Iterator[dict[str, Future[Job]]]:
    """A server in ui mode after a training job, and a protected one with a run in it."""

    def shown() -> Job:
        made = flow("shown", "mode-1", "mode-2", "extra_params-1")
        trained = made.run("train")
        assert trained.described["status"] == "succeeded", trained.log
        assert platform.api("GET", "jobs?name=shown-mlflow-server")["jobs"] == []
        return made.run().until_serving()

    def protected() -> Job:
        job = flow("protected", "http_auth-1", "extra_params-1").run()
        job.token = platform.login.token
        job.until_serving().log_run()
        return job

    with ThreadPoolExecutor(2) as pool:
        yield {"shown": pool.submit(shown), "protected": pool.submit(protected)}


def look_around(browser: Browser, url: str, experiment: str, artifact: tuple[str, ...]) -> None:
    """Find the experiment, its run, the plot of its metric and its artifact, as a person does."""
    browser.open(f"{url}/#/experiments")
    browser.see(f"//a[normalize-space()='{experiment}']")
    browser.keep("experiments")
    # Release 3.17 opens an experiment at its view for language models; runs are in the one for training.
    browser.open(f"{url}/#/experiments/1/runs?workflowType=machine_learning")
    run = browser.see("//a[contains(@href, '/experiments/1/runs/')]")
    browser.keep("runs")
    address = run.get_attribute("href")
    run.click()
    browser.see("//*[normalize-space()='accuracy']")
    browser.keep("run")
    browser.open(f"{address}/model-metrics")
    browser.see(
        "//*[contains(@class, 'js-plotly-plot')]//*[local-name()='path' and contains(@class, 'point') "
        "or contains(@class, 'js-line')]"
    )
    browser.keep("metric")
    browser.open(f"{address}/artifacts")
    for name in artifact:
        browser.see(f"//*[text()[normalize-space()='{name}']]").click()
    browser.see("//button[contains(@data-component-id, 'artifactview')]").click()
    browser.keep("artifact")


def test_ui_mode_shows_what_a_training_job_wrote(servers: dict[str, Future[Job]], browser: Browser) -> None:
    job = servers["shown"].result()
    [run] = job.ask("POST", "/runs/search", {"experiment_ids": ["1"]})["runs"]
    assert run["data"]["metrics"][0]["value"] == 1 - 0.5**9
    query = f"run_id={run['info']['run_id']}"
    assert [file["path"] for file in job.ask("GET", f"/artifacts/list?{query}")["files"]] == ["notes.txt"]
    look_around(browser, job.url, "iris", ("notes.txt",))
    assert browser.downloaded("notes.txt") == b"petal length matters most"


def test_a_protected_server_opens_by_its_link_once(
    servers: dict[str, Future[Job]], browser: Browser, platform: Platform
) -> None:
    job = servers["protected"].result()
    assert call("GET", f"{job.url}{API}/experiments/search?max_results=1")[0] == 401
    browser.open(job.url)
    browser.see("//h1[text()='This server is protected']")
    browser.keep("refused")
    link = client.browser_link(platform.login, job.url)
    browser.open(link)
    browser.see("//a[contains(@href, '#/experiments')]")
    look_around(browser, job.url, "größe", ("notes", "a b.txt"))
    assert browser.downloaded("a b.txt") == "kept ✓".encode()
    assert platform.login.token not in browser.driver.page_source
    browser.driver.delete_all_cookies()
    browser.open(link)
    browser.see("//h1[text()='This server is protected']")
