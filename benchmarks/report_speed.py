"""How fast a report is written, and how fast it opens in headless Chromium, beside an empty page in the same browser.

    python benchmarks/report_speed.py [--json] [-n 2000] [--repeats 5]

`n` episodes of `crm`, half by the oracle and half by a faulty policy, are written as one page, with what their steps
changed. Opening is from asking for the page until its first episode stands in the list; searching is from the last
letter until the list has been filtered. Wall-clock seconds, medians over repeats; cores are often shared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from selenium import webdriver

from toolenv.training.evaluate import evaluate
from toolenv.training.report import write_report

EMPTY = "data:text/html,<p>empty</p>"
FIRST_ROW = "return document.querySelectorAll('.row').length"
COUNT = "return document.getElementById('count').textContent"


def opened(browser: Any, url: str, ready: str) -> float:
    """Seconds until the page is ready."""
    browser.get("about:blank")
    began = time.perf_counter()
    browser.get(url)
    while not browser.execute_script(ready):
        time.sleep(0.002)
    return time.perf_counter() - began


def measure(folder: Path, n: int, repeats: int) -> dict[str, float]:
    """Medians in seconds, and the size of the page."""
    for name, policy in (("oracle", "oracle"), ("faulty", "faulty:0.5")):
        kept = folder / f"{name}.jsonl"
        (folder / f"{name}.json").write_bytes(evaluate("crm", policy, n=n // 2, trajectories=kept).to_json())
    began = time.perf_counter()
    write_report([folder], folder / "report.html")
    written = time.perf_counter() - began
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    url = (folder / "report.html").as_uri()
    try:
        empty = [opened(browser, EMPTY, "return true") for _ in range(repeats)]
        pages = [opened(browser, url, FIRST_ROW) for _ in range(repeats)]
        searches = []
        for _ in range(repeats):
            opened(browser, url, FIRST_ROW)
            before, field = browser.execute_script(COUNT), browser.find_element("id", "query")
            field.send_keys("refun")
            began = time.perf_counter()
            field.send_keys("d")
            while browser.execute_script(COUNT) == before:
                time.sleep(0.002)
            searches.append(time.perf_counter() - began)
    finally:
        browser.quit()
    return {
        "write_s": written,
        "megabytes": (folder / "report.html").stat().st_size / 1e6,
        "empty_page_s": statistics.median(empty),
        "open_s": statistics.median(pages),
        "search_s": statistics.median(searches),
    }


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-n", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(Path(scratch), options.n, options.repeats)
    figures["load"] = os.getloadavg()[0]
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{options.n} episodes, load {figures['load']:.1f}")
    print(f"written in {figures['write_s']:.1f} s, {figures['megabytes']:.2f} MB")
    ratio = figures["open_s"] / figures["empty_page_s"]
    print(
        f"opened in {figures['open_s']:.2f} s, {ratio:.0f} times an empty page ({figures['empty_page_s'] * 1e3:.0f} ms)"
    )
    print(f"searched in {figures['search_s'] * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
