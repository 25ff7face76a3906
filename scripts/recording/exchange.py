"""One request and its final answer, as the broker's tap showed them and as logs keep them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from client.errors import ProtocolError
from client.wire import RequestId, show


@dataclass(frozen=True)
class Exchange:
    """A request from its arrival at the broker to its one final answer.

    Attributes:
        id: the request's, whole: the client's bytes in hex, a slash and the sequence number.
        client: who asked, its bytes in hex.
        robot: the robot's name for people; may be empty.
        key: the name of the key that it came with; empty without keys.
        session: the robot's episode.
        policy: who was to answer; empty where that was never known.
        worker: which worker answered, 8 hex digits as in logs; empty where none did.
        at: when the broker took the request, in seconds of its wall clock.
        answered_at: when the broker gave its answer, by the same clock.
        observation: as it was sent: nested dicts and lists of numpy arrays and plain values,
            compressed images still compressed; None where it is not here (see `missing`).
        result: the policy's answer, `actions` among it; None where there was an error.
        error: code (`client/errors.py`) and message; None where there was a result.
        timing: milliseconds by stage, as broker and worker told them.
        missing: why there is no observation, or what was left out of it and of the result.
    """

    id: str
    client: str
    robot: str
    key: str
    session: str
    policy: str
    worker: str
    at: float
    answered_at: float
    observation: dict[str, Any] | None
    result: dict[str, Any] | None
    error: tuple[str, str] | None
    timing: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""

    @property
    def request_id(self) -> RequestId:
        """The id as the wire has it, from which a worker derives the seed."""
        client, _, sequence = self.id.partition("/")
        return RequestId(bytes.fromhex(client), int(sequence))


def whole_id(id: RequestId) -> str:
    """What `Exchange.id` is for a request; `str(id)` is the short form of logs."""
    return f"{id.client.hex()}/{id.sequence}"


def to_tree(exchange: Exchange) -> dict[str, Any]:
    """An exchange as a tree that `client.body` encodes; its arrays are not copied."""
    return {each.name: getattr(exchange, each.name) for each in fields(Exchange)}


def from_tree(tree: Mapping[str, Any]) -> Exchange:
    """`to_tree`'s opposite, for a tree that came from outside; unknown fields are left out.

    Raises:
        ProtocolError: a field is missing or is not of its type; the message names it.
    """
    given = {each.name: tree[each.name] for each in fields(Exchange) if each.name in tree}
    for name, value in given.items():
        if not isinstance(value, _TYPES.get(name, str)):
            raise ProtocolError(f"the field {name!r} of an exchange is {show(value)}")
    try:
        if given.get("error") is not None:
            code, message = given["error"]
            given["error"] = str(code), str(message)
        exchange = Exchange(**given)
        exchange.request_id  # noqa: B018 - raises where the id is none
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"this is no exchange: {error}") from error
    return exchange


# What the fields may hold; the others hold text.
_TYPES: dict[str, tuple[type, ...]] = {
    "at": (float, int),
    "answered_at": (float, int),
    "observation": (dict, type(None)),
    "result": (dict, type(None)),
    "error": (list, tuple, type(None)),
    "timing": (dict,),
}
