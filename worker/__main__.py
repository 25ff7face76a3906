"""`python -m worker env=aloha`: serves one policy on one device to a broker."""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # before the imports that take a second: nothing is there to be lost
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(_number, lambda *_: os._exit(0))

import logging
import sys

import zmq
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from client.errors import BadObservation
from client.keys import read_key
from conf.compose import command_line
from conf.logs import set_up
from worker.config import WorkerConfig
from worker.errors import WorkerError
from worker.events import BROKEN
from worker.policy import Policy
from worker.service import Service
from worker.session import DRAIN_S

logger = logging.getLogger("worker")

MISCONFIGURED = 2
_ABOUT = f"""{__doc__}

usage: python -m worker env=NAME [KEY=VALUE ...]

SIGTERM drains, and so does SIGHUP, when its terminal goes: what is in hand is finished, for up to
{DRAIN_S} s, and the worker says goodbye.
Exit codes: 0 stopped, 1 a bug, 2 configuration, 3 the policy cannot be served, 4 the broker refused
this worker or its key."""


def main() -> int:
    """Run until SIGINT or SIGTERM; returns the exit code."""
    config = command_line("worker", WorkerConfig, _ABOUT)
    set_up("info", config.log_format)
    try:
        key = None if config.key is None else read_key(config.key)
    except ValueError as error:
        logger.error("key=%s: %s", config.key, error)
        return MISCONFIGURED
    try:
        policy = build(config)
        service = Service(
            policy,
            name=config.name,
            broker=config.broker,
            slots=config.runtime.slots,
            batch_wait_s=config.runtime.batch_wait_s,
            key=key,
        )
    except (WorkerError, BadObservation) as error:
        logger.error("%s", error)
        return BROKEN
    except zmq.ZMQError as error:
        logger.error("broker=%s is no address: %s", config.broker, error)
        return MISCONFIGURED
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: service.stop())
    code = service.run()
    if not service.is_idle:
        # The device thread is inside the model and cannot be interrupted: leave without it.
        logging.shutdown()
        os._exit(code)
    return code


def build(config: WorkerConfig) -> Policy:
    """The policy that `policy._target_` names.

    Raises:
        WorkerError: its class, arguments or files are not what they should be.
    """
    try:
        policy: Policy = instantiate(config.policy)
    except InstantiationException as error:
        if isinstance(error.__cause__, WorkerError):
            raise error.__cause__ from None
        reason = " ".join(str(error.__cause__ or error).split())
        raise WorkerError(f"policy._target_={config.policy.get('_target_')}: {reason}") from error
    if not callable(getattr(policy, "infer", None)):
        raise WorkerError(
            f"policy._target_={config.policy.get('_target_')} has no method infer(dict) -> dict"
        )
    return policy


if __name__ == "__main__":
    sys.exit(main())
