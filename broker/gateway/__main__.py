"""`python -m broker.gateway`: other systems' robots, unchanged, and a page for people."""

from __future__ import annotations

from conf import signals

if __name__ == "__main__":  # before the imports that take a second
    signals.end_while_starting()

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import signal
import sys

_NEEDED = ("hydra", "omegaconf", "prometheus_client", "starlette", "uvicorn", "websockets", "grpc")
try:
    from broker.gateway import http
    from broker.gateway.config import GatewayConfig
    from broker.gateway.dialects import listen_of
    from broker.gateway.gateway import Gateway
    from conf.compose import command_line
    from conf.logs import set_up
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] not in _NEEDED:
        raise
    print(
        f"the gateway needs {_error.name}, which is not installed: "
        "pip install 'zmq-policy-broker[gateway]'",
        file=sys.stderr,
    )
    sys.exit(2)  # as any other mistake in how it is set up

logger = logging.getLogger("gateway")

BUG, MISCONFIGURED, CANNOT_BIND = 1, 2, 3
_ABOUT = f"""{__doc__}

usage: python -m broker.gateway [KEY=VALUE ...]

SIGINT and SIGTERM end it. Exit codes: 0 stopped, 1 a bug, 2 configuration, 3 cannot bind."""


def main() -> int:
    """Run until a signal asks for the end; returns the exit code."""
    config = command_line("gateway", GatewayConfig, _ABOUT)
    set_up(config.log_level, config.log_format)
    logging.getLogger("websockets").setLevel(logging.ERROR)  # it tells of every bad handshake
    _keep_large_blocks()
    # Each connection takes some file descriptors, and nothing else limits their number.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        gateway = Gateway(config)
    except ValueError as error:
        logger.error("%s", error)
        return MISCONFIGURED
    try:
        asyncio.run(_serve(gateway))
    except ModuleNotFoundError as error:
        logger.error("a dialect needs %s: pip install 'zmq-policy-broker[gateway]'", error.name)
        return MISCONFIGURED
    except OSError as error:
        logger.error("cannot listen: %s. Is another program there? Choose another port", error)
        return CANNOT_BIND
    except Exception:
        logger.exception("stopped by a bug: please report it")
        return BUG
    logger.info("stopped")
    return 0


def _keep_large_blocks() -> None:
    """Have glibc keep the memory of one message for the next, instead of asking the kernel anew.

    Measured with 301 KB: 100 to 200 µs less processor time a message (mallopt(3)).
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in ((-3, 32 << 20), (-1, 64 << 20), (-2, 16 << 20)):
            mallopt(parameter, size)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD


async def _serve(gateway: Gateway) -> None:
    """Listen for all dialects until a signal comes."""
    config, stopping = gateway.config, asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stopping.set)
    if config.insecure:
        logger.warning("insecure=true: anyone who reaches these ports may use the policies")
    async with contextlib.AsyncExitStack() as listeners:
        listeners.callback(gateway.close)
        for name, settings in config.dialects().items():
            await listeners.enter_async_context(listen_of(name)(gateway, settings))
            logger.info("%s at %s", name, settings.listen)
        if config.http.listen is not None:
            await listeners.enter_async_context(http.listen(gateway))
            logger.info("page, /status and /metrics at http://%s", config.http.listen)
        logger.info("ready: asks the broker at %s", ", or ".join(gateway.brokers))
        # What is loaded by now stays for good: garbage collection need not visit it again.
        gc.freeze()
        await stopping.wait()
        gateway.close()
    gateway.flush()


if __name__ == "__main__":
    sys.exit(main())
