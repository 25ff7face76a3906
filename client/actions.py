"""What a client's session has done next: `client.session` says when each of them follows."""

from __future__ import annotations

from typing import List, NamedTuple, Sequence, Union

import zmq

from client import errors
from client.wire import Header

Body = List[Union[bytes, memoryview]]
Frames = Sequence[zmq.Frame]


class Send(NamedTuple):
    """Send these frames as soon as there is a connection."""

    frames: Body
    until: float


class Wait(NamedTuple):
    """Wait for what the connection brings.

    `may_be_long`: a live broker may rightly be silent until then.
    """

    until: float
    may_be_long: bool = False


class Pause(NamedTuple):
    """Drop the connection and wait; `reason` is for the log, empty where there is none."""

    until: float
    reason: str = ""


class Done(NamedTuple):
    """The answer's header, and its body with buffers."""

    header: Header
    frames: Frames


class Failed(NamedTuple):
    """The call's error.

    `is_clean`: nothing can come any more that belongs to this call, so the connection may stay.
    `is_unsent`: there was no connection; the session's owner knows better why.
    """

    error: errors.PolicyError
    is_clean: bool = False
    is_unsent: bool = False


Action = Union[Send, Wait, Pause, Done, Failed]
