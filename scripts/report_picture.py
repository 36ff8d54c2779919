"""Draws docs/img/report.png: a report's browser with two policies side by side, as headless Chromium shows it.

    python scripts/report_picture.py [docs/img/report.png]

The oracle and a faulty policy act on the same 60 tasks of `crm`; the episode is the shortest that only the oracle
solved and in which both wrote. Needs chromium and chromedriver. A palette of
256 colours keeps the file small.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from toolenv.training.evaluate import evaluate
from toolenv.training.report import ReportOptions, write_report

WIDTH, HEIGHT, SCALE = 1320, 1000, 1.5
READY = "return document.querySelectorAll('.row').length"
CHOOSE = """
const wrote = (e) => e.steps.some((s) => s.changes);
const length = (e) => JSON.stringify(e.steps).length;
const solved = new Map(episodes.filter((e) => e.policy === "oracle" && wrote(e)).map((e) => [e.task, e]));
const pairs = episodes.filter((e) => e.outcome === "failed" && wrote(e) && solved.has(e.task));
const size = (e) => Math.max(length(e), length(solved.get(e.task)));
pairs.sort((a, b) => size(a) - size(b));
beside = "oracle";
allOpen = false;
$("f-outcome").value = "failed";
filter(pairs[0].id);
$("list").scrollTop = Math.max(0, current - 2) * ROW;
$("episodes").scrollIntoView();
"""


def main() -> None:
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img/report.png")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        for name, policy in (("oracle", "oracle"), ("faulty", "faulty:0.6")):
            result = evaluate("crm", policy, n=60, families="all", trajectories=run / f"{name}.jsonl")
            (run / f"{name}.json").write_bytes(result.to_json())
        write_report([run], run / "report.html", ReportOptions(title="crm"))
        browser = chromium()
        try:
            browser.get((run / "report.html").as_uri())
            WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(READY))
            browser.execute_script(CHOOSE)
            picture = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
        finally:
            browser.quit()
    picture.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE).save(output, optimize=True)
    print(f"{output}: {output.stat().st_size / 1000:.0f} kB")


def chromium() -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": SCALE, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return browser


if __name__ == "__main__":
    main()
