"""Every planted mistake makes a test fail; `python -m tests.mutate` prints which."""

import subprocess
import sys
from pathlib import Path

import pytest
from mutate import MUTATIONS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("room", sorted({mutation.room for mutation in MUTATIONS}))
def test_every_mistake_is_caught(room: str) -> None:
    # a process of its own: one that forks must have no threads
    command = [sys.executable, "-m", "tests.mutate", "--room", room]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mistakes_are_distinct_and_can_be_planted() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    for mutation in MUTATIONS:
        assert (ROOT / mutation.file).read_text().count(mutation.old) == 1, mutation.name
        assert mutation.new != mutation.old
