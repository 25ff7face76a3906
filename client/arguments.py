"""Checks of what a robot's program passes: every form that says the same thing is taken.

A number may be Python's or numpy's, a port may be text, a name may be a `str` of any kind. What is
refused is refused with the argument's name.
"""

from __future__ import annotations

import enum
import operator
from typing import Any

import numpy as np

from client import errors
from client.wire import LONGEST_MS

LONGEST_S = LONGEST_MS / 1e3
MAX_ENDPOINT = 1024  # characters


def number(name: str, given: Any) -> float:
    """A number as a float.

    Raises:
        ValueError: it is not a number, or nan.
    """
    value = (
        given.item() if isinstance(given, (np.ndarray, np.generic)) and given.size == 1 else given
    )
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
        return float(value)
    raise ValueError(f"{name} is {given!r}: a number of seconds is expected")


def seconds(name: str, given: Any) -> float:
    """A time to wait, from more than 0 seconds to a day.

    Raises:
        ValueError: it is not.
    """
    value = number(name, given)
    if not 0 < value <= LONGEST_S:
        raise ValueError(f"{name} is {given!r}: seconds from more than 0 to a day are expected")
    return value


def integer(name: str, given: Any, low: int, high: int) -> int:
    """A whole number in a range; a text of digits will do.

    Raises:
        ValueError: it is not.
    """
    value = given
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, float) and value % 1 == 0:
        value = int(value)
    if not isinstance(value, (bool, np.bool_)):
        try:
            value = operator.index(value)
        except TypeError:
            pass
        else:
            if low <= value <= high:
                return int(value)
    raise ValueError(f"{name} is {given!r}: a whole number from {low} to {high} is expected")


def text(name: str, given: Any, longest: int, *, cut: bool = False) -> str:
    """A name of 1 to `longest` characters; a longer one is cut, or refused.

    Raises:
        ValueError: it is no text, empty or too long.
    """
    value = given.value if isinstance(given, enum.Enum) else given
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, str) or not value or (len(value) > longest and not cut):
        raise ValueError(f"{name} is {given!r}: a text of 1 to {longest} characters is expected")
    return "".join(value)[:longest]  # a plain str, whatever kind of one was given


def endpoint(given: Any, port: Any) -> str:
    """The ZeroMQ endpoint of a host name, an address or a whole endpoint.

    Raises:
        ValueError: `host` or `port` is none; the message names it.
    """
    host = text("host", given, MAX_ENDPOINT)
    if "://" in host:
        return host
    port = integer("port", port, 1, 65535)
    if host.count(":") == 1 or "]:" in host:
        raise ValueError(f"host is {host!r}: the port is given as port=, by itself")
    # Only addresses of IPv6 have colons.
    return f"tcp://[{host.strip('[]')}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def whole_seed(given: Any) -> int:
    """A seed of an inference's noise.

    Raises:
        errors.BadObservation: it is not from 0 to 2^64 - 1.
    """
    try:
        return integer("seed", given, 0, 2**64 - 1)
    except ValueError:
        raise errors.BadObservation(
            f"seed: a whole number from 0 to 2^64 - 1 is expected, not {given!r}"
        ) from None
