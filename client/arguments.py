"""Checks of the arguments that a robot's program passes: every form with the same meaning is taken.

A number may be Python's or numpy's, a port may be text, a name may be a `str` of any kind. An error
names the argument.
"""

from __future__ import annotations

import difflib
import enum
import logging
import operator
import uuid
from typing import Any, Sequence

import numpy as np

from client import errors
from client.wire import LONGEST_MS

logger = logging.getLogger(__name__)

LONGEST_S = LONGEST_MS / 1e3
MAX_ENDPOINT = 1024  # characters
MAX_BROKERS = 16  # each is kept connected
OPTIONS = (
    "noise",
    "seed",
    "prev_actions",
    "inference_delay",
    "prefix_attention_horizon",
    "schedule",
    "max_guidance_weight",
    "mode",
)
"""Keys of an observation that `infer` takes as arguments of their own."""
_STAGES = ("queue_ms", "decode_ms", "wait_ms", "infer_ms", "encode_ms")
_NOTHING = (0.0,) * len(_STAGES)


def number(name: str, given: Any) -> float:
    """A number as a float.

    Raises:
        ValueError: it is not a number, or is NaN.
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
        ValueError: it is not a number in that range.
    """
    value = number(name, given)
    if not 0 < value <= LONGEST_S:
        raise ValueError(f"{name} is {given!r}: seconds from more than 0 to a day are expected")
    return value


def integer(name: str, given: Any, low: int, high: int) -> int:
    """A whole number in a range; digits in a string are taken too.

    Raises:
        ValueError: it is not a whole number in that range.
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
        ValueError: it is not text, is empty, or is too long.
    """
    value = given.value if isinstance(given, enum.Enum) else given
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, str) or not value or (len(value) > longest and not cut):
        raise ValueError(f"{name} is {given!r}: a text of 1 to {longest} characters is expected")
    return "".join(value)[:longest]  # a plain str, whatever kind of one was given


def one_of(name: str, given: Any, known: Sequence[str]) -> str:
    """One of a few words.

    Raises:
        ValueError: it is not one of them; the message has the nearest.
    """
    value = given.value if isinstance(given, enum.Enum) else given
    if isinstance(value, str) and value in known:
        return "".join(value)
    close = difflib.get_close_matches(str(value), known, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"{name} is {given!r}{hint}: {' or '.join(known)} is expected")


def endpoint(given: Any, port: Any) -> str:
    """The ZeroMQ endpoint of a host name, an address or a whole endpoint.

    Raises:
        ValueError: `host` or `port` is not valid; the message names it.
    """
    host = text("host", given, MAX_ENDPOINT)
    if "://" in host:
        return host
    port = integer("port", port, 1, 65535)
    if host.count(":") == 1 or "]:" in host:
        raise ValueError(f"host is {host!r}: give the port by itself, as port=")
    # Only IPv6 addresses have colons.
    return f"tcp://[{host.strip('[]')}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def endpoints(given: Any, port: Any) -> list[str]:
    """The endpoints of one broker or of several, in order; a broker named twice counts once.

    Several are a list, or one text with commas. Each of them may bring its own port: `b:8001`.

    Raises:
        ValueError: `host` or `port` is not valid; the message names it.
    """
    if isinstance(given, str) and "," in given:
        given = [part.strip() for part in given.split(",")]
    if not isinstance(given, (list, tuple)):
        return [endpoint(given, port)]
    if not 1 <= len(given) <= MAX_BROKERS:
        raise ValueError(f"host has {len(given)} brokers: 1 to {MAX_BROKERS} are expected")
    found: list[str] = []
    for each in given:
        host, colon, own_port = text("host", each, MAX_ENDPOINT).rpartition(":")
        if "://" in each or not colon or (":" in host and not host.endswith("]")):
            address = endpoint(each, port)
        else:
            address = endpoint(host, own_port)
        if address in found:
            logger.warning("host names the broker at %s twice: it counts once", address)
        else:
            found.append(address)
    return found


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


def with_options(obs: Any, options: Sequence[Any]) -> Any:
    """An observation with the options that are given; they come in the order of `OPTIONS`."""
    for value in options:
        if value is not None:
            break
    else:
        return obs
    given = {name: value for name, value in zip(OPTIONS, options) if value is not None}
    return {**obs, **given} if isinstance(obs, dict) else obs


def accounted(server: dict[str, float]) -> float:
    """Milliseconds of the round trip that broker and worker claim for their own stages."""
    return sum(map(server.get, _STAGES, _NOTHING))


def fresh_session() -> str:
    """The name of a new episode."""
    return uuid.uuid4().hex[:8]
