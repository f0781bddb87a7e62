"""The report in headless Chromium: no script error, no missing picture, nothing wider than the window."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import Rendered

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.slow  # a report of five runs is made
WIDTHS = (1280, 390)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=8000",
    "--dump-dom",
)

# runs inside the report: collects errors from the first moment, measures when all is loaded
PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message || event.target.outerHTML).slice(0, 200)), true);
addEventListener("load", () => {
  const before = getComputedStyle(document.body).backgroundColor;
  document.getElementById("theme").click();
  const after = getComputedStyle(document.body).backgroundColor;
  document.querySelectorAll("details").forEach((item) => { item.open = true; });
  const images = [...document.images];
  const drawings = [...document.querySelectorAll("svg")];
  parent.postMessage({
    width: innerWidth, wide: document.documentElement.scrollWidth, errors, themes: [before, after],
    images: images.length, missing: images.filter((i) => !i.complete || !i.naturalWidth).length,
    drawings: drawings.length, empty: drawings.filter((d) => d.getBoundingClientRect().height < 40).length,
  }, "*");
});
</script>"""

FRAMES = """<!DOCTYPE html><body>{frames}<pre id="found"></pre><script>
const found = [];
addEventListener("message", (event) => {{
  found.push(event.data);
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script></body>"""


@pytest.fixture(scope="module")
def measured(report_of_five: Rendered, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "report.html").write_text(report_of_five.text.replace("<head>", f"<head>{PROBE}", 1), encoding="utf-8")
    frames = "".join(f'<iframe src="report.html" style="width:{w}px;height:800px;border:0"></iframe>' for w in WIDTHS)
    # the script must listen before the frames load
    page = FRAMES.format(frames="").replace("</body>", f"{frames}</body>")
    (folder / "frames.html").write_text(page, encoding="utf-8")
    text = dump(folder / "frames.html", folder / "profile")
    content = re.search(r'<pre id="found">(.*?)</pre>', text, re.DOTALL)
    assert content is not None
    return {row["width"]: row for row in json.loads(html.unescape(content[1]))}


def dump(page: Path, profile: Path) -> str:
    """The page's elements after it has loaded, as Chromium writes them."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--window-size=1300,900", page.as_uri()]
    environment = os.environ | {"HOME": str(profile.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return done.stdout


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_whole(width: int, measured: dict[int, dict[str, Any]]) -> None:
    row = measured[width]
    assert row["errors"] == []
    assert row["images"] > 300
    assert row["missing"] == 0
    assert row["drawings"] > 30
    assert row["empty"] == 0
    assert row["wide"] <= width


def test_the_button_changes_between_light_and_dark(measured: dict[int, dict[str, Any]]) -> None:
    assert len(set(measured[1280]["themes"])) == 2
