"""A peer's key file: JSON, made by `python -m scripts.keys make NAME`, readable by its owner only.

    {"name": "arm-1", "role": "robot", "public_key": Z85, "secret_key": Z85, "broker_key": Z85}

Keys are CURVE's (Curve25519), 32 bytes as 40 characters of Z85, ZeroMQ's text form of them.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import struct
from typing import Any, NamedTuple

import zmq
from zmq.utils import z85

logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """What a peer needs to prove who it is, and to recognise its broker."""

    name: str
    public: bytes
    secret: bytes
    broker: bytes  # the broker's public key

    def __repr__(self) -> str:
        return f"Key({self.name!r})"  # the secret must not get into logs

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket that is not connected yet use this key, and accept only its broker."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.broker)


def key_refusal(event: int, value: int, key: Key | None) -> str:
    """Why this broker will never let us in with `key`, where a socket monitor's event says so.

    Empty for all other events. After such an event libzmq does not try again.
    """
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        name = "none" if key is None else repr(key.name)
        return f"refuses the key ({name}): it is unknown there, was revoked, or has another role"
    if (event, value) == (
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH,
    ):
        return "asks for a key: key=FILE" if key is None else "has no keys: leave ours (key=) away"
    return ""


def read_key(path: str | os.PathLike[str]) -> Key:
    """Read a peer's key file.

    Raises:
        ValueError: it is missing or not a key file; the message names it.
    """
    content = read_json(path)
    keys = [z85_field(path, content, field) for field in ("public_key", "secret_key", "broker_key")]
    check_pair(path, *keys[:2])
    return Key(str(content.get("name", "")), *keys)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of this kind; warn if it holds a secret and others may read it.

    Raises:
        ValueError: it cannot be read, or is not a JSON object.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
            mode = os.fstat(file.fileno()).st_mode
    except (OSError, ValueError) as error:
        raise ValueError(f"no key file: {os.fspath(path)}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"no key file: {os.fspath(path)} holds no JSON object")
    if "secret_key" in content and mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("%s holds a secret and others may read it: chmod 600", os.fspath(path))
    return content


def z85_field(path: str | os.PathLike[str], content: dict[str, Any], field: str) -> bytes:
    """A key in a file's content.

    Raises:
        ValueError: it is missing, or not a key.
    """
    value = content.get(field)
    try:
        if not isinstance(value, str) or len(z85.decode(value)) != 32:
            raise ValueError
    except (ValueError, KeyError, struct.error):
        raise ValueError(
            f"no key file: {os.fspath(path)} has no {field} of 40 Z85 characters"
        ) from None
    return value.encode("ascii")


def check_pair(path: str | os.PathLike[str], public: bytes, secret: bytes) -> None:
    """Check that two keys belong together.

    Raises:
        ValueError: they do not.
    """
    if not zmq.has("curve"):
        raise ValueError("this libzmq was built without CURVE: install pyzmq from its wheel")
    if zmq.curve_public(secret) != public:
        raise ValueError(f"no key file: the keys in {os.fspath(path)} do not belong together")
