"""The worker's two threads, and which of them talks to the brokers.

The policy lives on the inference thread. While that thread has nothing to infer, it waits for the
brokers' messages itself, so a request is run by the thread that received it, and answered by it:
no other thread has to be woken on a robot's time. While it infers, the main thread stands in for
it: the brokers hear from this process ten times a second whatever the model does, and the next
requests are received and decoded meanwhile.

The main thread is woken for that when an inference begins that is expected to take long. If one
takes long that was not expected to, the main thread finds out by itself, at its next glance.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from client.keys import Key
from worker.answers import Job
from worker.conversations import Conversations
from worker.inference import InferenceThread, Report
from worker.policy import Policy
from worker.robots.guards import Guards

LONG_S = 0.002
"""An inference that is expected to take longer has the main thread stand in."""

GLANCE_S = 0.1
"""How often the main thread looks whether an inference takes long that was not expected to."""

_PARTING_S = 5.0  # it has nothing left to do, so it takes no time unless something hangs


class Service:
    """Serves a policy under a name at one broker or several, until stopped."""

    def __init__(
        self,
        policy: Policy,
        *,
        name: str,
        brokers: Sequence[str],
        slots: int,
        batch_wait_s: float = 0.0,
        key: Key | None = None,
        guards: Guards | None = None,
    ) -> None:
        """Open a socket to each broker, which need not be there yet.

        Args:
            policy: what is served; `load` and `warm_up` are called by `run`.
            name: what robots ask for.
            brokers: their backends, such as `tcp://127.0.0.1:8001`.
            slots: requests in hand at once, of all brokers together, and the largest batch that
                the policy gets.
            batch_wait_s: how long a batch with one request waits for others.
            key: this worker's, where the broker asks for keys.
            guards: what every answer's actions are held against.

        Raises:
            zmq.ZMQError: one of `brokers` is no address.
            client.errors.BadObservation: the policy's metadata has a value that cannot be sent.
            WorkerError: the policy's metadata or digest is not what it should be.
        """
        self._conversations = Conversations(
            policy, name=name, brokers=brokers, slots=slots, key=key
        )
        self._thread = InferenceThread(policy, self, slots, batch_wait_s, guards)
        # Only the inference thread changes it. While it is true, the brokers are the main thread's
        # concern, for as long as that one holds the lock; else they are the inference thread's.
        self._is_inferring = self._is_long = True  # it begins by loading
        self._lock = threading.Lock()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # wakes the main thread
        self._bug: BaseException | None = None  # of ours, on the inference thread

    def run(self) -> int:
        """Serve until `stop` or a fatal error; returns the exit code."""
        self._thread.start()
        while self.is_open:
            descriptors, longest_s = self._stand_in()
            self._wait([self._bell, *descriptors], longest_s)
        if not self._is_inferring:
            self._thread.join(_PARTING_S)  # it may still be about to use the sockets
        with self._lock:  # else it leaves them alone from now on
            self._conversations.close()
        if self._bug is not None:
            raise self._bug
        return self._conversations.exit_code or 0

    def stop(self, reason: str = "it was asked to") -> None:
        """Finish what is in hand and leave; at once when called again.

        May be called from a signal handler or another thread; `reason` is logged.
        """
        self._conversations.stop(reason)

    @property
    def is_idle(self) -> bool:
        """Whether the inference thread is neither loading nor inferring."""
        return self._conversations.is_idle

    # What the inference thread calls.

    @property
    def jobs(self) -> deque[Job]:
        """What waits to be run, in this order."""
        return self._conversations.jobs

    @property
    def is_open(self) -> bool:
        """Whether there may be another job."""
        return self._conversations.exit_code is None and self._bug is None

    def wait(self, until: float) -> None:
        """Talk to the brokers, waiting for them at most until then; there may be a job after it."""
        try:
            self._conversations.serve(until, self._thread.largest_batch)
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            self._bug = error
        if not self.is_open:
            self._ring()

    def begin(self, usual_s: float) -> None:
        """The thread begins an inference, which takes so long as a rule."""
        self._is_inferring = True
        self._is_long = usual_s > LONG_S
        if self._is_long:
            self._ring()

    def report(self, reports: Sequence[Report]) -> None:
        """The thread has ended what it began, and this came of it."""
        with self._lock:
            self._is_inferring = False
            if self.is_open:
                try:
                    for report in reports:
                        self._conversations.take(report)
                except Exception as error:  # noqa: BLE001 - the main thread raises it
                    self._bug = error
        if self._is_long or not self.is_open:
            self._ring()

    # What the main thread does.

    def _stand_in(self) -> tuple[list[int], float]:
        """Talk to the brokers, if the inference thread infers.

        Returns:
            What becomes readable when there is more of it, and for how many seconds to wait at
            most.
        """
        with self._lock:
            if not self._is_inferring:
                return [], GLANCE_S
            # A descriptor tells only once of what has come, so all of it has to be taken in.
            while self.is_open and self._conversations.serve(0.0, self._thread.largest_batch):
                pass
            left_s = self._conversations.wake_at() - time.monotonic()
            return self._conversations.descriptors(), max(0.0, left_s)

    def _wait(self, descriptors: Sequence[int], longest_s: float) -> None:
        poller = select.poll()
        for descriptor in descriptors:
            poller.register(descriptor, select.POLLIN)
        poller.poll(longest_s * 1e3)
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)
