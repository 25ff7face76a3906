"""Workers that are started here and go on running when the command ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.local.forks import signals_wait

_ROOT = Path(__file__).parents[2]  # where our packages are imported from
_TAIL = 8  # lines
_END_S = 20.0  # from SIGTERM to SIGKILL


class Launched:
    """The workers of the new version, each a process in a session of its own."""

    def __init__(self, folder: Path) -> None:
        """Start none yet; `folder` is for their logs, and is made if it is missing."""
        self._folder = folder
        self._is_stopped = False
        self._processes: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, name: str, words: Sequence[str], count: int) -> list[str]:
        """Start so many `python -m worker words...`; returns a line about each.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        lines = []
        for number in range(1, count + 1):
            log = self._folder / f"{name}-{number}.log"
            with signals_wait(), log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "worker", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # neither Ctrl-C nor a closed terminal reaches it
                )
                self._processes.append((process, log))
            lines.append(f"worker {number} of {name} is started: pid {process.pid}, log {log}")
        return lines

    @property
    def pids(self) -> list[int]:
        """The process ids of all workers that were started."""
        return [process.pid for process, _ in self._processes]

    def ended(self) -> tuple[str, ...]:
        """Of each that has ended, its exit code and its log's last line, to end a sentence with."""
        ended = [
            (process.returncode, log)
            for process, log in self._processes
            if process.poll() is not None
        ]
        return tuple(
            f"with exit code {code}; its log ends with: {(_tail(log, 1) or ['nothing'])[0].strip()}"
            for code, log in ended
        )

    def last_words(self) -> list[str]:
        """The last lines of the logs of the workers that have ended."""
        return [
            f"{log.name} | {line}"
            for process, log in self._processes
            if process.poll() is not None
            for line in _tail(log, _TAIL)
        ]

    def stop(self) -> None:
        """Ask all workers to end (SIGTERM)."""
        self._is_stopped = True
        for process, _ in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """After `stop`, wait until all have ended; returns how many had to be killed."""
        if not self._is_stopped:
            return 0
        give_up, killed = time.monotonic() + _END_S, 0
        for process, _ in self._processes:
            try:
                process.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
        return killed


def _tail(log: Path, count: int) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-count:]
