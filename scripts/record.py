"""`python -m scripts.record`: keeps what robots ask and are answered, in logs that can be replayed.

    python -m broker tap=ipc:///run/user/1000/tap
    python -m scripts.record --tap ipc:///run/user/1000/tap recordings

It follows the broker's tap, on the broker's machine, and slows nothing: what it cannot write in
time is dropped and counted. Ctrl-C ends it. docs/recording.md has the rest.

    python -m scripts.record export --help   # for Rerun's viewer, and as a LeRobot dataset
"""

from __future__ import annotations

from conf.flags import Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from client.errors import BadObservation, PolicyError
from client.tap import Losses, topics
from scripts.recording.exchange import Exchange
from scripts.recording.export import main as export
from scripts.recording.leaving_out import leave_out
from scripts.recording.listener import Listener, NoTap
from scripts.recording.log_folder import LimitReached, LogFolder
from scripts.recording.pairing import Pairing
from scripts.recording.request_log import LogFull

_WAIT_MS = 200
_LOOK_S = 1.0
_DRAW_S = 0.2
_NICENESS = 5  # so that on a busy machine the recorder waits, and not broker and workers
_MOST_GB = 10.0


class Recording:
    """One run: what came, what was kept and what was lost."""

    def __init__(self, options: argparse.Namespace, listener: Listener, folder: LogFolder) -> None:
        self._options, self._listener, self._folder = options, listener, folder
        self._pairing, self._losses = Pairing(), Losses()
        self._noted = 0  # losses that the log tells already
        self._missing = 0  # exchanges without their observation
        self._started = time.monotonic()
        self._look_at = self._draw_at = 0.0
        self.stopped_by = ""

    def run(self, live: Live | None) -> str:
        """Record until something ends it; returns what.

        Raises:
            client.errors.ProtocolError: whatever speaks at the address is no tap.
        """
        try:
            while not self.stopped_by:
                self._turn()
                if time.monotonic() >= self._look_at:
                    self._look_at = time.monotonic() + _LOOK_S
                    self._pairing.tidy()
                if live is not None and time.monotonic() >= self._draw_at:
                    self._draw_at = time.monotonic() + _DRAW_S
                    live.update(Text(self.line()), refresh=True)
        except (LimitReached, LogFull) as error:
            return str(error)
        finally:
            self._pairing.close()
        return self.stopped_by

    def line(self) -> str:
        """The counts so far."""
        took_s = time.monotonic() - self._started
        folder = self._folder
        parts = [
            f"{folder.exchanges} requests recorded",
            f"{self._losses.count} messages dropped",
            f"{folder.bytes / 1e6:.1f} MB",
            f"{folder.exchanges / max(took_s, 1e-3):.1f} requests/s",
        ]
        if self._missing:
            parts.append(f"{self._missing} without their observation")
        if self._pairing.unmatched:
            parts.append(f"{self._pairing.unmatched} halves of requests")
        if not self._listener.is_connected:
            parts.append("the broker is gone: waiting for it")
        return ", ".join(parts)

    def _turn(self) -> None:
        options, found = self._options, []
        # All that has come is taken before anything is written: a robot soon uses its shared
        # memory again.
        for message in self._listener.take(_WAIT_MS):
            if options.robot is not None and message.fields.get("robot") != options.robot:
                continue
            self._losses.seen(message)
            if options.session is not None and message.fields.get("session") != options.session:
                continue
            exchange = self._pairing.take(message)
            if exchange is not None:
                found.append(exchange)
        if self._losses.count > self._noted:
            self._folder.dropped(self._losses.count - self._noted)
            self._noted = self._losses.count
        for exchange in found:
            self._keep(exchange)
            if options.requests is not None and self._folder.exchanges >= options.requests:
                self.stopped_by = f"it has the {options.requests} requests that were asked for"
                return

    def _keep(self, exchange: Exchange) -> None:
        options = self._options
        kept = leave_out(exchange, prompts=options.without_prompts, images=options.without_images)
        try:
            self._folder.write(kept)
        except BadObservation as error:  # such as lists in lists in lists, hundreds of them
            why = f"it cannot be written: {error}"
            kept = dataclasses.replace(kept, observation=None, result=None, missing=why)
            self._folder.write(kept)
        self._missing += kept.observation is None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; a wrong command line exits with 2 and says why."""
    flags = Flags(
        "python -m scripts.record",
        __doc__,
        "Exit codes: 0 ended by Ctrl-C, SIGTERM or --requests; 1 ended by a full disk or by its "
        "limit,\nwith all before it kept; 2 usage, no tap there, or a folder that cannot be "
        "written.",
    )
    add = flags.add_argument
    add("folder", type=Path, metavar="FOLDER", help="of the logs; made if it is not there")
    add("--tap", required=True, metavar="ADDRESS", help="the broker's setting `tap`")
    add("--policy", metavar="NAME", help="only what was asked of this one, or of a version of it")
    add("--robot", metavar="NAME", help="only what a robot of this name asked")
    add("--session", metavar="NAME", help="only this episode")
    add("--without-prompts", action="store_true", help="leave all texts out")
    add("--without-images", action="store_true", help="leave all images out")
    add(
        "--max-gb",
        type=between(0.001, 1e6, float),
        default=_MOST_GB,
        metavar="GB",
        help=f"end at so many gigabytes ({_MOST_GB:g})",
    )
    add("--rotate", action="store_true", help="at --max-gb remove the oldest file instead")
    add("--requests", type=between(1, 10**12), metavar="N", help="end after so many")
    add(
        "--connect-timeout-s",
        type=between(0.001, 86_400, float),
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for the broker (10)",
    )
    return flags.read(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; `parse` says what they mean."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["export"]:  # a folder of that name is ./export
        return export(words[1:])
    options = parse(words)
    console = Console(stderr=True, highlight=False, markup=False)
    subscribed = [b""] if options.policy is None else topics(options.policy, options.robot)
    listener: Listener | None = None
    try:
        listener = Listener(options.tap, subscribed)
        listener.wait(options.connect_timeout_s)
        about = {
            "started_at": time.time(),
            "policy": options.policy,
            "robot": options.robot,
            "session": options.session,
            "without_prompts": options.without_prompts,
            "without_images": options.without_images,
        }
        max_bytes = int(options.max_gb * 1e9)
        folder = LogFolder(options.folder, about, max_bytes=max_bytes, rotate=options.rotate)
        return _record(Recording(options, listener, folder), folder, console)
    except (NoTap, PolicyError, OSError) as error:
        print(f"nothing can be recorded: {error}", file=sys.stderr)
        return 2
    finally:
        if listener is not None:
            listener.close()


def _record(recording: Recording, folder: LogFolder, console: Console) -> int:
    def stop(number: int, _: object) -> None:
        recording.stopped_by = f"it received {signal.Signals(number).name}"

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    reason = "an error"
    try:
        os.nice(_NICENESS)
        console.print(f"recording into {folder.folder}; Ctrl-C ends it")
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                reason = recording.run(live)
        else:
            reason = recording.run(None)
    finally:
        folder.close(reason)
        for number, handler in before.items():
            signal.signal(number, handler)
    console.print(f"{recording.line()} in {folder.folder}")
    if recording.stopped_by:
        return 0
    print(f"the recording ended: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run_command(main)
