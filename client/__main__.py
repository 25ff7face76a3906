"""`python -m client HOST`: is the broker there, what does it serve, and how far away is it?"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

import zmq

from client import errors
from client.measuring import measure
from client.policy_client import DEFAULT_PORT, ZmqPolicyClient
from client.version import __version__

_PINGS = 20
_LONGEST_S = 600.0  # of measuring
_BAR = 40  # signs
_INTERRUPTED, _READER_GONE = 130, 141  # as shells report an end by SIGINT, by SIGPIPE


def run() -> int:
    """Run `main`; Ctrl-C, or a reader that stops reading (`| head`), ends it quietly."""
    try:
        try:
            return main()
        finally:  # here, since an error while Python ends could not be caught
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_GONE


def main() -> int:
    """Print what the broker says about itself; the exit code is 1 if it cannot be reached."""
    parser = argparse.ArgumentParser(prog="python -m client", description=__doc__)
    parser.add_argument(
        "host", nargs="?", default="localhost", help="the broker's host, or several: A,B:8001"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="its frontend's port")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument(
        "--key", metavar="FILE", help="this robot's key, if the broker asks for keys"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="ask the served policy with made-up observations of its own form, by every codec: how "
        "long an answer takes, where the time goes, and what to set. It holds up no other robot "
        "longer than a robot's request does",
    )
    parser.add_argument("--policy", metavar="NAME", help="to measure, where several are served")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring (10)")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")
    options = parser.parse_args()
    if not 0.0 < options.seconds <= _LONGEST_S:
        parser.error(f"--seconds must be above 0 and at most {_LONGEST_S:g}")
    if options.measure:
        return _measure(options)
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


def _measure(options: argparse.Namespace) -> int:
    def connect(**further: Any) -> ZmqPolicyClient:
        return ZmqPolicyClient(
            options.host,
            options.port,
            policy=options.policy,
            timeout_s=max(options.timeout, options.seconds),
            connect_timeout_s=options.timeout,
            key=options.key,
            **further,
        )

    try:
        found = measure(connect, options.seconds, _bar)
    except (errors.PolicyError, ValueError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))
        return 0
    print(f"{'images as':10} {'KB':>7} {'p50 ms':>8} {'p95 ms':>8}   where it goes, ms (medians)")
    for way in found.ways:
        stages = ", ".join(f"{stage} {spent:.2f}" for stage, spent in way.stages_ms.items())
        times = f"{way.p50_ms:8.2f} {way.p95_ms:8.2f}"
        print(f"{way.name:10} {way.bytes / 1e3:7.0f} {times}   {stages}")
    rate = found.link_mbit_per_s
    told = "too fast to tell" if rate is None else f"about {rate:.0f} Mbit/s"
    print(f"link       {told}; {found.ping_ms:.2f} ms there and back without images")
    print(found.advice)
    return 0


def _bar(share: float) -> None:
    if sys.stderr.isatty():
        full = round(share * _BAR)
        bar = "#" * full + "." * (_BAR - full)
        print(f"\rmeasuring [{bar}] {share:4.0%}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run())
