"""`python -m client HOST`: is the broker there, what does it serve, and how far away is it?"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

import zmq

from client import errors
from client.policy_client import DEFAULT_PORT, ZmqPolicyClient
from client.version import __version__

_PINGS = 20
_INTERRUPTED, _READER_GONE = 130, 141  # a shell's codes for what ended by SIGINT, by SIGPIPE


def run() -> int:
    """Run `main`; what Ctrl-C ends, or a reader that has enough (`| head`), ends without a word."""
    try:
        try:
            return main()
        finally:  # what is still in the buffer would fail where nobody can catch it
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_GONE


def main() -> int:
    """Print what the broker says of itself; exit code 1 where it cannot be reached."""
    parser = argparse.ArgumentParser(prog="python -m client", description=__doc__)
    parser.add_argument("host", nargs="?", default="localhost", help="the broker's host")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="its frontend's port")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument(
        "--key", metavar="FILE", help="where the broker asks for keys: this robot's"
    )
    options = parser.parse_args()
    print(f"client     {__version__}, pyzmq {zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}")
    try:
        with ZmqPolicyClient(
            options.host,
            options.port,
            timeout_s=options.timeout,
            connect_timeout_s=options.timeout,
            key=options.key,
        ) as client:
            _report(client)
    except (errors.PolicyError, ValueError) as error:
        print(f"unreachable: {error}", file=sys.stderr)
        return 1
    return 0


def _report(client: ZmqPolicyClient) -> None:
    info = client.server_info
    print(f"broker     {info['version']}, messages up to {info['max_bytes'] / 1e6:.0f} MB")
    if not info["policies"]:
        print("policies   none yet: start a worker (python -m worker env=...)")
    for name, workers in sorted(info["policies"].items()):
        states = ", ".join(f"{count} {state}" for state, count in sorted(workers.items()))
        print(f"policy     {name}: {states or 'no worker now'}")
    spent = []
    for _ in range(_PINGS):
        started = time.perf_counter()
        client.ping()
        spent.append((time.perf_counter() - started) * 1e3)
    print(f"round trip {statistics.median(spent):.2f} ms (median of {_PINGS}, without a policy)")


if __name__ == "__main__":
    sys.exit(run())
