"""Trainings of both sides, bit by bit."""

import hashlib
import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from bench.compare_checkouts.sides import NOTHING, Pair, Row, Side, SideError, compared, keys_that_differ

PART = "runs"
# what the clock determines
TIMES = {"train_seconds", "evaluation_seconds", "images_per_second", "epoch_seconds", "timing", "peak_memory_bytes"}
# dropout, batch norm, crop and flip, momentum, an average of the weights, label smoothing, a validation part
RESUMED = (
    *("--dataset=synthetic:classes=3,train=70,test=20", "--arch=wrn10_1", "--dropout=0.3", "--epochs=3"),
    *("--batch-size=16", "--ema-decay=0.9", "--val-split=0.2", "--label-smoothing=0.1", "--lr=0.01"),
    "--checkpoint-seconds=0",
)
INTERPRETED = {"TRITON_INTERPRET": "1", "CIFARFAST_BACKEND": "triton"}


def compare(pair: Pair) -> Iterator[Row]:
    """b01, b30 with torch's ops and with this package's, and a training that is killed and resumed."""
    yield from _trained(pair, "b01_lenet", ["--recipe=b01_lenet", *_b01(pair)])
    batch = 2 if pair.device == "cpu" else 16
    b30 = f"--recipe=b30_pyramid_200 --epochs=1 --batch-size={batch}".split()
    b30.append(f"--dataset=synthetic:classes=10,train={batch * pair.steps},test=20")
    for backend in ("torch", "fused"):
        yield from _trained(pair, f"b30_pyramid_200 {backend}", [*b30, f"--backend={backend}"])
    yield from _resumed(pair)


def compare_interpreted(pair: Pair) -> Iterator[Row]:
    """A few steps of small networks through the Triton kernels, interpreted on the CPU."""
    small = ["--backend=fused", "--epochs=1", "--batch-size=4", "--ema-decay=0.9", "--label-smoothing=0.1"]
    tiny = "--dataset=synthetic:classes=3,train={},test=4,size=8"
    pyramid = [tiny.format(4), "--arch=pyramidnet8_a6_shakedrop", "--sam=asam", *small]
    wide = [tiny.format(8), "--arch=wrn10_1", "--dropout=0.3", "--optimizer=adamw", "--clip-norm=1", *small]
    for name, arguments in (("pyramidnet8_a6_shakedrop asam", pyramid), ("wrn10_1 adamw", wide)):
        yield from _trained(pair, f"{name} interpreted", arguments, part="interpreter", variables=INTERPRETED)


def _b01(pair: Pair) -> list[str]:
    images = 128 * (pair.steps // 2)
    if pair.data_dir is None:
        return ["--epochs=2", f"--dataset=synthetic:classes=10,train={images},test=1000"]
    return ["--epochs=2", f"--limit-train={images}"]


def train(pair: Pair, side: Side, out: Path, arguments: Sequence[str], variables: Mapping[str, str] = NOTHING) -> None:
    """Train into ``out``."""
    side.cifarfast("train", *settings(pair, out, arguments), variables=variables)


def settings(pair: Pair, out: Path, arguments: Sequence[str]) -> list[str]:
    """The flags of a training; where data lies is the same for both sides, as it is in the run folder."""
    data_dir = pair.data_dir or pair.scratch / "no-data"
    device = [] if any(a.startswith("--device") for a in arguments) else [f"--device={pair.device}"]
    return [*arguments, *device, f"--data-dir={data_dir}", "--quiet", f"--out={out}"]


def _trained(
    pair: Pair,
    name: str,
    arguments: Sequence[str],
    *,
    part: str = PART,
    variables: Mapping[str, str] = NOTHING,
) -> Iterator[Row]:
    def work(side: Side) -> Path:
        out = pair.scratch / side.name / name.replace(" ", "-")
        device = ["--device=cpu"] if variables else []
        train(pair, side, out, [*arguments, *device], variables)
        return out

    yield from compare_folders(part, name, *pair.both(work))


def _resumed(pair: Pair) -> Iterator[Row]:
    def work(side: Side) -> tuple[Path, Path, Path]:
        whole, killed = (pair.scratch / side.name / name for name in ("whole", "resumed"))
        train(pair, side, whole, RESUMED)
        left = pair.scratch / side.name / "left"
        kill_in_mid_training(pair, side, left)
        kill_in_mid_training(pair, side, killed)
        train(pair, side, killed, [*RESUMED, "--resume"])
        return whole, killed, left

    (whole, old_resumed, left), (new_whole, new_resumed, _) = pair.both(work)
    yield from compare_folders(PART, "not interrupted", whole, new_whole)
    yield from compare_folders(PART, "killed, resumed", old_resumed, new_resumed, same_checkpoints=False)
    yield from compare_folders(PART, "resumed = not interrupted", new_whole, new_resumed, same_checkpoints=False)
    train(pair, pair.new, left, [*RESUMED, "--resume"])
    yield from compare_folders(PART, "killed by the old, resumed by the new", whole, left, same_checkpoints=False)


def kill_in_mid_training(pair: Pair, side: Side, out: Path) -> None:
    """Start the training and kill it once an epoch is done."""
    process = side.start("-m", "cifarfast", "train", *settings(pair, out, RESUMED))
    metrics = out / "metrics.csv"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) > 1):
        time.sleep(0.01)
    process.kill()
    _, err = process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise SideError(f"{side.name}: the training that was to be killed ended with {process.returncode}:\n{err}")


