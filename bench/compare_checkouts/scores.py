"""What ``evaluate``, ``predict`` and ``report`` of both sides say about one run of the old side."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from bench.compare_checkouts.runs import TIMES, train
from bench.compare_checkouts.sides import Pair, Row, compared, keys_that_differ

PART = "scores"
RUN = (
    *("--dataset=digits", "--image-size=16", "--limit-train=256", "--arch=wrn10_1", "--epochs=2", "--batch-size=32"),
    *("--ema-decay=0.9", "--lr=0.05", "--device=cpu"),
)
EVALUATIONS = ((), ("--weights=model",), ("--tta=mirror_shift", "--tta-shift=2"), ("--batch-size=7", "--tta=ten_crop"))
PREDICTIONS = ((), ("--top-k=3", "--weights=model"), ("--batch-size=2",))
_MEASURED = {*TIMES, "milliseconds_a_batch"}
_SPEED = re.compile(r"[\d.,]+ (images/s|ms a batch)")


def compare(pair: Pair) -> Iterator[Row]:
    """Scores of a run, classes of image files, the report's page."""
    run = pair.scratch / "scored"
    train(pair, pair.old, run, RUN)
    images = draw_images(pair.scratch / "images")
    for flags in EVALUATIONS:
        name = " ".join(("evaluate", *flags))
        arguments = ("evaluate", str(run), "--device=cpu", *flags)
        texts = pair.both(lambda side, a=arguments: side.cifarfast(*a, "--json"))  # type: ignore[misc]
        old, new = ({k: v for k, v in json.loads(text).items() if k not in _MEASURED} for text in texts)
        yield compared(PART, f"{name} --json", keys_that_differ(old, new))
    tables = [_SPEED.sub(r"… \1", text) for text in pair.both(lambda side: side.cifarfast("evaluate", str(run)))]
    yield compared(PART, "evaluate", [] if tables[0] == tables[1] else ["another table"])
    for flags in PREDICTIONS:
        arguments = ("predict", str(run), str(images), str(images / "missing.png"), "--device=cpu", *flags)
        for form in ((), ("--json",)):
            texts = pair.both(lambda side, a=(*arguments, *form): side.cifarfast(*a, codes=(2,)))  # type: ignore[misc]
            name = " ".join(("predict", *flags, *form))
            yield compared(PART, name, [] if texts[0] == texts[1] else ["another answer"])
    pages = pair.both(lambda side: _report(pair, side.name, run))
    yield compared(PART, "report", [] if pages[0] == pages[1] else ["another page"])


def _report(pair: Pair, name: str, run: Path) -> str:
    page = pair.scratch / name / "report.html"
    page.parent.mkdir(exist_ok=True)
    side = pair.old if name == pair.old.name else pair.new
    side.cifarfast("report", str(run), f"--out={page}")
    return page.read_text(encoding="utf-8")


def draw_images(folder: Path) -> Path:
    """Files of several sizes, colours and formats, and one that is no image."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for name, shape in (("a.png", (16, 16)), ("b.png", (40, 31, 3)), ("c.jpg", (64, 64, 3)), ("d.png", (9, 12, 4))):
        Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    (folder / "e.png").write_bytes(b"no image")
    return folder
