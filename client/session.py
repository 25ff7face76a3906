"""A client's side of the protocol: what to send, when to send it again, and when to give up.

It knows no socket, no clock and no thread. Its owner tells it what happened, and each method
returns the one thing to do next:

    ask(kind, body, until, now)   a call begins                              -> Send
    sent()                        what `Send` asked for has left             -> Wait
    received(frames, now)         something came on the connection           -> Done, Failed, ...
    lost(now)                     the connection was lost, in any state      -> Pause
    wake(now)                     the moment that `Wait` or `Pause` named    -> Send, Failed

    Send      send these frames as soon as there is a connection; at `until`, call `wake`
    Wait      for an answer or a loss; at `until`, call `wake`
    Pause     drop the connection, which may hold an answer to something older; at `until`, `wake`
    Done      the call has its answer
    Failed    the call has ended with an error; drop the connection, unless it is clean

A request is sent again, with the same id, after its connection was lost, and never on a timer. It
is also sent again after a broker has said that it is stopping, once that broker has had time to
come back. Before a body is sent again, the broker is asked for its limits: it may be another broker
now, and a broker hangs up without a word on a message that is far above its limit.

Of several brokers (`client.route`) the next one is asked at once where one would be tried again.

A body's buffers may lie in memory that workers on this host can read (`client.shared_memory`). Then
only a reference to them is sent. A worker that cannot follow it says so, and the same request goes
out at once with its buffers.
"""

from __future__ import annotations

import logging

from client import errors
from client.actions import Action, Body, Done, Failed, Frames, Pause, Send, Wait
from client.body import decode_body
from client.route import Route, serves
from client.shared_memory import Negotiation, Written
from client.wire import TO_CLIENT, Header, RequestId, decode_header, encode_header

__all__ = ["Action", "Body", "Done", "Failed", "Frames", "Pause", "Send", "Session", "Wait"]

logger = logging.getLogger(__name__)

LIMITS_S = 1.0  # for asking a broker what it takes, before a body that was too large is refused
FIRST_PAUSE_S = 0.01  # before the second try; the first comes at once
LONGEST_PAUSE_S = 1.0
EPISODES = 8  # whose versions are remembered, of a robot that goes from one to another and back
NOT_YET_S = 0.25  # until something is asked for again, where the broker does not say how soon

_ANSWERS = {"infer": "result", "metadata": "result"}  # all else is answered with a pong


