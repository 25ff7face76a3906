"""The commands that an installed wheel brings: `zmq-policy-keys`, `-status` and `-checkpoint`.

They are the same as `python -m scripts.keys` and so on, but work in every folder: one with a
`scripts` folder of its own hides ours from `python -m`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

from conf.flags import interruptible, run_command


def keys() -> NoReturn:
    """`zmq-policy-keys`."""
    _run("scripts.keys", "broker")


def status() -> NoReturn:
    """`zmq-policy-status`."""
    _run("scripts.status", "broker")


def checkpoint() -> NoReturn:
    """`zmq-policy-checkpoint`."""
    _run("scripts.checkpoint", "worker")


def _run(module: str, extra: str) -> NoReturn:
    interruptible()
    try:
        main = import_module(module).main
    except ModuleNotFoundError as error:
        print(
            f"{error}: this command needs more than a robot does; install it with "
            f"pip install 'zmq-policy-broker[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(1)
    run_command(main)
