"""Classes with the names of LeRobot's, and its calls by gRPC, from what is known of its client."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import grpc

from tests.e2e.stack import WAIT_S

MODULE = "lerobot.async_inference.helpers"
PIECE = 2 * 2**20


@dataclass
class RemotePolicyConfig:
    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict[str, Any]
    actions_per_chunk: int
    device: str = "cpu"
    rename_map: dict[str, str] = field(default_factory=dict)


@dataclass
class TimedObservation:
    timestamp: float
    timestep: int
    observation: dict[str, Any]
    must_go: bool = False


@dataclass
class TimedAction:
    timestamp: float
    timestep: int
    action: Any


def install() -> None:
    """Have pickle find the classes where LeRobot has them."""
    for name in ("lerobot", "lerobot.async_inference", MODULE):
        sys.modules.setdefault(name, ModuleType(name))
    for cls in (RemotePolicyConfig, TimedObservation, TimedAction):
        cls.__module__ = MODULE
        setattr(sys.modules[MODULE], cls.__name__, cls)


install()


def length(number: int) -> bytes:
    """A protobuf varint."""
    found = b""
    while number > 0x7F:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


class Robot:
    """One channel to the service."""

    def __init__(self, port: int, metadata: Sequence[tuple[str, str]] = ()) -> None:
        """`metadata` go with every call."""
        # A channel of its own, as another process would have.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self._metadata = list(metadata)

    def call(self, method: str, data: bytes = b"", **options: Any) -> bytes:
        call = self.channel.unary_unary(f"/transport.AsyncInference/{method}")
        found: bytes = call(data, timeout=WAIT_S, **{"metadata": self._metadata, **options})
        return found

    def instruct(self, setup: Any, **options: Any) -> None:
        self.instruct_with(pickle.dumps(setup), **options)

    def instruct_with(self, data: bytes, **options: Any) -> None:
        self.call("SendPolicyInstructions", b"\x0a" + length(len(data)) + data, **options)

    def observe(self, observation: Any) -> None:
        self.observe_with(pickle.dumps(observation))

    def observe_with(self, data: bytes) -> None:
        """In pieces, of which the only one has the state END."""
        starts = range(0, len(data), PIECE)

        def pieces() -> Any:
            for start in starts:
                part = data[start : start + PIECE]
                is_last, is_first = start + PIECE >= len(data), start == 0
                state = 3 if is_last else 1 if is_first else 2
                yield b"\x08" + bytes([state]) + b"\x12" + length(len(part)) + part

        self.channel.stream_unary("/transport.AsyncInference/SendObservations")(
            pieces(), timeout=WAIT_S, metadata=self._metadata
        )

    def actions(self) -> Any:
        """The list of actions, or None: none yet, and why the server says so."""
        call = self.channel.unary_unary("/transport.AsyncInference/GetActions")
        answer, told = call.with_call(b"", timeout=WAIT_S, metadata=self._metadata)
        self.error = str(dict(told.trailing_metadata()).get("error", ""))
        if not answer:
            return None
        at = 1
        while answer[at] > 0x7F:
            at += 1
        return pickle.loads(answer[at + 1 :])

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Robot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
