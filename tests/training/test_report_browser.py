"""The report's page in a headless Chromium: filters, keys, side by side, hostile text, a phone, and no script."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from toolenv.agents.records import read_trajectories, write_jsonl
from toolenv.training.evaluate import evaluate
from toolenv.training.report import write_report

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver; CI installs them"),
]
HOSTILE = "</script><img src=x onerror=\"document.title='run'\">\x1b[31m"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for name, policy in (("oracle", "oracle"), ("faulty", "faulty:0.6")):
        result = evaluate("crm", policy, n=30, families="all", trajectories=folder / f"{name}.jsonl")
        (folder / f"{name}.json").write_bytes(result.to_json())
    first, *others = read_trajectories(folder / "faulty.jsonl")
    write_jsonl([replace(first, instruction=HOSTILE), *others], folder / "faulty.jsonl")
    write_report([folder], folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1440,1000",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def ask(page: Path, browser) -> Callable[[str], object]:
    """Opens the page afresh and evaluates JavaScript in it."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("about:blank")
    browser.get(page.as_uri())
    WebDriverWait(browser, 20).until(lambda d: d.execute_script("return document.querySelectorAll('.row').length") > 0)
    return lambda code: browser.execute_script(code)


COUNT = "return document.getElementById('count').textContent"
CHOOSE = "const s = document.getElementById('f-{}'); s.value = '{}'; s.dispatchEvent(new Event('change'));"


def test_filters_and_search_narrow_the_list(ask, browser) -> None:
    assert ask(COUNT) == "60 episodes"
    ask(CHOOSE.format("policy", "oracle"))
    assert ask(COUNT) == "30 of 60"
    ask(CHOOSE.format("outcome", "solved"))
    assert ask("return [...document.querySelectorAll('.row')].every((r) => r.classList.contains('solved'))")
    browser.find_element("id", "reset").click()
    browser.find_element("id", "query").send_keys("no such text anywhere")
    assert ask(COUNT) == "0 of 60"
    assert browser.get_log("browser") == []


def test_keys_move_search_and_set_two_policies_side_by_side(ask, browser) -> None:
    body = browser.find_element("tag name", "body")
    selected = "return document.querySelector('[aria-selected=true]').id"
    body.send_keys("jj")
    assert ask(selected) == "row-2"
    body.send_keys("k")
    assert ask(selected) == "row-1"
    body.send_keys("c")
    assert ask("return document.querySelectorAll('.pair .card').length") == 2
    body.send_keys("/")
    assert ask("return document.activeElement.id") == "query"


def test_hostile_text_is_shown_and_not_run(ask, browser) -> None:
    browser.find_element("id", "query").send_keys("onerror")
    assert ask(COUNT) == "1 of 60"
    assert ask("return document.querySelector('h3.request').textContent") == HOSTILE.replace("\x1b", "␛")
    assert ask("return document.querySelectorAll('img').length") == 0
    assert ask("return document.title") != "run"


@pytest.mark.parametrize(
    "lacking",
    [
        "delete window.DecompressionStream",
        # As Chromium 80 to 102: the name is there, this form is not.
        "const Whole = DecompressionStream; window.DecompressionStream = class { constructor(form) {"
        " if (form === 'deflate-raw') throw new TypeError('unsupported'); return new Whole(form); } }",
    ],
)
def test_a_browser_that_can_not_unpack_the_episodes_says_so(page: Path, browser, lacking: str) -> None:
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": lacking})
    browser.get("about:blank")
    browser.get(page.as_uri())
    trouble = browser.find_element("id", "trouble")
    assert trouble.is_displayed()
    assert 'DecompressionStream("deflate-raw")' in trouble.text
    assert not browser.find_element("id", "browser").is_displayed()
    assert "families never seen" in browser.find_element("id", "summary").text
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_a_page_whose_episodes_are_damaged_says_so(page: Path, browser, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    before, data, after = re.split(r'(?<=id="data">)([^<]*)', page.read_text(), maxsplit=1)
    (tmp_path / "cut.html").write_text(before + data[:4000] + after)
    browser.get((tmp_path / "cut.html").as_uri())
    WebDriverWait(browser, 20).until(lambda d: "damaged" in d.find_element("id", "trouble").text)


def test_on_paper_no_colour_and_no_section_is_lost(ask, browser) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not browser.find_element("id", "browser").is_displayed()
        assert browser.find_element("css selector", ".note.print").is_displayed()
        closed = "[...document.querySelectorAll('.matrix:not([open]) table')]"
        assert ask(f"return {closed}.length") == 1
        assert ask(f"return {closed}.every((t) => t.checkVisibility({{contentVisibilityAuto: true}}))")
        assert ask("return getComputedStyle(document.querySelector('.confusion td')).printColorAdjust") == "exact"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_phone_scrolls_one_way_and_without_a_script_the_summary_is_there(ask, page: Path, browser) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert ask("return document.documentElement.scrollWidth <= 360")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page.as_uri())
    assert "families never seen" in browser.find_element("id", "summary").text
    assert not browser.find_element("id", "browser").is_displayed()
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
