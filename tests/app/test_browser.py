"""The report in a browser: no error in the console, all pictures drawn, nothing wider than a phone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.app.chromium import Chromium

pytestmark = pytest.mark.browser


def need(found: Any, reason: str) -> Any:
    if found:
        return found
    if os.environ.get("PATHLINE_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and PATHLINE_REQUIRE_BROWSER=1 asks for it")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    need(sys.platform != "win32", "pipes to the browser have other numbers on Windows")
    from tests.app.chromium import Chromium, find

    binary = need(find(), "no Chromium is installed")
    with Chromium(binary, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture(params=["finished", "stopped"])
def report(request: pytest.FixtureRequest, pathline: Callable[..., Any], workplace: Path) -> Path:
    words = ["--fail-at", "3"] if request.param == "stopped" else []
    pathline("run", "wave", "--preset", "tiny", "--steps", "150", *words)
    return (workplace / "runs" / "latest" / "report.html").resolve()


def show(browser: Chromium, report: Path, width: int, mode: str) -> None:
    browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}])
    browser("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(report)


def complaints(browser: Chromium) -> list[dict[str, Any]]:
    return browser.happened(
        "Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed"
    )


def brightness(colour: str) -> float:
    parts = [float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(parts) / len(parts)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1100])
def test_the_report_opens_without_an_error_and_with_all_its_pictures(
    browser: Chromium, report: Path, width: int, mode: str
):
    show(browser, report, width, mode)
    assert complaints(browser) == []
    finished = "incomplete" not in browser.evaluate("document.body.innerText")
    widths = browser.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
    assert len(widths) == (1 if finished else 0)
    assert all(size > 0 for size in widths)
    lines = browser.evaluate("[...document.querySelectorAll('.chart polyline')].map(line => line.getTotalLength())")
    assert len(lines) == 3
    assert all(length > 10 for length in lines)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = browser.evaluate("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
    assert (brightness(ink) > brightness(paper)) == (mode == "dark")
    assert abs(brightness(ink) - brightness(paper)) > 150


def test_the_report_asks_the_network_for_nothing(browser: Chromium, report: Path):
    show(browser, report, 390, "light")
    asked = [event["params"]["request"]["url"] for event in browser.happened("Network.requestWillBeSent")]
    assert report.as_uri() in asked
    assert all(url.startswith(("file:", "data:")) for url in asked)
    text = report.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>no html</b>" not in text


def test_what_is_wrong_in_a_page_is_noticed(browser: Chromium, workplace: Path):
    page = workplace / "broken.html"
    page.write_text('<img src="data:image/png;base64,AAAA"><img src="none.png"><script>nonsense()</script>')
    browser.open(page)
    assert len(complaints(browser)) >= 2
    assert browser.evaluate("[...document.images].map(image => image.naturalWidth)") == [0, 0]
