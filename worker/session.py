"""The worker's protocol towards one broker, as a pure state machine.

`handle(event, now) -> commands` and `wake_at()`, without sockets, clocks or threads: time comes in
with every event. `worker.conversations` carries the commands out, and the simulation does the same
on simulated time. A worker that is registered with several brokers has one session for each.

| the broker says | and this session |
|---|---|
| `welcome` | takes over its epoch, timers and limits, and says `ready` if the policy is warm |
| `infer` | has the request in hand and asks for it to be run |
| `heartbeat` | remembers its count, which the next own heartbeat repeats |
| `who` | says `hello` again |
| `retire` | is told to stop, with more time than by SIGTERM |
| `error` | ends, unless the broker only could not read a message |

Until it is welcome it says `hello` at every beat, afterwards `heartbeat` with the ids in hand. Told
to stop, it is `draining`: it answers what it has, and says `goodbye` when nothing more can come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from client import errors
from client.wire import MAX_SLOTS, VERSION, Header
from worker.events import (
    BEATS_TO_DRAIN,
    BROKEN,
    REFUSED,
    RETIRED_S,
    STOPPED,
    Answered,
    Attempt,
    Command,
    Event,
    Exit,
    Introduction,
    KeyRefused,
    Log,
    Payload,
    PolicyBroken,
    PolicyReady,
    Received,
    Run,
    Send,
    Stop,
    Tick,
    Undecodable,
    attempt_of,
)
from worker.stages import fit_timing

SILENCE_S = 5.0
"""How long a broker may say nothing before that is logged."""

FIRST_INTERVAL_S = 0.1
"""Time between two hellos, until the broker says its own interval."""

_NEEDED = {"welcome": ("epoch",), "infer": ("id", "attempt", "epoch"), "heartbeat": ("epoch", "n")}


class Session:
    """What one broker and this worker know of each other."""

    def __init__(self, introduction: Introduction, endpoint: str, now: float) -> None:
        """`endpoint` names the broker in log lines; `now` is in monotonic seconds."""
        self.epoch: int | None = None  # of the broker that has welcomed us
        self.in_hand: dict[Attempt, None] = {}  # in the order in which they came
        self._introduction, self._endpoint = introduction, endpoint
        self._warm: PolicyReady | None = None
        self._max_bytes: int | None = None
        self._beat: int | None = None  # the last heartbeat heard since the welcome
        self._last_beat: int | None = None  # while draining: the one after which nothing can come
        self._heard_at = self._next_beat = now
        self._interval_s = FIRST_INTERVAL_S
        self._leave_from = now  # while draining: at the earliest
        self._leave_at: float | None = None  # while draining: at the latest
        self._within_s = float("inf")  # while draining: how long that may take
        self._ended = False
        self._commands: list[Command] = []
        self._events: dict[type[Any], Callable[[Any, float], None]] = {
            Received: self._received,
            PolicyReady: self._became_warm,
            Answered: self._answered,
            Undecodable: self._undecodable,
            PolicyBroken: self._broke,
            Stop: self._stop,
            KeyRefused: lambda event, now: self._exit(REFUSED),
            Tick: self._tick,
        }
        self._kinds: dict[str, Callable[[Received, float], None]] = {
            "welcome": self._welcome,
            "infer": self._infer,
            "heartbeat": self._heartbeat,
            "who": lambda message, now: self._hello(),
            "retire": self._retire,
            "error": self._error,
        }

    @property
    def state(self) -> str:
        """What the broker is told of this worker: warming, ready or draining."""
        if self._leave_at is not None:
            return "draining"
        return "warming" if self._warm is None else "ready"

    def wake_at(self) -> float:
        """When `handle` wants to be called with `Tick` at the latest."""
        if self._leave_at is not None:
            return min(self._next_beat, self._leave_at)
        return self._next_beat

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in an event; returns what to do about it. After `Exit` that is nothing."""
        if not self._ended:
            self._events[type(event)](event, now)
        commands, self._commands = self._commands, []
        return commands

    # What the broker says.

    def _received(self, message: Received, now: float) -> None:
        self._heard_at = now
        kind = message.header["kind"]
        for field in _NEEDED.get(kind, ()):
            if field not in message.header:
                self._log(logging.ERROR, f"ignored {kind!r} of the broker: it lacks {field!r}")
                return
        if kind in self._kinds:
            self._kinds[kind](message, now)

    def _welcome(self, message: Received, now: float) -> None:
        header, epoch = message.header, message.header["epoch"]
        if self.epoch != epoch:
            self._last_beat = None  # it counts anew
            name = self._introduction.policy
            self._log(logging.INFO, f"registered as {name!r} with the broker at {self._endpoint}")
        self.epoch, self._beat = epoch, None
        self._interval_s = header.get("heartbeat_ms", FIRST_INTERVAL_S * 1e3) / 1e3
        self._max_bytes = header.get("max_bytes")
        self._say_ready()

    def _infer(self, message: Received, now: float) -> None:
        self.in_hand[attempt_of(message.header)] = None
        self._commands.append(Run(message.header, message.payload))

    def _heartbeat(self, message: Received, now: float) -> None:
        if message.header["epoch"] == self.epoch:
            self._beat = message.header["n"]
            if self._last_beat is None and self._leave_at is not None:
                self._last_beat = message.header["n"] + BEATS_TO_DRAIN

    def _retire(self, message: Received, now: float) -> None:
        if message.header.get("epoch") == self.epoch and self._leave_at is None:
            self._log(logging.INFO, "stopping: the broker says that its version is retired")
            self._stop(Stop(RETIRED_S), now)

    def _error(self, message: Received, now: float) -> None:
        reason = message.header.get("message", "no reason given")
        if self.epoch is not None and message.header.get("code") == errors.ProtocolError.code():
            # A message was torn by a reconnection; the broker has nothing against this worker.
            self._log(logging.WARNING, f"the broker could not read a message: {reason}")
            return
        self._log(logging.ERROR, f"the broker refused this worker: {reason}")
        self._exit(REFUSED)

    # What this process says.

    def _became_warm(self, warm: PolicyReady, now: float) -> None:
        news = warm.introduction != self._introduction
        self._warm, self._introduction = warm, warm.introduction
        if news:  # its files are there, so the digest is known now
            self._hello()
        self._say_ready()

    def _answered(self, answer: Answered, now: float) -> None:
        size = sum(map(len, answer.payload))
        if self._max_bytes is not None and size > self._max_bytes:
            self._fail(answer.request, _too_large(size, self._max_bytes))
        else:
            self._reply(answer.request, answer.fields, answer.payload)

    def _undecodable(self, event: Undecodable, now: float) -> None:
        self._fail(event.request, event.error)

    def _broke(self, event: PolicyBroken, now: float) -> None:
        self._goodbye(event.reason, BROKEN)

    def _stop(self, event: Stop, now: float) -> None:
        if event.within_s >= self._within_s:
            self._goodbye("it was stopped", STOPPED)
            return
        self._within_s, self._leave_at = event.within_s, now + event.within_s
        self._leave_from = now + BEATS_TO_DRAIN * self._interval_s
        self._last_beat = None if self._beat is None else self._beat + BEATS_TO_DRAIN
        self._beat_or_hello(now)

    def _tick(self, event: Tick, now: float) -> None:
        if now >= self.wake_at():
            self._beat_or_hello(now)

    # What is said to the broker.

    def _beat_or_hello(self, now: float) -> None:
        self._next_beat = now + self._interval_s
        if self._leave_at is not None and (self._is_drained(now) or now >= self._leave_at):
            self._goodbye("it was stopped", STOPPED)
            return
        if now - self._heard_at > SILENCE_S:
            self._log(logging.WARNING, f"no word from a broker at {self._endpoint}: still trying")
            self._heard_at = now
        if self.epoch is None:
            self._hello()
            return
        self._say_heartbeat()

    def _say_heartbeat(self) -> None:
        n = self._beat or 0
        self._say({"kind": "heartbeat", "n": n, "ids": self._ids(), "state": self.state})

    def _is_drained(self, now: float) -> bool:
        """Whether all is answered, even what was on its way when the worker was stopped."""
        if self.in_hand or self.epoch is None:
            return not self.in_hand
        heard, last = self._beat, self._last_beat
        return heard is not None and last is not None and heard >= last and now >= self._leave_from

    def _ids(self) -> list[list[Any]]:
        """The requests in hand for this broker; of more than `MAX_SLOTS`, the newest.

        There can be more only where the broker has forgotten older ones and given new ones.
        """
        ids = [[id, attempt] for id, attempt, epoch in self.in_hand if epoch == self.epoch]
        return ids[-MAX_SLOTS:]

    def _hello(self) -> None:
        about = self._introduction
        fields: Header = {
            "kind": "hello",
            "incarnation": about.incarnation,
            "policy": about.policy,
            "horizon": about.horizon,
            "state": self.state,
            "slots": about.slots,
        }
        if about.digest is not None:
            fields["digest"] = about.digest
        self._say(fields, about.metadata)

    def _say_ready(self) -> None:
        if self._warm is None or self.epoch is None:
            return
        ready: Header = {"kind": "ready", "slots": self._introduction.slots}
        pace = ""
        if (inference_ms := self._warm.inference_ms) is not None:
            ready["inference_ms"] = inference_ms
            pace = f", {inference_ms:.1f} ms an inference"
        self._say(ready)
        self._log(logging.INFO, f"ready: serving {self._introduction.policy!r}{pace}")

    def _fail(self, request: Header, error: errors.PolicyError) -> None:
        self._reply(request, {"kind": "failure", **errors.to_wire(error)})

    def _reply(self, request: Header, fields: Header, payload: Payload = ()) -> None:
        id, attempt, epoch = key = attempt_of(request)
        # After a lost connection the same attempt may have come twice: each is answered.
        self.in_hand.pop(key, None)
        if epoch == self.epoch:
            if "timing" in fields:
                fields = {**fields, "timing": fit_timing(fields["timing"])}
            self._say({**fields, "id": id, "attempt": attempt}, payload)
        else:
            text = "an answer is not sent: its broker has restarted, and the robot asks again"
            self._log(logging.WARNING, text, request=str(id))

    def _goodbye(self, reason: str, code: int) -> None:
        self._say({"kind": "goodbye", "message": reason})
        self._exit(code)

    def _say(self, fields: Header, payload: Payload = ()) -> None:
        fields["v"] = VERSION
        if self.epoch is not None:
            fields["epoch"] = self.epoch
        self._commands.append(Send(fields, payload))

    def _log(self, level: int, text: str, **about: str) -> None:
        self._commands.append(Log(level, text, about))

    def _exit(self, code: int) -> None:
        self._ended = True
        self._commands.append(Exit(code))


def _too_large(size: int, limit: int) -> errors.PolicyFailed:
    return errors.PolicyFailed(
        f"the policy's answer has {size} bytes, and the broker takes {limit} (its"
        " limits.max_bytes): have the policy answer less, or raise that limit"
    )
