"""The worker's I/O thread: one DEALER socket to the broker, heartbeats, and the way to the device.

The policy runs on `worker.inference`'s thread. Nothing here waits for it, so the broker hears of
this process ten times a second whatever the model does.
"""

from __future__ import annotations

import logging
import select
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from client import errors
from client.body import encode_body
from client.connection import reconnect_soon
from client.keys import Key, verdict
from client.wire import (
    TO_WORKER,
    VERSION,
    Frame,
    Header,
    RequestId,
    decode_header,
    encode_header,
    receive,
    send,
)
from worker.inference import Answer, Broken, InferenceThread, Job, Warm, decode_job, name_of
from worker.policy import Policy

logger = logging.getLogger("worker")

DRAIN_S = 0.8  # on a stop signal, the inference under way may still be answered for this long
_HANDSHAKE_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_BEATS_TO_DRAIN = 2  # of the broker: one may have crossed our word, and work with it
_SILENCE_S = 5.0  # of the broker, before we say that we are waiting for it

STOPPED, BROKEN, REFUSED = 0, 3, 4  # exit codes


class Service:
    """Serves a policy under a name at one broker, until stopped."""

    def __init__(
        self,
        policy: Policy,
        *,
        name: str,
        broker: str,
        slots: int,
        batch_wait_s: float = 0.0,
        key: Key | None = None,
    ) -> None:
        """Open the socket; the broker need not be there yet.

        `slots`: requests in hand at once, and the largest batch that the policy gets.

        `key` is this worker's, where the broker asks for keys.

        Raises:
            zmq.ZMQError: `broker` is no address.
            BadObservation: the policy's metadata has something that cannot be sent.
        """
        self._name, self._endpoint, self._slots, self._key = name, broker, slots, key
        self._incarnation = uuid.uuid4().bytes
        self._policy = policy
        self._introduce()
        self._device = InferenceThread(policy, slots, batch_wait_s)
        self._in_hand: dict[tuple[RequestId, int, int], Job] = {}
        self._decoded: deque[Job] = deque()
        self._warm: Warm | None = None
        self._epoch: int | None = None  # the broker's that has welcomed us
        self._beat = 0  # the last heartbeat heard from it
        self._last_beat = 0  # when draining, the one after which nothing more can come
        self._heard_at = time.monotonic()
        self._interval_s = 0.1
        self._next_beat = 0.0
        self._exit_code: int | None = None
        self._draining_until: float | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._open()
        self._monitor = self._socket.get_monitor_socket(_HANDSHAKE_FAILED)
        try:
            self._socket.connect(self._endpoint)
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise
        self._kinds: dict[str, Callable[[Header, Sequence[Frame]], None]] = {
            "welcome": self._welcome,
            "infer": self._infer,
            "heartbeat": self._heartbeat,
            "who": lambda header, frames: self._hello(),
            "error": self._error,
        }

    def _introduce(self) -> None:
        """Take over what the policy says of itself."""
        metadata: dict[str, Any] = getattr(self._policy, "metadata", {})
        self._metadata = encode_body(metadata, buffers=False)
        self._horizon = int(metadata.get("action_horizon", 0))
        # None: not known before the policy is loaded, since its files are still to be downloaded.
        self._digest: str | None = getattr(self._policy, "digest", "")

    def run(self) -> int:
        """Serve until `stop` or a fatal error; returns the exit code."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.register(self._device.wake_fd, select.POLLIN)
        self._device.start()
        while self._exit_code is None:
            if time.monotonic() >= self._next_beat:
                self._beat_or_hello(time.monotonic())
            self._serve_device()
            # Last, since sending may consume the edge by which the socket's descriptor tells of
            # a message; and the device thread gets its jobs when we are about to sleep.
            self._serve_socket()
            if self._exit_code is None:
                poller.poll(max(0.0, self._next_beat - time.monotonic()) * 1e3 + 0.5)
        self._close()
        return self._exit_code

    def stop(self) -> None:
        """Finish what is in hand and leave; at once when called again. For signal handlers."""
        if self._draining_until is None:
            self._draining_until = time.monotonic() + DRAIN_S
            self._last_beat = self._beat + _BEATS_TO_DRAIN
            self._next_beat = 0.0
        else:
            self._exit_code = STOPPED

    @property
    def is_idle(self) -> bool:
        """Is the device thread neither loading nor inferring?"""
        return not self._in_hand and (self._warm is not None or self._exit_code == BROKEN)

    def _open(self) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        # A fresh identity for every incarnation: what was meant for an old one never arrives.
        socket.setsockopt(zmq.ROUTING_ID, b"w" + self._incarnation)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, 0)
        reconnect_soon(socket)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 1_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3_000)
        socket.setsockopt(zmq.IPV6, int("[" in self._endpoint))
        if self._key is not None:
            self._key.secure(socket)
        return socket

    # What the broker says.

    def _serve_socket(self) -> None:
        while (frames := receive(self._socket)) is not None:
            try:
                header = decode_header(frames[0], TO_WORKER)
                self._kinds[header["kind"]](header, frames[1:])
            except errors.PolicyError as error:
                logger.error("the broker sent what cannot be read: %s", error)
            self._heard_at = time.monotonic()
        while self._decoded:
            self._device.give(self._decoded.popleft())

    def _welcome(self, header: Header, frames: Sequence[Frame]) -> None:
        if self._epoch != header["epoch"]:
            logger.info("registered as %r with the broker at %s", self._name, self._endpoint)
        self._epoch = header["epoch"]
        self._beat = 0
        self._interval_s = header.get("heartbeat_ms", 100.0) / 1e3
        self._say_ready()

    def _infer(self, header: Header, frames: Sequence[Frame]) -> None:
        key = (header["id"], header["attempt"], header["epoch"])
        job = Job(header, {}, time.monotonic(), 0.0)
        self._in_hand[key] = job
        try:
            job = decode_job(header, frames)
        except errors.PolicyError as error:
            self._send_answer(Answer(job, {"kind": "failure", **errors.to_wire(error)}))
        else:
            self._decoded.append(job)

    def _heartbeat(self, header: Header, frames: Sequence[Frame]) -> None:
        if header.get("epoch") == self._epoch:
            self._beat = header.get("n", 0)

    def _error(self, header: Header, frames: Sequence[Frame]) -> None:
        reason = header.get("message", "no reason given")
        if self._epoch is not None and header.get("code") == errors.ProtocolError.code():
            # One message was torn by a reconnection: that is no verdict on this worker.
            logger.warning("the broker could not read a message: %s", reason)
            return
        logger.error("the broker refused this worker: %s", reason)
        self._exit_code = REFUSED

    def _read_monitor(self) -> None:
        """Handshakes that failed for good; of those, libzmq tries none again."""
        while (frames := receive(self._monitor)) is not None:
            event = parse_monitor_message([frame.bytes for frame in frames])
            reason = verdict(event["event"], event["value"], self._key)
            if reason:
                logger.error("the broker at %s %s", self._endpoint, reason)
                self._exit_code = REFUSED
            else:
                logger.warning("%s answers, but not as a broker for us", self._endpoint)
                self._socket.connect(self._endpoint)

    # What the device says.

    def _serve_device(self) -> None:
        for report in self._device.take_reports():
            if isinstance(report, Answer):
                self._send_answer(report)
            elif isinstance(report, Warm):
                self._warm = report
                if self._digest is None:
                    self._introduce()
                    self._hello()
                self._say_ready()
            elif isinstance(report, Broken):
                self._break(report)

    def _send_answer(self, answer: Answer) -> None:
        header = answer.job.header
        epoch = header["epoch"]
        # After a lost connection the same attempt may have come twice: each is answered.
        self._in_hand.pop((header["id"], header["attempt"], epoch), None)
        fields = {**answer.fields, "id": header["id"], "attempt": header["attempt"]}
        if epoch != self._epoch or not self._send(fields, answer.payload):
            logger.warning(
                "an answer was lost: its broker is gone, the robot asks again",
                extra={"about": {"request": name_of(header["id"])}},
            )

    def _break(self, broken: Broken) -> None:
        self._send({"kind": "goodbye", "message": f"{type(broken.error).__name__}"})
        logger.error(
            "the policy cannot be served: %s", broken.error, exc_info=_unexpected(broken.error)
        )
        self._exit_code = BROKEN

    # What we say.

    def _beat_or_hello(self, now: float) -> None:
        self._next_beat = now + self._interval_s
        self._read_monitor()
        if self._draining_until is not None and (self._is_drained() or now >= self._draining_until):
            self._send({"kind": "goodbye", "message": "it was stopped"})
            self._exit_code = STOPPED
            return
        if now - self._heard_at > _SILENCE_S:
            logger.warning("no word from a broker at %s: still trying", self._endpoint)
            self._heard_at = now
        if self._epoch is None:
            self._hello()
            return
        ids = [[id, attempt] for id, attempt, epoch in self._in_hand if epoch == self._epoch]
        self._send({"kind": "heartbeat", "n": self._beat, "ids": ids, "state": self._state()})

    def _is_drained(self) -> bool:
        """Is everything answered, also what was on its way when we said that we drain?"""
        return not self._in_hand and (self._epoch is None or self._beat >= self._last_beat)

    def _hello(self) -> None:
        fields: Header = {
            "kind": "hello",
            "incarnation": self._incarnation,
            "policy": self._name,
            "horizon": self._horizon,
            "state": self._state(),
            "slots": self._slots,
        }
        if self._digest is not None:
            fields["digest"] = self._digest
        self._send(fields, self._metadata)

    def _say_ready(self) -> None:
        if self._warm is None or self._epoch is None:
            return
        ready: Header = {"kind": "ready", "slots": self._slots}
        pace = ""
        if (inference_ms := self._warm.inference_ms) is not None:
            ready["inference_ms"] = inference_ms
            pace = f", {inference_ms:.1f} ms an inference"
        if self._send(ready):
            logger.info("ready: serving %r%s", self._name, pace)

    def _state(self) -> str:
        if self._draining_until is not None:
            return "draining"
        return "warming" if self._warm is None else "ready"

    def _send(self, fields: Header, payload: Sequence[bytes | memoryview] = ()) -> bool:
        """Send now or not at all: what a lost broker was to hear is worthless to the next."""
        header: Header = {"v": VERSION, **fields}
        if self._epoch is not None:
            header["epoch"] = self._epoch
        try:
            send(self._socket, [encode_header(header), *payload])
        except zmq.Again:
            return False
        return True

    def _close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=100)
        self._context.term()


def _unexpected(error: BaseException) -> BaseException | None:
    """The error whose traceback the log should show: not one that a user can cause."""
    from worker.errors import WorkerError

    return None if isinstance(error, WorkerError) else error
