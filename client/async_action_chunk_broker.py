"""Hands out an action at every control step while the next chunk is computed elsewhere."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Protocol

from client import errors
from client.body import Observation
from client.chunk_schedule import ChunkSchedule, Request, ScheduleOptions, Step
from client.chunk_statistics import ChunkStatistics
from client.merging import Array
from client.snapshot import Snapshots

_CLOSE_S = 1.0  # how long `close` waits for a call of the policy to end
_TRANSIENT = (errors.Unavailable, errors.WorkerLost, ConnectionError, TimeoutError)


class Policy(Protocol):
    """Such as `ZmqPolicyClient`. With merge `rtc`, `infer` also takes the leftover's keywords."""

    @property
    def infer(self) -> Callable[..., dict[str, Any]]:
        """What answers an observation with `actions`."""

    def reset(self) -> None:
        """Begin a new episode."""


class AsyncActionChunkBroker:
    """Asks for the next chunk in the background, early enough, so that the robot never waits.

        with AsyncActionChunkBroker(policy, control_hz=50, merge="rtc") as robot:
            while running:
                action = robot.step(observation)  # (action_dim,), at once
                if action is not None:
                    apply(action)

    `step` never blocks. `infer` has openpi's interface, so its runtime drives it too. A chunk is
    asked for early enough to come in time, judged by the recent latencies. When it comes, as many
    of its actions are skipped as the robot has executed meanwhile.

    The next `step` raises the policy's error, and can be called again after any of them. It does
    not raise errors that may soon pass (`errors.Unavailable`, a lost connection, a deadline): the
    robot holds, the broker asks again, and `statistics` counts them.
    """

    def __init__(
        self,
        policy: Policy,
        control_hz: float,
        *,
        merge: str = "replace",
        action_horizon: int | None = None,
        starvation: str = "hold",
        average_weights: tuple[float, float] = (0.3, 0.7),
        ensemble_decay: float = 0.01,
        mode: str | None = None,
        schedule: str | None = None,
        max_guidance_weight: float | None = None,
        prefix_attention_horizon: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin an episode; nothing is asked before the first step.

        Args:
            policy: asked by one thread, one request at a time.
            control_hz: how often `step` will be called.
            merge: `replace` by the new chunk; `average` of old and new; `ensemble`, ACT's mean of
                all chunks; or `rtc`, real-time chunking: the policy makes the new chunk continue
                the old one.
            action_horizon: actions to execute of each chunk, at most its length; half by default.
            starvation: when no action is left, `hold` the last one; `slow` down before it comes to
                that; or `raise` `errors.Starved`.
            average_weights: of the old and of the new chunk.
            ensemble_decay: how much less each newer chunk weighs in an ensemble.
            mode: the form of real-time chunking; this and the following as in
                `ZmqPolicyClient.infer`.
            schedule: how the weight of the old chunk's rows falls.
            max_guidance_weight: bounds the pull towards the old chunk.
            prefix_attention_horizon: how many rows of the old chunk influence the new one.
            clock: monotonic seconds.

        Raises:
            ValueError: an argument is out of its range, or the policy's metadata say that it
                cannot do what `merge` and `mode` ask for.
            errors.PolicyError: the policy could not be asked what it can do (`rtc` only).
        """
        rtc = {
            "mode": mode,
            "schedule": schedule,
            "max_guidance_weight": max_guidance_weight,
            "prefix_attention_horizon": prefix_attention_horizon,
        }
        options = ScheduleOptions(
            control_hz, merge, action_horizon, starvation, average_weights, ensemble_decay, rtc
        )
        if merge == "rtc":
            _check_rtc(policy, mode or "identity")
        self._policy = policy
        self._clock = clock
        self._schedule = ChunkSchedule(options)
        self._snapshots = Snapshots()
        self._changed = threading.Condition()
        self._job: tuple[Request, Observation, int] | None = None
        self._resets = 0
        self._error: BaseException | None = None
        self._last_failure: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="action-chunks", daemon=True)
        self._thread.start()

    def step(self, obs: Observation) -> Array | None:
        """The action (action_dim,) for this control step; None while the first has not come yet.

        Arrays of `obs` are copied where a chunk is asked for, so cameras may write into them.

        Raises:
            errors.PolicyError: the policy refused an earlier observation; or `errors.Starved`,
                with `starvation="raise"`.
            errors.ClientClosed: after `close`.
            Exception: whatever else the policy raised.
        """
        with self._changed:
            self._raise_error()
            step = self._step(obs)
            if not step.is_fresh and self._schedule.begun and self._raises:
                raise errors.Starved(
                    "no action is left and the next chunk has not come: ask for chunks earlier"
                    f" (a smaller action_horizon), or hold. Last failure: {self._last_failure!r}"
                )
            return step.action

    def infer(self, obs: Observation) -> dict[str, Any]:
        """Like `step`, in openpi's form: `actions` (action_dim,). Waits for the first chunk.

        Raises:
            errors.PolicyError: as `step`, and whatever kept the first chunk from coming.
        """
        action = self.step(obs)
        while action is None:
            with self._changed:
                self._changed.wait_for(self._has_news)
                self._raise_error()
                if not self._schedule.begun and self._last_failure is not None:
                    raise self._last_failure
            action = self.step(obs)
        return {"actions": action}

    def reset(self) -> None:
        """Begin a new episode: the old plan is forgotten, and what is in flight will be dropped.

        The policy's own `reset` is called by the thread, before the next chunk is asked for.
        """
        with self._changed:
            self._schedule.reset()
            self._job = self._error = self._last_failure = None
            self._resets += 1
            self._changed.notify_all()

    def statistics(self) -> ChunkStatistics:
        """Held steps, ages, delays and seams so far."""
        with self._changed:
            return self._schedule.statistics()

    @property
    def last_failure(self) -> BaseException | None:
        """What the policy raised last in this episode, even if `step` did not raise it."""
        with self._changed:
            return self._last_failure

    def close(self) -> None:
        """Stop asking; the policy stays open. Waits a moment for a call that is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_S)

    def __enter__(self) -> AsyncActionChunkBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _raises(self) -> bool:
        return self._schedule.options.starvation == "raise"

    def _has_news(self) -> bool:
        return self._closed or self._error is not None or not self._schedule.is_asking

    def _raise_error(self) -> None:
        if self._closed:
            raise errors.ClientClosed("this chunk broker is closed: make a new one")
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _step(self, obs: Observation) -> Step:
        step = self._schedule.step(self._clock())
        if step.request is not None:
            self._job = (step.request, self._snapshots.take(obs), self._schedule.held)
            self._changed.notify_all()
        return step

    def _work(self) -> None:
        """The thread: resets and requests, one after the other."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._job or self._resets)
                if self._closed:
                    return
                has_reset, self._resets = self._resets > 0, 0
                job, self._job = (None, self._job) if has_reset else (self._job, None)
            if has_reset:
                self._reset_policy()
            if job is not None:
                self._ask(*job)
            job = None  # its observation's memory can then be used again

    def _reset_policy(self) -> None:
        try:
            self._policy.reset()
        except BaseException as error:  # noqa: BLE001 - it is raised in the loop, not lost here
            with self._changed:
                self._note(error)

    def _ask(self, request: Request, obs: Observation, held: int) -> None:
        try:
            # `ZmqPolicyClient` has it: what the robot missed then shows at the broker as well.
            tell_held = getattr(self._policy, "tell_held", None)
            if tell_held is not None:
                tell_held(held)
            result = self._policy.infer(obs, **request.options)
            with self._changed:
                self._schedule.answered(request, result["actions"], self._clock())
                self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - it is raised in the loop, not lost here
            with self._changed:
                pauses = isinstance(error, _TRANSIENT)
                if self._schedule.failed(request, self._clock(), pauses):
                    self._note(error)

    def _note(self, error: BaseException) -> None:
        self._last_failure = error
        if not isinstance(error, _TRANSIENT):
            self._error = error
        self._changed.notify_all()


def _check_rtc(policy: Any, mode: str) -> None:
    """Whether the policy takes a leftover, as far as it says so."""
    ask = getattr(policy, "get_server_metadata", None)
    modes = None if ask is None else ask().get("rtc", ())
    if modes is not None and mode not in modes:
        raise ValueError(
            f"merge='rtc' with mode {mode!r}: the served policy takes "
            f"{', '.join(modes) or 'no form of real-time chunking'}; use another mode, or "
            "merge='average' or 'ensemble'"
        )
