"""How many threads, and that they sleep while they wait."""

import os
import subprocess
import sys

import pytest

from worker.runtime.threads import choose_threads

PROGRAM = """
import os, sys
from worker.runtime.threads import set_threads
assert "torch" not in sys.modules
set_threads(2, embedded=False)
import torch
print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"], os.environ["THP_MEM_ALLOC_ENABLE"])
"""


@pytest.mark.parametrize(
    ("setting", "embedded", "physical", "usable", "expected"),
    [
        (None, False, 8, 16, 8),
        (None, False, 8, 3, 3),
        (None, True, 8, 16, 1),
        (None, False, 1, 1, 1),
        (5, False, 2, 2, 5),
        (5, True, 2, 2, 5),
    ],
)
def test_threads(
    monkeypatch: pytest.MonkeyPatch,
    setting: int | None,
    embedded: bool,
    physical: int,
    usable: int,
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(usable)))
    assert choose_threads(setting, embedded, physical) == expected


@pytest.mark.parametrize(("before", "after"), [(None, "passive"), ("active", "active")])
def test_threads_sleep_unless_the_environment_says_otherwise(
    before: str | None, after: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment |= {} if before is None else {"OMP_WAIT_POLICY": before}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=100, env=environment
    )
    assert done.stdout == f"2 {after} 1\n"
