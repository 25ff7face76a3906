"""How long an answer takes: steady, with jitter, or as over a bad Wi-Fi."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

TRACE = Path(__file__).parent / "wifi_trace.json"
DELAYS_MS = (0, 50, 100, 150, 200, 300, 400)
JITTERED_MS = (100, 200)


@dataclass(frozen=True)
class Link:
    """`delays(seed)` gives the seconds from each observation to its answer, one after the other."""

    name: str
    delay_ms: float
    """Of a steady link; else the mean."""
    delays: Callable[[int], Iterator[float]]


def steady(delay_ms: float) -> Link:
    """Always the same."""
    return Link(f"{delay_ms:g} ms", delay_ms, lambda seed: cycle([delay_ms / 1e3]))


def jittered(delay_ms: float) -> Link:
    """Anything from half to one and a half of `delay_ms`."""

    def delays(seed: int) -> Iterator[float]:
        random = np.random.default_rng([seed, 1])
        while True:
            yield delay_ms / 1e3 * (0.5 + random.random())

    return Link(f"{delay_ms:g} ms, jitter", delay_ms, delays)


def wifi() -> Link:
    """The delays of `TRACE` in order, from a place that the seed decides."""
    trace = [delay_ms / 1e3 for delay_ms in json.loads(TRACE.read_text())["delays_ms"]]

    def delays(seed: int) -> Iterator[float]:
        start = 37 * seed % len(trace)
        return islice(cycle(trace), start, None)

    return Link("Wi-Fi", 1e3 * float(np.mean(trace)), delays)


def all_links(
    delays_ms: Sequence[float] = DELAYS_MS, jittered_ms: Sequence[float] = JITTERED_MS
) -> list[Link]:
    """Steady ones, those with jitter, and the trace."""
    return [*map(steady, delays_ms), *map(jittered, jittered_ms), wifi()]


def make_trace(count: int = 600, seed: int = 0) -> list[float]:
    """Milliseconds of `count` requests over a made-up Wi-Fi, of which `TRACE` is one.

    80 ms of inference and a few of radio; now and then a bad spell of several requests, in which
    frames are sent again and again. Two states in the manner of Gilbert and Elliott.
    """
    random, delays, is_bad = np.random.default_rng(seed), [], False
    for _ in range(count):
        is_bad = random.random() < (0.7 if is_bad else 0.05)
        radio_ms = random.exponential(110.0) + 30.0 if is_bad else random.gamma(2.0, 4.0)
        delays.append(round(80.0 + min(radio_ms, 400.0), 1))
    return delays
