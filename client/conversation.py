"""Carries out on a connection what a session asks for, one call at a time.

Threads take turns. A call ends at its deadline, or at once when another thread or a signal handler
calls `close`.
"""

from __future__ import annotations

import logging
import os
import threading
import time

import zmq

from client import errors
from client.arguments import LONGEST_S
from client.connection import Connection
from client.connections import Connections
from client.session import Body, Done, Failed, Frames, Pause, Send, Session, Wait
from client.shared_memory import Written
from client.wire import Header

logger = logging.getLogger(__name__)


class Conversation:
    """The calls of one client. A fork of the process cannot use it."""

    def __init__(self, session: Session, connection: Connection | Connections[Connection]) -> None:
        self.session = session
        self._connection = connection
        self._pid = os.getpid()
        # Re-entrant, so that a signal handler inside a call gets an error instead of a deadlock.
        self._lock = threading.RLock()
        self._turn: object | None = None  # the call that is under way
        self._is_closed = False

    def close(self) -> None:
        """Return at once; the call that is under way and all later ones raise `ClientClosed`."""
        self._is_closed = True
        if os.getpid() == self._pid:  # else the socket is the parent's
            self._connection.interrupt()
            self._clean_up()

    @property
    def is_closed(self) -> bool:
        """Whether `close` has been called."""
        return self._is_closed

    def exchange(
        self, kind: str, body: Body, until: float, reference: Written | None = None
    ) -> tuple[Header, Frames]:
        """Make one call; returns its answer's header, and body with buffers.

        `reference`: to shared memory that holds the same buffers as `body`.

        Raises:
            errors.PolicyError: what the broker answered, or why there was no answer in time.
        """
        call = object()
        try:
            self._begin(call, until)
            outcome = self._answer(kind, body, until, reference)
        finally:
            # The turn is known by its call, so whatever a signal handler raises above ends it here.
            if self._turn is call:
                self._turn = None
                self._lock.release()
                if self._is_closed:
                    self._clean_up()
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome.header, outcome.frames

    def _begin(self, call: object, until: float) -> None:
        """Give the turn to a call, as soon as no other thread has it.

        Raises:
            ClientClosed: it is closed, or belongs to another process.
            ClientBusy: a signal handler makes this call, and has interrupted another call.
            DeadlineExceeded: other threads took all the time.
        """
        if os.getpid() != self._pid:
            raise errors.ClientClosed("this client was made in another process: make one here")
        is_locked = False
        try:
            is_locked = self._lock.acquire(blocking=False) or self._lock.acquire(
                timeout=min(max(0.0, until - time.monotonic()), LONGEST_S)
            )
            if not is_locked:
                raise errors.DeadlineExceeded(
                    "another thread's call on this client took all the time"
                )
            if self._turn is not None:  # and it is this thread that has the lock
                raise errors.ClientBusy(
                    "this thread is inside another call of this client: a signal handler may only "
                    "call close(), or use a client of its own"
                )
            if self._is_closed:
                raise _closed()
            self._turn = call
        except BaseException:
            if is_locked and self._turn is not call:
                self._lock.release()
            raise

    def _answer(
        self, kind: str, body: Body, until: float, reference: Written | None
    ) -> Done | Failed:
        """Get a call's outcome; drop the connection if something of it may still come."""
        try:
            outcome = self._converse(kind, body, until, reference)
            if isinstance(outcome, Failed) and not outcome.is_clean:
                self._connection.drop()
        except zmq.ZMQError as error:
            self._connection.drop()
            raise errors.BrokerUnreachable(f"ZeroMQ itself failed: {error}") from error
        except BaseException:
            # Such as Ctrl-C: an answer that still comes must not be taken for a later call's.
            self._connection.drop()
            raise
        return outcome

    def _converse(
        self, kind: str, body: Body, until: float, reference: Written | None
    ) -> Done | Failed:
        """Carry out what the session asks for, until it has an outcome."""
        session, connection = self.session, self._connection
        now = time.monotonic()
        if isinstance(connection, Connections):
            connection.look(now)
        action = session.ask(kind, body, until, now, reference)
        while not isinstance(action, (Done, Failed)):
            if isinstance(action, Send) and connection.send(action.frames, action.until):
                action = session.sent()
                continue
            if isinstance(action, Pause):
                if action.reason:
                    logger.warning("asking again soon: %s", action.reason)
                connection.drop()
                connection.pause(action.until)
            frames = self._receive(action) if isinstance(action, Wait) else None
            now = time.monotonic()
            if frames is not None:
                action = session.received(frames, now)
            elif connection.is_interrupted:
                raise _closed()
            elif connection.is_forbidden:
                raise connection.failure()
            elif now >= action.until:
                action = session.wake(now)
            else:
                connection.drop()
                action = session.lost(now)
        if isinstance(action, Failed) and action.is_unsent:
            raise connection.failure()
        return action

    def _receive(self, wait: Wait) -> Frames | None:
        connection = self._connection
        if wait.may_be_long and isinstance(connection, Connections):
            return connection.receive_slow(wait.until, self.session.fields)
        return connection.receive(wait.until)

    def _clean_up(self) -> None:
        """Free the socket, unless a call is under way: then that call does it at its end."""
        if self._lock.acquire(blocking=False):
            try:
                if self._turn is None:
                    self._connection.close()
            finally:
                self._lock.release()


def _closed() -> errors.ClientClosed:
    return errors.ClientClosed("this client is closed: make a new one")
