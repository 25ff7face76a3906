"""`python -m broker`: takes robots' requests and balances them over workers."""

from __future__ import annotations

import logging
import signal
import sys

import zmq

from broker.config import BrokerConfig
from broker.shell import Shell
from conf.compose import command_line

logger = logging.getLogger("broker")

CANNOT_BIND = 3


def main() -> int:
    """Run until SIGINT or SIGTERM; exit codes: 0 stopped, 2 configuration, 3 cannot bind."""
    config = command_line(
        "broker", BrokerConfig, f"{__doc__}\n\nusage: python -m broker [KEY=VALUE ...]"
    )
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        shell = Shell(config)
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
    logger.info("ready: robots at %s, workers at %s", config.frontend, config.backend)
    shell.run()
    logger.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
