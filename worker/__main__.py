"""`python -m worker env=aloha`: serves one policy on one device to a broker."""

from __future__ import annotations

import os
import signal

from conf import signals

if __name__ == "__main__":  # before the imports that take a second: nothing is there to be lost
    signals.end_while_starting()
    signals.handle(signal.SIGHUP, lambda name: os._exit(0))

import logging
import sys

import zmq

from client.errors import BadObservation
from client.keys import read_key
from conf.logs import set_up
from worker.errors import MissingExtra, WorkerError, missing_extra

try:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from conf.compose import command_line
    from worker.config import WorkerConfig
    from worker.robots.guards import guards_of
except ModuleNotFoundError as _error:
    _missing = missing_extra(_error)
    if _missing is None:
        raise
    print(_missing, file=sys.stderr)
    sys.exit(2)  # as any other mistake in how it is set up
from worker.addresses import broker_list
from worker.events import BROKEN, DRAIN_S
from worker.policy import Policy
from worker.service import Service

logger = logging.getLogger("worker")

BUG, MISCONFIGURED = 1, 2
_ABOUT = f"""{__doc__}

usage: python -m worker env=NAME [KEY=VALUE ...]

SIGTERM drains, and so do SIGINT and the SIGHUP of a closed terminal: what is in hand is finished,
for up to {DRAIN_S} s, and the worker says goodbye. A second one ends it at once. What is ignored at
the start, as by nohup, stays ignored.
Exit codes: 0 stopped, 1 a bug, 2 configuration, 3 the policy cannot be served, 4 the broker refused
this worker or its key."""


def main() -> int:
    """Run until a signal asks for the end; returns the exit code."""
    config = command_line("worker", WorkerConfig, _ABOUT)
    set_up("info", config.log_format)
    try:
        key = None if config.key is None else read_key(config.key)
    except ValueError as error:
        logger.error("key=%s: %s", config.key, error)
        return MISCONFIGURED
    try:
        service = Service(
            build(config),
            name=config.full_name,
            brokers=broker_list(config.broker),
            slots=config.runtime.slots,
            batch_wait_s=config.runtime.batch_wait_s,
            key=key,
            guards=guards_of(config.env),
        )
    except MissingExtra as error:
        logger.error("%s", error)
        return MISCONFIGURED
    except (WorkerError, BadObservation) as error:
        logger.error("%s", error)
        return BROKEN
    except zmq.ZMQError as error:
        logger.error("broker=%s is no address: %s", config.broker, error)
        return MISCONFIGURED
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signals.handle(number, lambda name: service.stop(f"received {name}"))
    return _run(service)


def _run(service: Service) -> int:
    try:
        code = service.run()
    except Exception:
        logger.exception("stopped by a bug: please report it")
        code = BUG
    if not service.is_idle:
        # The inference thread is inside the model and cannot be interrupted: leave without it.
        logging.shutdown()
        os._exit(code)
    return code


def build(config: WorkerConfig) -> Policy:
    """The policy that `policy._target_` names.

    Raises:
        WorkerError: its class, arguments or files are not what they should be.
        MissingExtra: it needs a package that is not installed.
    """
    target = config.policy.get("_target_")
    try:
        policy: Policy = instantiate(config.policy)
    except InstantiationException as error:
        if isinstance(error.__cause__, WorkerError):
            raise error.__cause__ from None
        missing = missing_extra(error)
        if missing is not None:
            raise missing from error
        reason = " ".join(str(error.__cause__ or error).split())
        raise WorkerError(f"policy._target_={target}: {reason}") from error
    if not callable(getattr(policy, "infer", None)):
        raise WorkerError(f"policy._target_={target} has no method infer(dict) -> dict")
    return policy


if __name__ == "__main__":
    sys.exit(main())