class Session:
    """One client's calls, one after another. Times are monotonic seconds."""

    def __init__(
        self,
        client: bytes,
        fields: Header,
        endpoint: str = "the broker",
        host: bytes = b"",
        route: Route | None = None,
    ) -> None:
        """`client`: a uuid's 16 bytes. `fields` go into every header and may be changed.

        `host`: this process's `shared_memory.host_token`; empty where memory is not to be used.
        """
        self.fields = fields
        self.route = route or Route()
        self.memory = Negotiation(host)
        self.max_bytes: int | None = None  # of a body, as the broker said last
        self.client = client
        self._endpoint = endpoint
        self._sequence = 0
        self._kind = ""
        self._id = RequestId(client, 0)
        self._body: Body = []
        self._reference: Written | None = None  # to memory that holds the body's buffers
        self._versions: dict[str, str] = {}  # by episode: which of the policy's answered last
        self._until = 0.0
        self._pause_s = 0.0
        self._limits_id: RequestId | None = None  # of the ping for limits, while one is out
        self._limits_until = self._try_until = 0.0  # for asking for limits, for trying this broker
        self._is_pausing = self._is_sent = False
        self._reason: errors.PolicyError | None = None  # why the call has to be tried again

    def ask(
        self, kind: str, body: Body, until: float, now: float, reference: Written | None = None
    ) -> Action:
        """Begin a call. `until`: when it has to end. Any call before it is forgotten.

        `reference`: to memory that holds the same buffers as `body`.
        """
        self._kind, self._body, self._until = kind, body, until
        self._reference = reference
        self._id = self._next_id()
        self._pause_s = 0.0
        self._reason = None
        is_unproven = self.route.begin(now) and bool(body)
        if is_unproven or self._is_too_large():
            # A broker that was restarted since then may accept more, so it is asked first.
            self._limits_until = until if is_unproven else min(until, now + LIMITS_S)
            return self._ask_limits(now)
        return self._send(now)

    def sent(self) -> Action:
        """The frames of the last `Send` have left."""
        self._is_sent = True
        self._reason = None  # the broker that is asked now may have another
        is_slow = self._limits_id is None and self._kind == "infer"  # all else is answered at once
        return Wait(self._until, True) if is_slow else Wait(self._try_until)

    def received(self, frames: Frames, now: float) -> Action:
        """Take in what came on the connection since `Send`."""
        try:
            reply = decode_header(frames[0], TO_CLIENT)
            if self._limits_id is not None:
                return self._take_limits(reply, frames[1:], now)
        except errors.PolicyError as error:
            return self._skip(error, now) or Failed(error)
        # An error about a header that could not be read has no id to carry.
        if reply.get("id", self._id if reply["kind"] == "error" else None) != self._id:
            logger.warning("dropped an answer to another request")
            return self.lost(now)
        if reply["kind"] == "error":
            return self._refused(reply, now)
        if reply["kind"] != _ANSWERS.get(self._kind, "pong"):
            return Failed(errors.ProtocolError(f"{self._kind} was answered with {reply['kind']}"))
        if self._kind == "infer":
            self.memory.answered(reply.get("host"))
            if "version" in reply:  # not where one was asked for by its full name
                self._remember(reply["version"])
        elif self._kind == "reset":
            self._versions.pop(self._episode, None)
        self.route.answered()
        return Done(reply, frames[1:])

    def lost(self, now: float) -> Action:
        """The connection is gone, and with it any answer that was on its way."""
        if self.route.advance():
            return self._pause(now)
        pause_s = self._pause_s
        # A peer that hangs up on every message is asked less and less often.
        self._pause_s = min(2 * pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        return self._pause(now + pause_s)

    def wake(self, now: float) -> Action:
        """The moment that the last action named has come."""
        if now >= self._until:
            return self._give_up()
        if now >= self._limits_until:
            return self._send_if_it_fits(now)  # no answer in time: the old limit holds
        if not self._is_pausing:
            return self.lost(now)  # one of several: no connection, or no word on it
        return self._ask_limits(now) if self._body else self._send(now)

    def learn(self, frames: Frames) -> dict[str, object]:
        """Take over a broker's limits from the body of its `pong`; returns all of that body.

        Raises:
            errors.ProtocolError: it is not a body.
        """
        info = decode_body(frames)
        limit = info.get("max_bytes")
        self.max_bytes = limit if type(limit) is int else None
        return info

    @property
    def _episode(self) -> str:
        return str(self.fields.get("session", ""))

    def _remember(self, version: str) -> None:
        versions, episode = self._versions, self._episode
        versions.pop(episode, None)
        versions[episode] = version
        if len(versions) > EPISODES:
            del versions[next(iter(versions))]  # the one that was answered longest ago

    # What goes out.

    def _next_id(self) -> RequestId:
        self._sequence += 1
        return RequestId(self.client, self._sequence - 1)

    def _send(self, now: float) -> Action:
        self._limits_id, self._limits_until = None, self._until
        left_ms = (self._until - now) * 1e3
        if left_ms <= 0:
            return self._give_up()
        # The broker gives up a little before we do, so that its reason arrives in time.
        deadline_ms = left_ms - min(100.0, 0.1 * left_ms)
        fields: Header = {"deadline_ms": deadline_ms}
        body = self._body
        if self._reference is not None:
            (fields["memory"], fields["written"]), body = self._reference, body[:1]
        elif len(body) > 1:
            fields.update(self.memory.offer(now))
        if self._episode in self._versions:  # also another broker then goes on with it
            fields["version"] = self._versions[self._episode]
        return self._send_frames(self._kind, self._id, fields, body, self._until, now)

    def _send_frames(
        self, kind: str, id: RequestId, fields: Header, body: Body, until: float, now: float
    ) -> Send:
        self._is_pausing = self._is_sent = False
        header = {**self.fields, "kind": kind, "id": id, **fields}
        self._try_until = self.route.try_until(until, now)
        return Send([encode_header(header), *body], self._try_until)

    def _ask_limits(self, now: float) -> Action:
        self._limits_id = self._next_id()
        fields: Header = {"deadline_ms": (self._limits_until - now) * 1e3}
        return self._send_frames("ping", self._limits_id, fields, [], self._limits_until, now)

    def _send_if_it_fits(self, now: float) -> Action:
        if self._is_too_large():
            return Failed(
                errors.MessageTooLarge(
                    f"the observation has {_size(self._body)} bytes, the broker takes "
                    f"{self.max_bytes}: send uint8 images resized with "
                    "image_tools.resize_with_pad, or raise the broker's limits.max_bytes"
                ),
                is_clean=not self._is_sent,
            )
        return self._send(now)

    def _is_too_large(self) -> bool:
        limit = self.max_bytes
        return limit is not None and bool(self._body) and _size(self._body) > limit

    # What came back, or did not.

    def _take_limits(self, reply: Header, frames: Frames, now: float) -> Action:
        if (
            reply.get("id", self._limits_id if reply["kind"] == "error" else None)
            != self._limits_id
        ):
            return self.lost(now)
        self._is_sent = False  # it is answered, and nothing else is out
        if reply["kind"] == "pong":
            info = self.learn(frames)
            if self.route.has_untried and not serves(info, self.fields.get("policy")):
                return self.lost(now)
        elif (skipped := self._skip(_error_of(reply), now)) is not None:
            return skipped
        return self._send_if_it_fits(now)

    def _refused(self, reply: Header, now: float) -> Action:
        error = _error_of(reply)
        if self._kind == "ping" and (skipped := self._skip(error, now)) is not None:
            return skipped
        if isinstance(error, errors.MemoryUnreachable) and self._reference is not None:
            self.memory.failed(now)
            self._reference = None
            return self._send(now)
        is_not_yet = isinstance(error, (errors.NoWorker, errors.WorkerLoading))
        if not isinstance(error, errors.Draining) and not (is_not_yet and self._kind == "metadata"):
            return Failed(error, is_clean=True)
        self._reason = error
        if self.route.advance():
            return self._pause(now, str(error))
        retry_s = NOT_YET_S if error.retry_after_s is None else error.retry_after_s
        return self._pause(now + max(retry_s, FIRST_PAUSE_S), str(error))

    def _skip(self, error: errors.PolicyError, now: float) -> Action | None:
        """Pass over one of several that answers a ping with an error, so is no broker for us."""
        return self._pause(now, str(error)) if self.route.advance() else None

    def _pause(self, until: float, reason: str = "") -> Action:
        self._is_pausing, self._limits_id = True, None
        return Pause(min(until, self._limits_until), reason)

    def _give_up(self) -> Action:
        if self._is_sent and not self._is_pausing:
            self.route.doubt()
        if self._reason is not None:
            return Failed(self._reason)
        error = errors.DeadlineExceeded(f"no answer from {self._endpoint} in time")
        is_kept = self._is_pausing and not self.route.is_several
        return Failed(error, is_unsent=not self._is_sent and not is_kept)


def _size(body: Body) -> int:
    return sum(map(len, body))


def _error_of(reply: Header) -> errors.PolicyError:
    return errors.from_wire(
        reply.get("code", ""), reply.get("message", ""), reply.get("retry_after_ms")
    )
