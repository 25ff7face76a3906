"""Calls on a socket: carries out on a connection what a session asks for, one call at a time.

Threads take turns. A call ends at its deadline, or at once when `close` is called by another
thread or by a signal handler.
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
from client.session import Body, Done, Failed, Frames, Pause, Send, Session
from client.wire import Header

logger = logging.getLogger(__name__)


class Conversation:
    """The calls of one client; of this process, and of no fork of it."""

    def __init__(self, session: Session, connection: Connection) -> None:
        self.session = session
        self._connection = connection
        self._pid = os.getpid()
        # Re-entrant, so that a signal handler inside a call gets an error and not a dead lock.
        self._lock = threading.RLock()
        self._is_busy = self._is_closed = False

    def close(self) -> None:
        """Return at once; the call that is under way and all later ones raise `ClientClosed`."""
        self._is_closed = True
        if os.getpid() == self._pid:  # else the socket is the parent's
            self._connection.interrupt()
            self._clean_up()

    @property
    def is_closed(self) -> bool:
        """Has `close` been called?"""
        return self._is_closed

    def exchange(
        self, kind: str, body: Body, until: float, reference: bytes | None = None
    ) -> tuple[Header, Frames]:
        """Make one call; returns its answer's header, and body with buffers.

        `reference`: to shared memory that holds the same buffers as `body`.

        Raises:
            errors.PolicyError: what the broker answered, or why there was no answer in time.
        """
        self._begin(until)
        try:
            outcome = self._converse(kind, body, until, reference)
            if isinstance(outcome, Failed) and not outcome.is_clean:
                self._connection.drop()
        except zmq.ZMQError as error:
            self._connection.drop()
            raise errors.BrokerUnreachable(f"ZeroMQ itself failed: {error}") from error
        except BaseException:
            # Interrupted: whatever still comes must not find this socket.
            self._connection.drop()
            raise
        finally:
            self._is_busy = False
            self._lock.release()
            if self._is_closed:
                self._clean_up()
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome.header, outcome.frames

    def _begin(self, until: float) -> None:
        """Take this client's only turn.

        Raises:
            ClientClosed: it is closed, or belongs to another process.
            ClientBusy: this thread is inside another call: a signal handler calls from within it.
            DeadlineExceeded: other threads took all the time.
        """
        if os.getpid() != self._pid:
            raise errors.ClientClosed("this client was made in another process: make one here")
        if not self._lock.acquire(timeout=min(max(0.0, until - time.monotonic()), LONGEST_S)):
            raise errors.DeadlineExceeded("another thread's call on this client took all the time")
        if self._is_busy:  # and it is this thread that has the lock
            self._lock.release()
            raise errors.ClientBusy(
                "this thread is inside another call of this client: a signal handler may only "
                "call close(), or use a client of its own"
            )
        if self._is_closed:
            self._lock.release()
            raise _closed()
        self._is_busy = True

    def _converse(
        self, kind: str, body: Body, until: float, reference: bytes | None
    ) -> Done | Failed:
        """Carry out what the session asks for, until it has an outcome."""
        session, connection = self.session, self._connection
        now = time.monotonic()
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
            frames = None if isinstance(action, (Send, Pause)) else connection.receive(action.until)
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

    def _clean_up(self) -> None:
        """Free the socket, unless a call is under way: then that call does it at its end."""
        if self._lock.acquire(blocking=False):
            try:
                if not self._is_busy:
                    self._connection.close()
            finally:
                self._lock.release()


def _closed() -> errors.ClientClosed:
    return errors.ClientClosed("this client is closed: make a new one")
