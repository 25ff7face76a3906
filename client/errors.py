"""Every failure that a robot can meet, as one tree.

    PolicyError                    catch this one to catch them all
     |
     +-- BrokerUnreachable         nobody answers at that host and port
     +-- ConnectionRefusedByPeer   something answers, but no broker that knows this client
     +-- DeadlineExceeded          the answer did not come in time (also a TimeoutError)
     +-- ClientClosed              the client was closed, or carried into a forked process
     +-- ClientBusy                a call from inside another call of the same thread
     |
     +-- BadRequest                the request itself is at fault: sending it again won't help
     |    +-- BadObservation       a key, shape, dtype or value is wrong (also a ValueError)
     |    +-- ProtocolError        the bytes are not this protocol
     |    +-- VersionMismatch      the other side speaks another version of it
     |    +-- MessageTooLarge      larger than the broker allows
     |    +-- UnknownPolicy        no worker has served that name
     |    +-- AmbiguousPolicy      several policies are served and none was named
     |    +-- Forbidden            this key may not do that, or is not known
     |    +-- MemoryUnreachable    shared memory cannot be opened (the client then sends bytes)
     |
     +-- Unavailable               the request was fine: trying again later may help
     |    +-- NoWorker             no worker serves that policy now
     |    +-- WorkerLoading        its workers are still loading their weights
     |    +-- Overloaded           refused at once; `retry_after_s` says when to try again
     |    +-- Draining             the broker is stopping: ask again soon, as our client does
     |    +-- Superseded           a newer observation of the same session took its place
     |    +-- Cancelled            the session was reset while the request waited
     |    +-- Starved              (chunk brokers only) no action is left, and no chunk has come
     |
     +-- WorkerLost                two workers died with this request in hand
     +-- PolicyFailed              the policy raised; its worker's log has the details
     |    +-- GuardBreached        its actions break the robot's guards (`env.guards`)
     +-- WorkerRefused             (workers only) the broker does not accept this worker

On the wire an error is its `code`, the class name in snake case, and a message that says what
to do. An unknown code becomes a plain `PolicyError`, so that a newer broker can add errors.
"""

from __future__ import annotations

import re
from typing import Any, Iterator

_LONGEST_MESSAGE = 1500  # bytes; the header that carries it may have 4096


class PolicyError(Exception):
    """Base of all errors of this system. `retry_after_s` is set where waiting helps."""

    retry_after_s: float | None = None

    @classmethod
    def code(cls) -> str:
        """The error's name on the wire: `NoWorker` is `no_worker`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class BrokerUnreachable(PolicyError, ConnectionError):
    """Nobody answers at that host and port."""


class ConnectionRefusedByPeer(PolicyError, ConnectionError):
    """Something answers at that port, but not a broker, or not one that knows this client."""


class DeadlineExceeded(PolicyError, TimeoutError):
    """No answer came before the request's deadline."""


class ClientClosed(PolicyError):
    """The client was closed, or is used in a process forked from its own."""


class ClientBusy(PolicyError):
    """A signal handler made this call while another call was under way in the same thread."""


class BadRequest(PolicyError):
    """The request is at fault; sending the same one again gives the same error."""


class BadObservation(BadRequest, ValueError):
    """A key, shape, dtype or value in the observation is not what the policy takes."""


class ProtocolError(BadRequest):
    """The bytes do not follow the protocol."""


class VersionMismatch(BadRequest):
    """The peer speaks another version of the protocol."""


class MessageTooLarge(BadRequest):
    """The message is larger than the broker allows."""


class UnknownPolicy(BadRequest):
    """No worker has ever served a policy of that name."""


class AmbiguousPolicy(BadRequest):
    """Several policies are served, and the request names none."""


class Forbidden(BadRequest):
    """The broker doesn't know this key, or the key may not do what was asked with it."""


class MemoryUnreachable(BadRequest):
    """A worker cannot open the shared memory that a request names; the client then sends bytes."""


class Unavailable(PolicyError):
    """The request was fine and was not answered; trying again later may help."""


class NoWorker(Unavailable):
    """No live worker serves the policy."""


class WorkerLoading(Unavailable):
    """The policy's workers are still loading."""


class Overloaded(Unavailable):
    """The broker holds as much as it may, or could not answer before the deadline."""


class Draining(Unavailable):
    """The broker is stopping and takes no new requests: ask again soon.

    `ZmqPolicyClient` does so by itself, and raises this only where no broker was back in time.
    """


class Superseded(Unavailable):
    """A newer observation of the same session replaced this one while it waited."""


class Cancelled(Unavailable):
    """The session was reset while the request waited."""


class Starved(Unavailable):
    """A control step has no action: the chunk is used up and the next one has not come."""


class WorkerLost(PolicyError):
    """Two workers were lost with this request in hand: it may be what kills them."""


class PolicyFailed(PolicyError):
    """The policy raised an exception on this observation."""


class GuardBreached(PolicyFailed):
    """The policy's actions break a rule of the robot's guards, so the robot gets none of them.

    On the worker `breaches` says how many actions broke which rule.
    """

    def __init__(self, message: str = "", breaches: dict[str, int] | None = None) -> None:
        """`breaches` goes to the broker, not to the robot, whom the message tells."""
        super().__init__(message)
        self.breaches = breaches


class WorkerRefused(PolicyError):
    """The broker refused a worker, whose policy differs from those already serving its name."""


def _tree(base: type[PolicyError]) -> Iterator[type[PolicyError]]:
    yield base
    for child in base.__subclasses__():
        yield from _tree(child)


BY_CODE: dict[str, type[PolicyError]] = {cls.code(): cls for cls in _tree(PolicyError)}


def to_wire(error: PolicyError) -> dict[str, Any]:
    """The header fields of an error: `from_wire`'s opposite. A long message is cut to fit."""
    message = str(error).encode("utf-8", "replace")[:_LONGEST_MESSAGE].decode("utf-8", "ignore")
    fields: dict[str, Any] = {"code": error.code()[:64], "message": message}
    if error.retry_after_s is not None:
        fields["retry_after_ms"] = error.retry_after_s * 1000.0
    return fields


def from_wire(code: str, message: str, retry_after_ms: float | None = None) -> PolicyError:
    """Rebuild the error that a peer sent; an unknown code gives a plain `PolicyError`."""
    error = BY_CODE.get(code, PolicyError)(message)
    if retry_after_ms is not None:
        error.retry_after_s = retry_after_ms / 1000.0
    return error
