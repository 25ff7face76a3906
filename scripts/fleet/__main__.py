"""`python -m scripts.fleet`: the workers of several policies on one machine or on many, by Ray."""

from __future__ import annotations

from conf.flags import interruptible, run_command

if __name__ == "__main__":
    interruptible()

import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from rich.console import Console

from conf.compose import compose_with_file, usage
from conf.overrides import ConfigError, nearest
from scripts.fleet import cluster
from scripts.fleet.cluster import NO_RAY, NoRay
from scripts.fleet.config import FleetConfig
from scripts.fleet.operation import Fleet
from scripts.fleet.report import changes, render

MISCONFIGURED = 2
KILLED = 1  # the exit code where something did not drain in time
_LOOK_S = 0.5
_AUTO = "auto"
_MOST = 1000
_ABOUT = f"""{__doc__}

usage: python -m scripts.fleet up     [file=FILE] [KEY=VALUE ...]
       python -m scripts.fleet status [KEY=VALUE ...]
       python -m scripts.fleet logs   POLICY [--follow] [KEY=VALUE ...]
       python -m scripts.fleet scale  policy=NAME workers=COUNT|auto [KEY=VALUE ...]
       python -m scripts.fleet down   [KEY=VALUE ...]

up      starts a fleet. With ray.address=HOST:PORT it goes on in that cluster when the command ends.
        Without, a cluster is started on this machine, and the command stays: Ctrl-C or SIGTERM
        drains and ends all.
status  shows policies and processes: where each runs, its state, its restarts, and why.
logs    prints what a policy's workers have written; --follow goes on until Ctrl-C. A broker's logs
        are `logs broker:main`, the gateway's `logs gateway:main`.
scale   holds a policy at so many workers, also beyond its bounds, and tries those again that were
        given up; with workers=auto its queue decides again.
down    drains and ends everything.

Which fleet is said by name= and ray.address=, or by the same file=.
Exit codes: 0 done, 1 a process had to be killed, 2 configuration, 3 no Ray, or no such fleet there.
"""
Words = list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the first word says; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or any(word in ("-h", "--help") for word in words):
        print(f"{_ABOUT}\n{usage('fleet')}")
        return 0 if words else MISCONFIGURED
    command, rest = words[0], words[1:]
    try:
        if command not in _COMMANDS:
            known = ", ".join(_COMMANDS)
            raise ConfigError(f"{command!r} is none of {known}{nearest(command, list(_COMMANDS))}")
        return _COMMANDS[command](rest)
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return MISCONFIGURED
    except NoRay as error:
        print(error, file=sys.stderr)
        return NO_RAY


def read(words: Sequence[str]) -> FleetConfig:
    """The settings that the words give, with those of a `file=` among them.

    Raises:
        ConfigError: they are not valid.
    """
    return compose_with_file("fleet", FleetConfig, words)


def _up(words: Words) -> int:
    config = read(words)
    config.check_commands()
    if config.ray.address is None:
        return _stay(config)
    ray = cluster.connect(config)
    fleet = Fleet.start(ray, config)
    print(f"fleet {config.name} is up, and goes on without this command")
    _show(fleet.state())
    return 0


def _stay(config: FleetConfig) -> int:
    """Run a cluster of our own until a signal comes."""
    reasons: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        reasons.append(signal.Signals(number).name)

    ray = cluster.start(config)
    # From here on a signal drains; a second one ends at once what still drains.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        with cluster.announced(ray, config):
            fleet = Fleet.start(ray, config)
            print(f"fleet {config.name} is up; Ctrl-C drains and ends it", flush=True)
            before: dict[str, Any] | None = None
            while not reasons:
                before = _tell(before, fleet.state())
                time.sleep(_LOOK_S)
            print(f"draining: {reasons[0]}; again to end it at once", flush=True)
            return _stop(fleet, before, lambda: len(reasons) > 1)
    finally:
        ray.shutdown()


def _down(words: Words) -> int:
    config = read(words)
    ray = cluster.connect(config)
    return _stop(Fleet.find(ray, config), None, lambda: False)


def _stop(fleet: Fleet, before: dict[str, Any] | None, is_hurried: Callable[[], bool]) -> int:
    class Hurried(Exception):
        """The operator waits no longer."""

    def progress(state: dict[str, Any]) -> None:
        nonlocal before
        before = _tell(before, state)
        if is_hurried():
            raise Hurried

    try:
        killed = fleet.stop(progress)
    except Hurried:
        fleet.remove()
        print("ended at once")
        return KILLED
    if killed:
        print(f"{killed} processes did not drain in time and were killed", file=sys.stderr)
        return KILLED
    print("all has ended")
    return 0


def _status(words: Words) -> int:
    config = read(words)
    _show(Fleet.find(cluster.connect(config), config).state())
    return 0


def _scale(words: Words) -> int:
    given: dict[str, Words] = {"policy": [], "workers": []}
    rest: Words = []
    for word in words:
        key, _, value = word.partition("=")
        given.get(key, rest).append(value if key in given else word)
    for key, values in given.items():
        if len(values) != 1:
            raise ConfigError(f"{key}= is expected once: scale policy=NAME workers=COUNT|auto")
    (policy,), (count,) = given["policy"], given["workers"]
    if count != _AUTO and not (count.isdecimal() and int(count) <= _MOST):
        raise ConfigError(f"workers={count}: a whole number from 0 to {_MOST}, or auto is expected")
    config = read(rest)
    fleet = Fleet.find(cluster.connect(config), config)
    _check_known(policy, fleet.state()["policies"])
    fleet.scale(policy, None if count == _AUTO else int(count))
    print(f"{policy}: {'between its bounds' if count == _AUTO else f'held at {count} workers'}")
    return 0


def _logs(words: Words) -> int:
    follows = "--follow" in words
    named = [word for word in words if "=" not in word and word != "--follow"]
    if len(named) != 1:
        raise ConfigError("one policy is expected: logs POLICY [--follow]")
    config = read([word for word in words if "=" in word])
    fleet = Fleet.find(cluster.connect(config), config)
    state = fleet.state()
    _check_known(named[0], [*state["policies"], *(each["group"] for each in state["members"])])
    after = 0
    while True:
        lines, after = fleet.lines(named[0], after)
        for name, text in lines:
            print(f"{name} | {text}")
        if not follows:
            return 0
        sys.stdout.flush()
        time.sleep(_LOOK_S)


def _check_known(policy: str, known: Sequence[str]) -> None:
    names = sorted(set(known))
    if policy not in names:
        raise ConfigError(
            f"{policy!r} is not in this fleet{nearest(policy, names)}; there are {', '.join(names)}"
        )


def _show(state: dict[str, Any]) -> None:
    Console(highlight=False).print(render(state))


def _tell(before: dict[str, Any] | None, state: dict[str, Any]) -> dict[str, Any]:
    """Print what has changed."""
    for line in changes(before, state):
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
    return state


_COMMANDS: dict[str, Callable[[Words], int]] = {
    "up": _up,
    "status": _status,
    "logs": _logs,
    "scale": _scale,
    "down": _down,
}

if __name__ == "__main__":
    run_command(main)
