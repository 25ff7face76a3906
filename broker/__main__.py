"""`python -m broker`: takes robots' requests and balances them over workers."""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # before the imports that take a second: nothing is there to be lost
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the keys are still to be read

import gc
import logging
import resource
import sys

import zmq

from broker.config import BrokerConfig
from broker.shell import Shell
from conf.compose import command_line
from conf.logs import set_up

logger = logging.getLogger("broker")

MISCONFIGURED, CANNOT_BIND = 2, 3
_ABOUT = f"""{__doc__}

usage: python -m broker [KEY=VALUE ...]

SIGTERM drains: robots are told to go elsewhere, and what workers have in hand is answered for up
to timers.drain_ms. SIGHUP reads the keys again. Exit codes: 0 stopped, 1 a bug, 2 configuration,
3 cannot bind."""


def main() -> int:
    """Run until SIGINT or SIGTERM; returns the exit code."""
    config = command_line("broker", BrokerConfig, _ABOUT)
    set_up(config.log_level, config.log_format)
    # A connection takes a descriptor, and nothing else bounds how many there may be.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        shell = Shell(config)
    except ValueError as error:
        logger.error("%s", error)
        return MISCONFIGURED
    except zmq.ZMQError as error:
        logger.error(
            "cannot bind %s and %s: %s. Is another broker running there? "
            "Choose others with frontend=... backend=...",
            config.frontend,
            config.backend,
            error,
        )
        return CANNOT_BIND
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: shell.stop())
    signal.signal(signal.SIGHUP, lambda *_: shell.reload())
    if config.insecure:
        logger.warning("insecure=true: whoever reaches these ports may drive robots' policies")
    logger.info("ready: robots at %s, workers at %s", config.frontend, config.backend)
    # What was loaded stays: the collector need not walk through it between requests.
    gc.freeze()
    shell.run()
    logger.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
