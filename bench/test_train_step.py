"""One training step of this package beside torch eager and torch.compile, from the batch's indices to the new weights.

``pytest bench/test_train_step.py --benchmark-enable [--save-results | --save-each] [--short] [--airbench PATH]``

Every contender is verified first (``bench/train_step/verify.py``), and a wrong one is not timed. Times are those of
steps that follow one another, ours in a training by ``Trainer.fit``, after warm-up, compilation and recording. Torch's
contenders are timed twice: with the batch given for nothing, and with crop and flip by torch's operations. Without a
GPU small networks stand in, so that the code itself is tested.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.measure import Rates
from bench.pytest_gpu import FAILED_BEFORE
from bench.train_step.cases import OTHERS, TARGETED, TINY, Case
from bench.train_step.contenders import COMPILED, EAGER, KINDS, OURS, Kind
from bench.train_step.peers import PEERS, Peer
from bench.train_step.session import Session

# what the targets are about comes first, and what a slow start costs is paid after everything else
PAIRS = [(case, kind) for case in TARGETED for kind in (OURS, EAGER)]
PAIRS += [(case, kind) for case in TARGETED for kind in KINDS if not kind.slow_start and kind not in (OURS, EAGER)]
PAIRS += [(case, kind) for case in OTHERS for kind in KINDS if not kind.slow_start]
PAIRS += [(case, COMPILED) for case in TARGETED + OTHERS]
TINY_PAIRS = [(case, kind) for case in TINY for kind in KINDS]


def in_short_form(case: Case, kind: Kind) -> bool:
    """Whether ``--short`` runs it: what targets are for, and the same with dropout for the two that matter most."""
    return kind.short and (case in TARGETED or (case.dropout and kind in (OURS, EAGER)))


@pytest.fixture(autouse=True)
def enabled(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--benchmark-enable"):
        pytest.skip("needs --benchmark-enable")


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest, device: torch.device, rates: Rates, short: bool) -> Session:
    # in a process that goes on after another one: what ended that one would end this one too
    before = request.config.stash.get(FAILED_BEFORE, set())
    failed = {case for case, kind in PAIRS if any(name.endswith(f"[{label(case, OURS)}]") for name in before)}
    return Session(device, rates, short=short, failed=failed)


def label(case: Case, kind: Kind) -> str:
    return f"{case.name}-{kind.name}".replace(" ", "_")


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        pytest.param(case, kind, id=label(case, kind))
        for case, kind in (PAIRS if torch.cuda.is_available() else TINY_PAIRS)
    ],
)
def test_step(
    case: Case,
    kind: Kind,
    session: Session,
    short: bool,
    record: Callable[[str, dict[str, Any]], None],
) -> None:
    if short and torch.cuda.is_available() and not in_short_form(case, kind):
        pytest.skip("not in the short form")
    for name, row in session.rows(case, kind):
        record(name, row)
        ms = row["step_ms"]
        print(f"{name}: {ms['median']:.2f} ms ({ms['p20']:.2f} … {ms['p80']:.2f})", flush=True)


@pytest.mark.parametrize("peer", [pytest.param(peer, id=peer.program) for peer in PEERS])
def test_peer(
    peer: Peer,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    record: Callable[[str, dict[str, Any]], None],
) -> None:
    """A peer's own program to its accuracy, on the same GPU and images; needs ``--airbench``."""
    checkout = request.config.getoption("--airbench")
    if checkout is None:
        pytest.skip("needs --airbench PATH")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    images = request.getfixturevalue("real_data")
    record(peer.program, peer.run(Path(checkout), images, tmp_path))