def compare_folders(part: str, name: str, old: Path, new: Path, *, same_checkpoints: bool = True) -> Iterator[Row]:
    """A row for each file of two run folders, whose order of checkpoints is the same.

    Args:
        part, name: of the rows.
        old, new: the folders.
        same_checkpoints: all that both have are compared, not only the last; the clock says when the others were made.
    """
    checkpoints = [sorted((folder / "checkpoints").glob("step-*")) for folder in (old, new)]
    files = [_names(folder) for folder in (old, new)]
    pairs = [(checkpoints[0][-1], checkpoints[1][-1])]
    if same_checkpoints:
        last = [found[-1].name for found in checkpoints]
        yield compared(part, f"{name}: last checkpoint", [] if last[0] == last[1] else [f"{last[0]} → {last[1]}"])
        by_name = [{path.name: path for path in found} for found in checkpoints]
        pairs = [
            (by_name[0][each], by_name[1][each]) for each in sorted(by_name[0].keys() & by_name[1].keys())
        ] or pairs
    yield compared(part, f"{name}: files", sorted(map(str, files[0] ^ files[1])))
    for file in ("config.toml", "metrics.csv"):
        same = (old / file).read_bytes() == (new / file).read_bytes()
        yield compared(part, f"{name}: {file}", [] if same else ["other bytes"])
    arrays = [dict(np.load(folder / "predictions.npz")) for folder in (old, new)]
    yield compared(part, f"{name}: predictions.npz", _named_arrays(*arrays))
    results = [without_times(json.loads((folder / "result.json").read_text())) for folder in (old, new)]
    yield compared(part, f"{name}: result.json", keys_that_differ(*results))
    for kind in ("model", "ema", "optimizer"):
        if (pairs[0][0] / f"{kind}.safetensors").exists():
            found = [line for a, b in pairs for line in _tensors(a, b, kind)]
            yield compared(part, f"{name}: {kind}.safetensors", found)
    states = [[without_times(json.loads((c / "state.json").read_text())) for c in both] for both in pairs]
    yield compared(part, f"{name}: state.json", [line for a, b in states for line in keys_that_differ(a, b)])


def _names(folder: Path) -> set[str]:
    """The names of a run folder's files, those of checkpoints without the moment they are of."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.name if path.parts[0] == "checkpoints" else str(path) for path in paths}


def without_times(value: Any) -> Any:
    """JSON without what the clock determines."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return value


def _named_arrays(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> list[str]:
    found = [f"{name} only in one" for name in sorted(old.keys() ^ new.keys())]
    for name in sorted(old.keys() & new.keys()):
        a, b = old[name], new[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            found.append(f"{name}: {a.dtype}{list(a.shape)} → {b.dtype}{list(b.shape)}")
        elif a.tobytes() != b.tobytes():
            most = np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0)
            found.append(f"{name}: by at most {most:.1e}")
    return found


def _tensors(old: Path, new: Path, kind: str) -> list[str]:
    """How the tensors of two checkpoints differ; files of the same bytes are not read."""
    paths = [folder / f"{kind}.safetensors" for folder in (old, new)]
    if not all(path.exists() for path in paths):
        return [f"{kind}.safetensors is missing"]
    if len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == 1:
        return []
    return _named_arrays(*map(load_file, paths)) or ["the same tensors in other bytes"]
