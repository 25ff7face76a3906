"""Exchanges as a robot with two cameras makes them, and logs of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.recording.exchange import Exchange
from scripts.recording.request_log import LogWriter

CLIENT = "00112233445566778899aabbccddeeff"
ROWS, DIM = 5, 3
START = 1_700_000_000.0
PERIOD_S = 0.1


def picture(number: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Of one colour, so that a video's compression hardly changes it; (H, W, 3)."""
    return np.full((height, width, 3), (10 * number % 250, 100, 200), np.uint8)


def observe(number: int) -> dict[str, Any]:
    return {
        "observation/image": picture(number),
        "images": {"wrist": np.moveaxis(picture(number, 16, 16), -1, 0)},
        "observation/state": np.arange(4, dtype=np.float32) + number,
        "prompt": "fold the towel",
        "seed": 7,
    }


def make_exchange(number: int, **changes: Any) -> Exchange:
    exchange = Exchange(
        id=f"{CLIENT}/{number}",
        client=CLIENT,
        robot="arm",
        key="",
        session="a",
        policy="aloha",
        worker="0a1b2c3d",
        at=START + PERIOD_S * number,
        answered_at=START + PERIOD_S * number + 0.05,
        observation=observe(number),
        result={"actions": 100.0 * number + np.arange(ROWS * DIM).reshape(ROWS, DIM)},
        error=None,
        timing={"infer_ms": 40.5},
    )
    return dataclasses.replace(exchange, **changes)


def failed(number: int, **changes: Any) -> Exchange:
    error = ("no_worker", "nobody serves it")
    return make_exchange(number, result=None, error=error, **changes)


def write_log(path: Path, exchanges: Iterable[Exchange]) -> Path:
    with LogWriter(path, {}) as log:
        for exchange in exchanges:
            log.write(exchange)
    return path
