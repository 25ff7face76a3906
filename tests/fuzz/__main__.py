"""`python -m tests.fuzz --minutes 30 --target core`: coverage-guided fuzzing with atheris.

Begins with the saved corpus (`tests/fuzz/corpus`), works in `outputs/fuzz`, and with `--save`
adds to the corpus what reached new code. Exit code 1 if an input was found that breaks something;
it lies in `outputs/fuzz/TARGET/` then. `pip install -e '.[fuzz]'` brings atheris.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.machine import describe
from tests.fuzz.saved import CORPUS

RESULT = Path("benchmarks/results/fuzz.json")
WORK = Path("outputs/fuzz")
TARGETS = ("decoder", "core")
# Under atheris a process grows by some 30 bytes a run, whatever runs.
_LIMITS = ["-max_len=4096", "-timeout=20", "-rss_limit_mb=4096"]
_PULSE = re.compile(r"^#(\d+)\s.*cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)
_DONE = re.compile(r"^Done (\d+) runs in", re.MULTILINE)


def fuzz(target: str, minutes: float, progress: Progress) -> dict[str, Any]:
    """Run one target; returns its figures."""
    folder = WORK / target
    found = folder / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    seconds = max(1, round(minutes * 60))
    crashes_before = set(_crashes(folder))
    bar = progress.add_task(target, total=seconds, figures="")
    command = [
        *(sys.executable, "-m", "tests.fuzz.libfuzzer", target, str(found), str(CORPUS / target)),
        *(*_LIMITS, f"-max_total_time={seconds}", f"-artifact_prefix={folder}/"),
    ]
    started = time.monotonic()
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            while child.poll() is None:
                time.sleep(0.5)
                figures = _read(log)
                line = f"{figures['executions']} runs, {figures['coverage']} edges"
                spent = min(seconds, time.monotonic() - started)
                progress.update(bar, completed=spent, figures=line)
        finally:
            child.terminate()
            child.wait()
    crashes = sorted(str(path) for path in set(_crashes(folder)) - crashes_before)
    spent = round(time.monotonic() - started)
    return {
        **describe(),
        **_read(log),
        "seconds": spent,
        "crashes": crashes,
        "exit_code": child.returncode,
    }


def save(target: str) -> int:
    """Add to the saved corpus the inputs that reach new code; returns how many it has now."""
    command = [
        *(sys.executable, "-m", "tests.fuzz.libfuzzer", target),
        # Edges only, not how often each is taken: a few dozen files instead of hundreds.
        *("-merge=1", "-use_counters=0", *_LIMITS),
        *(str(CORPUS / target), str(WORK / target / "corpus")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return sum(1 for _ in (CORPUS / target).iterdir())


def _crashes(folder: Path) -> list[Path]:
    kinds = ("crash-*", "timeout-*", "oom-*", "leak-*", "slow-unit-*")
    return [path for kind in kinds for path in folder.glob(kind)]


def _read(log: Path) -> dict[str, int]:
    """What libFuzzer has said so far; it reports at each new input and each power of two."""
    text = log.read_text(errors="replace")
    figures = [tuple(map(int, match)) for match in _PULSE.findall(text)]
    executions, coverage, features, corpus = figures[-1] if figures else (0, 0, 0, 0)
    for match in _DONE.findall(text):
        executions = int(match)
    return {
        "executions": executions,
        "coverage": coverage,
        "features": features,
        "corpus": corpus,
    }


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="fuzzing")
    for column in ("target", "executions", "seconds", "edges", "corpus", "crashes"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for target, result in results.items():
        cells = [result[key] for key in ("executions", "seconds", "coverage", "corpus")]
        table.add_row(target, *map(str, cells), str(len(result["crashes"])))
    return table


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of each target (30)")
    parser.add_argument("--target", choices=TARGETS, help="one of them (default: both)")
    parser.add_argument("--save", action="store_true", help="add what is new to the saved corpus")
    parser.add_argument("--result", type=Path, default=RESULT, help=f"JSON file ({RESULT})")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 nothing found, 1 something found, 2 atheris is not installed."""
    options = _parse(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is needed: pip install -e '.[fuzz]'", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    results: dict[str, dict[str, Any]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        for target in [options.target] if options.target else TARGETS:
            results[target] = fuzz(target, options.minutes, progress)
    console.print(_table(results))
    for target, result in results.items():
        for crash in result["crashes"]:
            console.print(f"{target} broke: {crash}, see {WORK / target / 'log'}", style="red")
        if options.save and not result["crashes"]:
            console.print(f"{target}: the saved corpus has {save(target)} inputs now")
    known = json.loads(options.result.read_text()) if options.result.exists() else {}
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps({**known, **results}, indent=1) + "\n")
    failed = any(result["crashes"] or result["exit_code"] for result in results.values())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
