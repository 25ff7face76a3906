"""Any bytes as a message: decoded, or refused with a typed error; never anything else.

Input: for each frame but the last two bytes of length and so many bytes; the first byte says how
many frames there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

from client.body import decode_body, encode_body
from client.errors import BadObservation, PolicyError
from client.wire import KINDS, Header, decode_header, encode_header, split_envelope
from tests.fuzz.choices import Choices

MOST_FRAMES = 6
LONGEST = 8192  # bytes of one frame


def decode(data: bytes) -> None:
    """Decode one message.

    Raises:
        AssertionError: what was decoded is not what is encoded from it, or has grown.
        Exception: any other but PolicyError, which would have ended broker or worker.
    """
    choices = Choices(data)
    frames = [choices.some(LONGEST) for _ in range(choices.below(MOST_FRAMES))]
    frames.append(choices.rest())
    message: Sequence[Any] = [zmq.Frame(frame) for frame in frames]
    try:
        envelope, message = split_envelope(message)
    except PolicyError:
        pass  # a worker's message has none
    else:
        if len(envelope) + len(message) != len(frames) or len(envelope[-1]):
            raise AssertionError("frames were lost between envelope and message")
    if message:
        _header(message[0])
        _body(message[1:])


def _header(frame: zmq.Frame) -> None:
    try:
        header = decode_header(frame, KINDS)
    except PolicyError as error:
        _explained(error)
        return
    again: Header = decode_header(encode_header(header), KINDS)
    if repr(again) != repr(header):
        raise AssertionError(f"{header} became {again}")


def _body(frames: Sequence[zmq.Frame]) -> None:
    try:
        body = decode_body(frames)
    except PolicyError as error:
        _explained(error)
        return
    try:
        encoded = encode_body(body)
    except BadObservation:
        return  # msgpack reads timestamps and extensions, which no observation holds
    again = encode_body(decode_body(encoded))
    if again != encoded:
        raise AssertionError(f"{body!r} is encoded as {encoded!r}, and then as {again!r}")


def _explained(error: PolicyError) -> None:
    message = str(error)
    if not 10 < len(message) < 1000:
        raise AssertionError(f"a message of {len(message)} characters: {message!r:.200}")
