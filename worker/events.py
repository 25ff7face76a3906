"""What a session is told and what it asks for: all that passes between it and the process around.

Payloads (body and buffers) are opaque to a session: it counts their bytes and passes them on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from client.errors import PolicyError
from client.wire import Frame, Header, RequestId

Payload = Sequence[Frame | memoryview]

Attempt = tuple[RequestId, int, int]
"""What a request in hand is known by: its id, the attempt's number, the broker's epoch."""

STOPPED, BROKEN, REFUSED = 0, 3, 4
"""Exit codes: told to stop, the policy cannot be served, the broker refused this worker."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What this process is; every broker hears it in `hello`."""

    incarnation: bytes
    """16 bytes; another process has others."""
    policy: str
    """The served name."""
    slots: int
    """Requests that may be in hand at once."""
    horizon: int
    """Steps in a chunk of actions; 0 where the policy does not say."""
    digest: str | None
    """Equal among workers that give equal answers; None until the files are downloaded."""
    metadata: Payload
    """The body of `hello`."""


@dataclass(slots=True)
class Received:
    """A message of the broker whose header was decoded."""

    header: Header
    payload: Sequence[Frame] = ()


@dataclass(slots=True)
class PolicyReady:
    """The policy is loaded and warm; `inference_ms` is None where it does not say."""

    introduction: Introduction
    inference_ms: float | None


@dataclass(slots=True)
class Answered:
    """A request was computed, or the policy failed on it. `request` is the header of its `infer`.

    `fields` are those of the answer's header: `kind`, and `timing` in milliseconds or the error.
    """

    request: Header
    fields: Header
    payload: Payload = ()


@dataclass(slots=True)
class Undecodable:
    """The body of a request is not one, so nobody will compute it."""

    request: Header
    error: PolicyError


@dataclass(slots=True)
class PolicyBroken:
    """The policy could not be made ready, or lost its device; `reason` is told to the broker."""

    reason: str


@dataclass(slots=True)
class Stop:
    """Finish what is in hand and leave; the second time, leave at once."""


@dataclass(slots=True)
class Tick:
    """Nothing but time has passed."""


@dataclass(slots=True)
class Send:
    """Send this now or not at all: what a lost broker was to hear is worthless to the next."""

    header: Header
    payload: Payload = ()


@dataclass(slots=True)
class Run:
    """Decode and compute this; answer with `Answered` or `Undecodable`."""

    request: Header
    payload: Sequence[Frame]


@dataclass(slots=True)
class Log:
    """Something that an operator should read; `level` is one of `logging`'s."""

    level: int
    text: str
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Exit:
    """This session has ended, with one of the exit codes above."""

    code: int


Event = Received | PolicyReady | Answered | Undecodable | PolicyBroken | Stop | Tick
Command = Send | Run | Log | Exit


def attempt_of(request: Header) -> Attempt:
    """What a request is known by while it is in hand; `request` is the header of its `infer`."""
    return request["id"], request["attempt"], request["epoch"]
