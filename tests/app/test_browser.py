"""The report in a browser: no error in the console, all pictures drawn, nothing wider than a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BINARIES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def need(found: Any, reason: str) -> Any:
    if found:
        return found
    if os.environ.get("PATHLINE_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and PATHLINE_REQUIRE_BROWSER=1 asks for it")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary = need(next(filter(None, map(shutil.which, BINARIES)), None), "no Chromium is installed")
    driver = need(shutil.which("chromedriver"), "no chromedriver is installed")
    try:
        from selenium import webdriver
    except ImportError:
        need(None, "selenium is not installed")
        raise
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(params=["finished", "stopped"])
def report(request: pytest.FixtureRequest, pathline: Callable[..., Any], workplace: Path) -> Path:
    words = ["--fail-at", "3"] if request.param == "stopped" else []
    pathline("run", "wave", "--preset", "tiny", "--steps", "150", *words)
    return (workplace / "runs" / "latest" / "report.html").resolve()


def show(browser: Any, report: Path, width: int, mode: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": mode}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(report.as_uri())


def brightness(colour: str) -> float:
    parts = [float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(parts) / len(parts)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1100])
def test_the_report_opens_without_an_error_and_with_all_its_pictures(browser: Any, report: Path, width: int, mode: str):
    browser.get_log("browser")
    show(browser, report, width, mode)
    assert browser.get_log("browser") == []
    finished = "incomplete" not in browser.execute_script("return document.body.innerText")
    widths = browser.execute_script("return [...document.images].map(image => image.complete ? image.naturalWidth : 0)")
    assert len(widths) == (1 if finished else 0)
    assert all(size > 0 for size in widths)
    lines = browser.execute_script("return [...document.querySelectorAll('.chart polyline')].map(line => line.getTotalLength())")
    assert len(lines) >= (4 if finished else 2)
    assert all(length > 100 for length in lines)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ink, paper = browser.execute_script("const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]")
    assert (brightness(ink) > brightness(paper)) == (mode == "dark")
    assert abs(brightness(ink) - brightness(paper)) > 150


def test_the_report_asks_the_network_for_nothing(browser: Any, report: Path):
    browser.get_log("performance")
    show(browser, report, 390, "light")
    asked = [entry["message"] for entry in browser.get_log("performance") if "Network.requestWillBeSent" in entry["message"]]
    assert asked
    assert not [message for message in asked if "http://" in message.split('"url":')[1][:12] or "https://" in message.split('"url":')[1][:12]]
    text = report.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>no html</b>" not in text
