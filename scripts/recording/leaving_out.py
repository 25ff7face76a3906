"""Leaves texts or images out of an exchange before it is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from scripts.recording.exchange import Exchange

_IMAGE_KEY = "__image__"  # of a compressed image that stands for an array (docs/protocol.md)


def leave_out(exchange: Exchange, *, prompts: bool, images: bool) -> Exchange:
    """The exchange without what is named; `missing` says what was left out.

    Prompts are every text in observation and result, whatever its key, and an error's message,
    which may quote one. Images are compressed files, arrays of bytes and arrays of three
    dimensions and more.
    """
    if not prompts and not images:
        return exchange
    found: dict[str, None] = {}  # in the order in which they were

    def is_left_out(value: Any) -> bool:
        if prompts and _is_text(value):
            found["prompts"] = None
        elif images and _is_image(value):
            found["images"] = None
        else:
            return False
        return True

    error = exchange.error
    observation = _without(exchange.observation, is_left_out)
    result = _without(exchange.result, is_left_out)
    missing = [exchange.missing, f"left out: {' and '.join(found)}" if found else ""]
    return dataclasses.replace(
        exchange,
        observation=observation,
        result=result,
        error=(error[0], "left out") if error is not None and prompts else error,
        missing="; ".join(filter(None, missing)),
    )


def _without(value: Any, is_left_out: Callable[[Any], bool]) -> Any:
    if isinstance(value, dict):
        kept = {key: member for key, member in value.items() if not is_left_out(member)}
        return {key: _without(member, is_left_out) for key, member in kept.items()}
    if isinstance(value, list):
        return [_without(member, is_left_out) for member in value if not is_left_out(member)]
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind in "US")


def _is_image(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 or value.ndim >= 3
    return isinstance(value, bytes) or (isinstance(value, dict) and _IMAGE_KEY in value)
