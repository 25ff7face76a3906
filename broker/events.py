"""Events and commands: the whole interface between the core and the sockets around it.

Payloads (body and buffers) are opaque: the core counts their bytes and passes them on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from client.wire import Frame, Header

Payload = Sequence[Frame]


@dataclass(slots=True)
class RobotMessage:
    """A message of a robot whose header was decoded; `sender` is its routing id."""

    sender: bytes
    envelope: Payload
    header: Header
    payload: Payload
    peer: str = ""  # the name of the key that it came with; empty without keys


@dataclass(slots=True)
class WorkerMessage:
    """A message of a worker whose header was decoded."""

    worker: bytes
    header: Header
    payload: Payload


@dataclass(slots=True)
class ConnectionLost:
    """The connection on which these workers were last heard has closed: a hint, not a proof."""

    workers: Sequence[bytes]


@dataclass(slots=True)
class WorkerUnreachable:
    """Sending to this worker failed, since nobody has that routing id: that is the proof."""

    worker: bytes


@dataclass(slots=True)
class Tick:
    """Nothing but time has passed."""


@dataclass(slots=True)
class Stop:
    """Accept no more requests and fail those that wait; the second time, fail all others too."""


@dataclass(slots=True)
class ToRobot:
    """Send this to the robot that the envelope leads to."""

    envelope: Payload
    header: Header
    payload: Payload = ()


@dataclass(slots=True)
class ToWorker:
    """Send this to a worker; answer with `WorkerUnreachable` if there is none."""

    worker: bytes
    header: Header
    payload: Payload = ()


@dataclass(slots=True)
class Log:
    """Something that an operator should read; `level` is one of `logging`'s."""

    level: int
    text: str
    about: Mapping[str, str] = field(default_factory=dict)  # request, worker, robot, by name


@dataclass(slots=True)
class Tapped:
    """A request that was accepted or its final answer, for those who listen at the tap."""

    kind: str  # `client.tap.REQUEST` or `ANSWER`
    about: Header  # the fields that `client.tap` lists
    payload: Payload = ()


Event = RobotMessage | WorkerMessage | ConnectionLost | WorkerUnreachable | Tick | Stop
Command = ToRobot | ToWorker | Log | Tapped
