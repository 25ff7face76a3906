"""Events and commands: the whole interface between a session and the process around it.

Payloads (body and buffers) are opaque to a session: it counts their bytes and passes them on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from client.errors import PolicyError
from client.wire import Frame, Header, RequestId

Payload = Sequence[Frame | memoryview]

Attempt = tuple[RequestId, int, int]
"""What identifies a request in hand: its id, the attempt's number, the broker's epoch."""

STOPPED, BROKEN, REFUSED = 0, 3, 4
"""Exit codes: told to stop, the policy cannot be served, the broker refused this worker."""

DRAIN_S = 0.8
"""Once stopped, an inference under way may still be answered for this long."""

RETIRED_S = 25.0
"""Once a broker has retired this worker: nobody is in a hurry, and most deadlines are shorter."""

BEATS_TO_DRAIN = 2
"""How many heartbeats of the broker, and intervals, a drained worker waits for: the broker may have
sent work and one heartbeat before it heard of it, and some heartbeats come before their time."""


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
    """The body of a request cannot be decoded, so nobody will compute it."""

    request: Header
    error: PolicyError


@dataclass(slots=True)
class PolicyBroken:
    """The policy could not be made ready, or lost its device; `reason` is told to the broker."""

    reason: str


@dataclass(slots=True)
class Stop:
    """Finish what is in hand, for up to `within_s`, and leave; the second time, leave at once.

    After a longer one, such as a broker's `retire`, it is the first of its kind.
    """

    within_s: float = DRAIN_S


@dataclass(slots=True)
class KeyRefused:
    """A broker will never let this worker in, because of its key or the lack of one."""


@dataclass(slots=True)
class Disconnected:
    """The connection to one of several brokers was lost: its registration there is over."""


@dataclass(slots=True)
class ShareChanged:
    """One of several brokers may have more, or less, in hand than it was told."""


@dataclass(slots=True)
class Tick:
    """Nothing but time has passed."""


@dataclass(slots=True)
class Send:
    """Send this now or not at all: a message for a lost broker is worthless to the next one."""

    header: Header
    payload: Payload = ()


@dataclass(slots=True)
class Run:
    """Decode and compute this; answer with `Answered` or `Undecodable`."""

    request: Header
    payload: Sequence[Frame]


@dataclass(slots=True)
class Renew:
    """Close the connection for good and open another under a routing id that nobody has had."""


@dataclass(slots=True)
class Retire:
    """A broker has told this process to leave: the sessions with the others are to stop too."""


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


Event = (
    Received
    | PolicyReady
    | Answered
    | Undecodable
    | PolicyBroken
    | Stop
    | KeyRefused
    | Disconnected
    | ShareChanged
    | Tick
)
Command = Send | Run | Renew | Retire | Log | Exit


def attempt_of(request: Header) -> Attempt:
    """What identifies a request while it is in hand; `request` is the header of its `infer`."""
    return request["id"], request["attempt"], request["epoch"]
