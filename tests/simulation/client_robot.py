"""A robot with our client: the real `client.session`, and a double of the socket around it.

The double stands for `client.conversation`. It also holds the session to what a client owes to
everybody else (`docs/protocol.md`, a client's duties), whatever comes of it in this simulation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from random import Random
from typing import Any

from client import errors
from client.inquiry import PATIENCE_S, first_silence_s
from client.route import Route
from client.session import LONGEST_PAUSE_S, Action, Done, Failed, Pause, Send, Session, Wait
from client.wire import VERSION, Header, RequestId, decode_header
from tests.simulation.clock import Clock
from tests.simulation.ledger import Ledger
from tests.simulation.network import Link, Listener, Message, Socket
from tests.simulation.robots import Call, Caller
from tests.simulation.schedule import RobotSpec
from tests.simulation.violation import Violation

logging.getLogger("client.session").addHandler(logging.NullHandler())  # it warns of lies

_LATE_S = 1e-6  # how long after its deadline a call may end: simulated time is exact
_WAITED_FOR = (errors.Draining, errors.DeadlineExceeded)  # no call ends so before its time


class ClientRobot(Caller):
    """One call at a time; after a lost connection the same request is sent again."""

    def __init__(
        self, clock: Clock, spec: RobotSpec, link: Link, listener: Listener, ledger: Ledger
    ) -> None:
        super().__init__(clock, spec, link, listener, ledger)
        self._ways = [(link, listener, ledger)]  # to its brokers, in its order
        self._session = Session(self._uuid, {})
        self._wake_at: float | None = None
        self._follows = 0  # actions of the session so far
        self._id: RequestId | None = None  # of the call under way, once it was sent
        self._is_awaiting = False  # is a message out on the socket that is not answered?
        self._knows_limits = False  # were they told on the connection in use?
        self._answered: dict[str, str] = {}  # the version that each episode has

    def also_knows(self, others: Sequence[tuple[Link, Listener, Ledger]]) -> None:
        """There are more brokers in its list."""
        self._ways += others
        route = Route(len(self._ways), Random(self._link.name))
        self._session = Session(self._uuid, {}, route=route)

    def connected(self, socket: Socket) -> None:
        """What waited for a connection can go."""
        if self._unsent is not None and self._put(self._unsent):
            self._follow(self._session.sent())

    def disconnected(self, socket: Socket) -> None:
        """The connection was lost while an answer is awaited, or while there was nothing to do."""
        self._drop()
        if self._current is not None:
            action = self._session.lost(self._clock.now)
            if isinstance(action, Wait) or action[0] - self._clock.now > LONGEST_PAUSE_S:  # type: ignore[operator]
                raise Violation(5, f"{self._link.name} does not try again: {action}")
            self._follow(action)

    def _plan_inquiry(self, silence_s: float) -> None:
        """After so long a silence, find out whether the broker in use hangs (`client.inquiry`)."""
        self._clock.after(silence_s, self._inquire, self._follows, silence_s)

    def _inquire(self, waiting: int, silence_s: float) -> None:
        if waiting != self._follows:
            return
        if self._seems_to_hang():
            self._clock.after(PATIENCE_S, self._judge, waiting, silence_s)
        else:
            self._plan_inquiry(2 * silence_s)

    def _judge(self, waiting: int, silence_s: float) -> None:
        if waiting != self._follows:
            return
        if self._seems_to_hang() and self._socket is not None:
            self.disconnected(self._socket)
        else:
            self._plan_inquiry(2 * silence_s)

    def _seems_to_hang(self) -> bool:
        """Is the broker in use silent, and another one not?"""
        answers = {
            link: listener.answering and not link.is_blocked for link, listener, _ in self._ways
        }
        return not answers.pop(self._link) and any(answers.values())

    def receive(self, socket: Socket, message: Message, note: Any) -> None:
        """An answer, of the call or to its request for the limits of the broker."""
        self._check_is_mine(message)
        self._is_awaiting = False
        if decode_header(message[2])["kind"] == "pong":
            self._knows_limits = True
        self._follow(self._session.received(message[2:], self._clock.now), message)  # type: ignore[arg-type]

    def _begin(self, call: Call) -> None:
        fields: Header = {"v": VERSION, "priority": call.priority, "session": call.session}
        fields.update(self._spec.told())
        if call.policy is not None:
            fields["policy"] = call.policy
        self._session.fields = fields
        self._id = None
        if self._session.route.at:
            link, first, _ = self._ways[0]
            is_up = first.listening and not link.is_blocked
            self._session.route.sees_first(is_up, self._clock.now)
        body: list[bytes | memoryview] = [call.body] if call.body else []
        self._follow(self._session.ask(call.kind, body, call.until, self._clock.now))

    def _follow(self, action: Action, message: Message = ()) -> None:
        """Carry out what the session asks for."""
        self._follows += 1
        call = self._current
        if call is None:
            return
        if isinstance(action, Send):
            if self._send(call, action):
                action = self._session.sent()
        elif isinstance(action, Pause):
            self._drop()
        elif isinstance(action, Done):
            self._check_answer(call, action, message)
            if call.kind == "infer" and "version" in action.header:
                self._answered[call.session] = action.header["version"]
            elif call.kind == "reset":
                self._answered.pop(call.session, None)
            self._finish(call, action.header["kind"])
            return
        elif isinstance(action, Failed):
            self._check_failure(call, action)
            if action.is_clean:
                self._unsent, self._is_awaiting = None, False  # what never left is forgotten
            else:
                self._drop()
            self._finish(call, action.error.code())
            return
        self._plan_wake(action.until)  # type: ignore[union-attr]
        if isinstance(action, Wait) and action.may_be_long and len(self._ways) > 1:
            self._plan_inquiry(first_silence_s(action.until - self._clock.now))

    def _send(self, call: Call, action: Send) -> bool:
        header = decode_header(action.frames[0])  # type: ignore[arg-type]
        kind, id = header["kind"], header["id"]
        self._check_send(call, kind, id)
        if kind == "infer":
            expected = self._answered.get(call.session)
            if header.get("version") != expected:
                raise Violation(7, f"{self._link.name} was answered by {expected}: {header}")
        self._aim()
        frames = [bytes(frame) for frame in action.frames]
        is_sent = self._put(self._enter(call, kind, id, frames))
        self._is_awaiting = True
        return is_sent

    def _aim(self) -> None:
        """What is sent goes to the broker that the session means."""
        link, listener, ledger = self._ways[self._session.route.at]
        if link is not self._link:
            if self._is_awaiting:
                raise Violation(2, f"{link.name} is asked, and {self._link.name} may still answer")
            self._drop()
        self._link, self._listener, self._ledger = link, listener, ledger

    def _finish(self, call: Call, word: str) -> None:
        left_s = call.until - self._clock.now
        if left_s < -_LATE_S:
            raise Violation(1, f"{self._link.name} was told {word} {-left_s:.3f} s too late")
        self._wake_at = None
        self._end(word)

    def _drop(self) -> None:
        super()._drop()
        self._is_awaiting = self._knows_limits = False

    def _plan_wake(self, until: float) -> None:
        if until != self._wake_at:
            self._wake_at = until
            self._clock.at(until, self._wake, until)

    def _wake(self, planned: float) -> None:
        if planned == self._wake_at:
            self._wake_at = None
            self._follow(self._session.wake(self._clock.now))

    # A client's duties.

    def _check_send(self, call: Call, kind: str, id: RequestId) -> None:
        if self._is_awaiting:
            raise Violation(2, f"{self._link.name} sends {id} while it waits for an answer")
        if kind != call.kind or (kind == "ping" and self._id is not None and id != self._id):
            return  # what does the broker take?
        if self._id is None:
            self._id = id
        elif id != self._id:
            raise Violation(2, f"{self._link.name} sends {self._id} again as {id}")
        elif call.body and not self._knows_limits:
            raise Violation(4, f"{self._link.name} sends {id} again, and did not ask how large")

    def _check_failure(self, call: Call, failed: Failed) -> None:
        """The broker's own word for a deadline may come early, as its clock may have jumped."""
        left_s = call.until - self._clock.now
        is_own = isinstance(failed.error, errors.Draining) or not failed.is_clean
        if is_own and isinstance(failed.error, _WAITED_FOR) and left_s > _LATE_S:
            error = failed.error
            raise Violation(5, f"{self._link.name} gave up {left_s:.3f} s before its time: {error}")

    def _check_answer(self, call: Call, answer: Done, message: Message) -> None:
        if answer.header.get("id") != self._id:
            raise Violation(2, f"{self._link.name} took an answer to {answer.header.get('id')}")
        if call.kind == "infer" and not b"".join(message[3:]).endswith(call.body):
            raise Violation(2, f"{self._link.name} took {message[3:]} for its answer")
