"""Peers that send what no robot and no worker would, over real sockets."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from threading import Event

import numpy as np
import zmq

from client.body import encode_body
from client.wire import FROM_CLIENT, FROM_WORKER, KINDS, Header, encode_header

SOME_NAME = "other"  # a policy that no honest worker serves
_PER_SOCKET = 40  # messages before a new socket is opened
_PAUSE_S = 0.002
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 1 + 31)


def honest_message(dice: random.Random) -> list[bytes]:
    """Header and body as some peer could send them."""
    header: Header = {
        "v": 1,
        "kind": dice.choice(sorted({*FROM_CLIENT, *FROM_WORKER})),
        "id": [dice.randbytes(16), dice.randrange(4)],
        "policy": SOME_NAME,
        "deadline_ms": dice.choice((0.0, 10.0, 500.0)),
        "session": dice.choice(("", "one")),
        "buffers": True,
        "attempt": 1,
        "epoch": dice.randrange(3),
        "incarnation": dice.randbytes(16),
        "state": dice.choice(("warming", "ready", "draining")),
        "slots": dice.randrange(1, 65),
        "ids": [],
        "n": dice.randrange(100),
    }
    observation = {"state": np.zeros(14), "image": np.zeros((100, 200), np.uint8)}
    return [encode_header(header), *(bytes(frame) for frame in encode_body(observation))]


def mutate(dice: random.Random, frames: list[bytes]) -> list[bytes]:
    """One to three things wrong with a message."""
    frames = list(frames)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(frames)) if frames else 0
        wrong = dice.randrange(6)
        if wrong == 0 or not frames:
            frames.insert(at, dice.randbytes(dice.choice((0, 1, 10, 5000))))
        elif wrong == 1:
            del frames[at]
        elif wrong == 2:
            frames[at] = frames[at][: dice.randrange(len(frames[at]) + 1)]
        elif wrong == 3:
            frames += frames[: dice.choice((1, 80))]
        else:
            damaged = bytearray(frames[at])
            for _ in range(dice.randrange(1, 8)):
                if damaged:
                    damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            frames[at] = bytes(damaged)
    return frames or [b""]


class Vandal(threading.Thread):
    """Does the same harm again and again until `over`; `done` counts how often."""

    def __init__(self, seed: int, harm: Callable[[random.Random], None], over: Event) -> None:
        super().__init__(name="vandal", daemon=True)
        self.done = 0
        self._dice, self._harm, self._over = random.Random(seed), harm, over

    def run(self) -> None:
        """Do it."""
        while not self._over.is_set():
            self._harm(self._dice)
            self.done += 1
            time.sleep(_PAUSE_S)  # else this process, and no broker, is what is slow


def send_messages(dice: random.Random, port: int, kind: int, as_robot: bool) -> None:
    """Mutated messages over one socket of `kind` (zmq.DEALER or zmq.REQ)."""
    with zmq.Context() as context, context.socket(kind) as peer:
        peer.setsockopt(zmq.LINGER, 200)
        peer.setsockopt(zmq.SNDTIMEO, 1000)
        peer.connect(f"tcp://127.0.0.1:{port}")
        # A REQ may send only once before it is answered, and most of this never is.
        for _ in range(1 if kind == zmq.REQ else _PER_SOCKET):
            frames = mutate(dice, honest_message(dice))
            envelope = [b""] if as_robot and kind == zmq.DEALER and dice.random() < 0.9 else []
            peer.send_multipart([*envelope, *frames])
        peer.poll(10)  # the answers to some of them


def send_bytes(dice: random.Random, port: int) -> None:
    """A connection that does not speak ZeroMQ, or speaks it only at first."""
    openings: tuple[Callable[[], bytes], ...] = (
        lambda: dice.randbytes(dice.randrange(1, 2000)),
        lambda: b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        lambda: _GREETING[: dice.randrange(1, len(_GREETING))],
        lambda: _GREETING + dice.randbytes(500),
        lambda: _GREETING + b"\x04\x19\x05READY\x0bSocket-Type" + struct.pack(">I", 2**31),
        lambda: _GREETING + b"\x02" + struct.pack(">Q", 2**62),
    )
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        peer.sendall(dice.choice(openings)())
        if dice.random() < 0.5:  # by force, with what was not read
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def kinds_covered(seed: int, count: int) -> set[str]:
    """Which kinds occur unharmed in that many messages: for a test of the vandal itself."""
    dice = random.Random(seed)
    texts = [b"".join(mutate(dice, honest_message(dice))) for _ in range(count)]
    return {kind for kind in KINDS if any(kind.encode() in text for text in texts)}
