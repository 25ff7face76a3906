"""`python -m scripts.replay`: asks again what was recorded, and says whether the answers are equal.

    python -m scripts.replay recordings localhost:8000

Every request goes out as it was recorded, with the seed that it had, and its answer is compared bit
by bit with the recorded one: the test between two checkpoints, dtypes or machines. The recordings
are those of `python -m scripts.record`.
"""

from __future__ import annotations

from conf.flags import LARGEST_PORT, Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from client import ZmqPolicyClient
from client.errors import Forbidden, PolicyError
from scripts.recording.asking_again import ask_again, why_left_out
from scripts.recording.comparison import Difference, compare
from scripts.recording.exchange import Exchange
from scripts.recording.request_log import DamagedLog, NotALog, read

EQUAL, DIFFERENT, BAD_INPUT, UNREACHABLE = 0, 1, 2, 3
_OUTCOMES = {
    "equal": "equal bit for bit",
    "within": "different, within the tolerance",
    "different": "different",
    "failed": "answered before, and not now",
    "unanswered": "left out: they had no result before",
    "incomplete": "left out: not all of the observation was recorded",
}


class Replay:
    """Asks again, and keeps count."""

    def __init__(self, options: argparse.Namespace, clients: ExitStack, console: Console) -> None:
        self.outcomes: Counter[str] = Counter()
        self.difference = Difference()
        self._options, self._clients, self._console = options, clients, console
        self._by_policy: dict[str, ZmqPolicyClient] = {}

    def take(self, exchange: Exchange) -> None:
        """Ask again, and say what came of it.

        Raises:
            client.errors.PolicyError: the broker is not there.
            ValueError: the file of `--key` is no key.
        """
        outcome, words = self._outcome(exchange)
        self.outcomes[outcome] += 1
        self._console.print(f"{exchange.request_id} {words}", soft_wrap=True)

    def code(self) -> int:
        """The exit code."""
        if self.outcomes["different"] or self.outcomes["failed"]:
            return DIFFERENT
        return EQUAL if self.outcomes["equal"] or self.outcomes["within"] else BAD_INPUT

    def _outcome(self, exchange: Exchange) -> tuple[str, str]:
        left_out = why_left_out(exchange)
        if left_out is not None:
            return left_out
        client = self._client(self._options.policy or exchange.policy)
        try:
            now, _ = ask_again(client, exchange)
        except (ConnectionError, Forbidden):
            raise
        except PolicyError as error:
            return "failed", f"fails now: {type(error).__name__}: {error}"
        difference = compare(exchange.result or {}, now)
        self.difference.add(difference)
        if difference.is_none:
            return "equal", "equal"
        is_within = difference.is_within(self._options.tolerance)
        return "within" if is_within else "different", str(difference)

    def _client(self, policy: str) -> ZmqPolicyClient:
        if policy not in self._by_policy:
            host, port = self._options.broker
            client = ZmqPolicyClient(
                host,
                port,
                policy=policy or None,
                key=self._options.key,
                robot="replay",
                timeout_s=self._options.timeout_s,
                connect_timeout_s=self._options.timeout_s,
            )
            self._by_policy[policy] = self._clients.enter_context(client)
        return self._by_policy[policy]


def address(text: str) -> tuple[str, int]:
    """For `type=`: HOST:PORT.

    Raises:
        ArgumentTypeError: it is something else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) <= LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as localhost:8000")
    return host, int(port)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; a wrong command line exits with 2 and says why."""
    flags = Flags(
        "python -m scripts.replay",
        __doc__,
        "Exit codes: 0 all equal (or within --tolerance), 1 some are not, 2 usage or a file that "
        "is no\nwhole recording, or holds nothing to compare, 3 the broker cannot be asked.",
    )
    add = flags.add_argument
    add("file", type=Path, metavar="FILE", help="a log, or a folder of them")
    add("broker", type=address, metavar="HOST:PORT", help="of the broker's frontend")
    add("--policy", metavar="NAME", help="ask this one instead of the one that was asked")
    add("--key", metavar="FILE", help="a robot's key, where the broker asks for keys")
    add(
        "--tolerance",
        type=between(0.0, 1e9, float),
        default=0.0,
        metavar="DIFFERENCE",
        help="take numbers as equal that differ by so much at most (0: not even in one bit)",
    )
    add(
        "--timeout-s",
        type=between(0.001, 86_400, float),
        default=60.0,
        metavar="SECONDS",
        help="how long one answer may take (60)",
    )
    add("--json", action="store_true", help="for programs: the sum as one object")
    return flags.read(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; `parse` says what they mean."""
    options = parse(arguments)
    console = Console(highlight=False, markup=False, stderr=options.json)
    try:
        count = sum(
            1 for _ in read(options.file)
        )  # the whole log is checked before anything is asked
    except (NotALog, DamagedLog, OSError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    with ExitStack() as clients:
        replay = Replay(options, clients, console)
        try:
            for exchange in track(read(options.file), "asking again", count, console=console):
                replay.take(exchange)
        except PolicyError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return UNREACHABLE
        except ValueError as error:  # a file that is no key
            print(error, file=sys.stderr)
            return BAD_INPUT
    _report(replay, options, console)
    return replay.code()


def _report(replay: Replay, options: argparse.Namespace, console: Console) -> None:
    outcomes, difference = replay.outcomes, replay.difference
    if options.json:
        counts = {name: outcomes[name] for name in _OUTCOMES}
        content: dict[str, Any] = {**counts, "largest": difference.largest}
        print(json.dumps({**content, "others": difference.others}))
        return
    console.print(f"{outcomes.total()} requests:")
    for name, words in _OUTCOMES.items():
        if outcomes[name]:
            console.print(f"  {outcomes[name]} {words}")
    for key, most in difference.largest.items():
        console.print(f"  {key}: differs by up to {most:.6g}")
    for key, what in difference.others.items():
        console.print(f"  {key}: {what}", soft_wrap=True)
    if replay.code() == BAD_INPUT:
        console.print("There was nothing to compare.")


if __name__ == "__main__":
    run_command(main)
