"""`python -m scripts.rollout`: a policy's new version takes over while robots go on asking.

    python -m scripts.rollout policy=aloha checkpoint=/checkpoints/new 'worker=[env=aloha]'

New workers warm up beside the old ones, and the broker gives them a growing share of the episodes
that begin. A version that fails, is too slow or answers with other actions than allowed is rolled
back.
"""

from __future__ import annotations

from conf.flags import interruptible, run_command

if __name__ == "__main__":
    interruptible()

import sys
from collections.abc import Sequence

from rich.console import Console

from client.errors import PolicyError
from conf.compose import ConfigError, compose_with_file, usage
from scripts.recording.listener import NoTap
from scripts.rollout.actions import Code
from scripts.rollout.command import Command
from scripts.rollout.config import RolloutConfig

MISCONFIGURED = 2
_ABOUT = f"""{__doc__}
Ctrl-C rolls back: episodes begin with the old version again, and those of the new one may end. A
second Ctrl-C moves them to the old version at once.

Exit codes: 0 the new version has taken over, 1 it did not become ready, 2 configuration (or the old
version is not served), 3 it broke a bound and was rolled back, 4 no broker answers, 130 Ctrl-C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or any(word in ("-h", "--help") for word in words):
        print(f"{_ABOUT}\n{usage('rollout')}")
        return 0 if words else MISCONFIGURED
    try:
        config = compose_with_file("rollout", RolloutConfig, words)
        return Command(config, Console(highlight=False, markup=False)).run()
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return MISCONFIGURED
    except PolicyError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return Code.SILENT
    except (NoTap, OSError, ValueError) as error:  # a key file that is not valid among them
        print(error, file=sys.stderr)
        return MISCONFIGURED


if __name__ == "__main__":
    run_command(main)
