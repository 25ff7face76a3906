"""`python -m broker`: takes robots' requests and balances them over workers."""

from __future__ import annotations

from conf import signals

if __name__ == "__main__":  # before the imports that take a second
    signals.end_while_starting()

import gc
import logging
import resource
import signal
import sys

try:
    from broker.config import BrokerConfig
    from conf.compose import command_line
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] not in ("hydra", "omegaconf"):
        raise
    print(
        f"the broker needs {_error.name}, which is not installed: "
        "pip install 'zmq-policy-broker[broker]'",
        file=sys.stderr,
    )
    sys.exit(2)  # as for any other mistake in the setup
from broker.doors import CannotBind
from broker.shell import Shell
from conf.logs import set_up

logger = logging.getLogger("broker")

BUG, MISCONFIGURED, CANNOT_BIND = 1, 2, 3
_ABOUT = f"""{__doc__}

usage: python -m broker [KEY=VALUE ...]

SIGTERM drains: robots are told to go elsewhere, and what workers have in hand is answered for up
to timers.drain_ms. So does SIGHUP when the terminal that it was started from has been closed;
else SIGHUP reads the keys again. What is ignored at the start, as by nohup, stays ignored. Exit
codes: 0 stopped, 1 a bug, 2 configuration, 3 cannot bind."""


def main() -> int:
    """Run until a signal asks for the end; returns the exit code."""
    config = command_line("broker", BrokerConfig, _ABOUT)
    set_up(config.log_level, config.log_format)
    # Each connection takes a file descriptor, and nothing else limits their number.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        shell = Shell(config)
    except ValueError as error:
        logger.error("%s", error)
        return MISCONFIGURED
    except CannotBind as error:
        logger.error("%s", error)
        return CANNOT_BIND
    _handle_signals(shell)
    if config.insecure:
        logger.warning("insecure=true: anyone who reaches these ports may use the policies")
    logger.info("ready: robots at %s, workers at %s", config.frontend, config.backend)
    if config.tap is not None:
        logger.info("tap: programs on this machine may follow all requests at %s", config.tap)
    # What is loaded by now stays for good: garbage collection need not visit it again.
    gc.freeze()
    try:
        shell.run()
    except Exception:
        logger.exception("stopped by a bug: please report it")
        return BUG
    logger.info("stopped")
    return 0


def _handle_signals(shell: Shell) -> None:
    terminal = signals.Terminal()

    def stop_or_reload(name: str) -> None:
        if terminal.is_closed():
            shell.stop(f"received {name}, and the terminal was closed")
        else:
            shell.reload()

    for number in (signal.SIGINT, signal.SIGTERM):
        signals.handle(number, lambda name: shell.stop(f"received {name}"))
    signals.handle(signal.SIGHUP, stop_or_reload)


if __name__ == "__main__":
    sys.exit(main())
