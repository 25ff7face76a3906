"""A rollout as a pure state machine: it takes in facts, and returns what is to be done next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from scripts.rollout.actions import Action, Code, End, Plan, Say, Stop, counted
from scripts.rollout.config import RolloutConfig
from scripts.rollout.facts import Facts, Figures
from scripts.rollout.judge import Breach, judge_requests, judge_shadow

# How long the new version may be without a ready worker, as one that restarts is soon back.
GONE_S = 10.0
# How long retired workers may take to finish what they have and to end.
RETIRE_S = 30.0
_TELL_S = 60.0  # between two lines about what is waited for


class Phase(StrEnum):
    """What a rollout is doing."""

    LOADING = "the new workers load"
    SHADOWED = "the new version is asked beside the old one"
    STEP = "a share of the episodes goes to the new version"
    FINISHING = "the old version's episodes end"
    RETURNING = "the new version's episodes end"
    LEAVING = "workers that are not needed any more end"
    OVER = "all is done"


@dataclass(frozen=True)
class Step:
    """A step for the report; the new version's figures are those of this step alone."""

    share: float
    lasted_s: float
    stable: Figures
    candidate: Figures


class Rollout:
    """Decides what a rollout does; call `next` again and again.

    Attributes:
        phase: what it is doing.
        steps: the steps that have ended.
    """

    def __init__(self, stable: str, candidate: str, config: RolloutConfig) -> None:
        """Begin with the loading of the new workers."""
        self.phase = Phase.LOADING
        self.steps: list[Step] = []
        self._stable, self._candidate, self._config = stable, candidate, config
        self._names = stable, candidate
        self._since = 0.0  # when the phase, or the step, began
        self._told_at = 0.0
        self._begun = Figures()  # the new version's when the step began
        self._timed = Figures()  # the old version's latencies when they were last worth judging
        self._gone_since: float | None = None
        self._slow_since: float | None = None
        self._has_moved = False
        self._leaving = ""  # the version whose workers are retired
        self._end = End(Code.DONE, "")

    def first(self, now: float) -> list[Action]:
        """What to do before a worker of the new version is started: no robot may get one yet."""
        self._since = self._told_at = now
        return [Plan(self._stable)]

    def next(self, facts: Facts) -> list[Action]:
        """What to do now, in this order; usually nothing."""
        if facts.stable.timed >= self._config.bounds.latency_requests:
            self._timed = facts.stable
        if facts.interrupts and self.phase not in _CANNOT_RETURN:
            return self._return(
                facts, Code.INTERRUPTED, Breach("the operator interrupted the rollout")
            )
        return _DO[self.phase](self, facts)

    def _load(self, facts: Facts) -> list[Action]:
        if facts.ended:
            reason = f"a worker of {self._candidate} ended before it was ready, {facts.ended[0]}"
            return self._return(facts, Code.NOT_READY, Breach(reason))
        ready, wanted = facts.candidate.ready, self._config.ready_wanted
        if ready < wanted:
            if facts.now - self._since > self._config.ready_within_s:
                reason = (
                    f"{ready} of {wanted} workers of {self._candidate} were ready after "
                    f"{self._config.ready_within_s:g} s (ready_within_s)"
                )
                return self._return(facts, Code.NOT_READY, Breach(reason))
            return self._wait(facts, f"{ready} of {wanted} workers of {self._candidate} are ready")
        said = [
            Say(f"{self._candidate} is ready beside {self._stable}: {counted(ready, 'worker')}")
        ]
        if ready < facts.stable.ready:
            before = counted(facts.stable.ready, "worker")
            said.append(
                Say(f"{self._stable} has {before}, so robots may have to wait longer", True)
            )
        if facts.shadow is None:
            return [*said, *self._step(facts)]
        self._enter(Phase.SHADOWED, facts)
        count = self._config.shadow.requests
        text = f"{self._candidate} is asked {count} requests of {self._stable} too, and compared"
        return [*said, Say(text)]

    def _watch_shadow(self, facts: Facts) -> list[Action]:
        if breach := self._breach(facts):
            return self._return(facts, Code.ROLLED_BACK, breach)
        shadow, wanted = facts.shadow, self._config.shadow
        asked = 0 if shadow is None else shadow.asked
        is_late = facts.now - self._since > wanted.within_s
        if asked < wanted.requests and not is_late:
            return self._wait(facts, f"{asked} of {wanted.requests} requests were asked of both")
        if not asked:
            reason = (
                f"{self._stable} had no request that could be compared in "
                f"{wanted.within_s:g} s (shadow.within_s)"
            )
            return self._return(facts, Code.ROLLED_BACK, Breach(reason))
        said = [Say(f"{asked} requests were asked of both: {self._told_shadow(facts)}")]
        return [*said, *self._step(facts)]

    def _watch_step(self, facts: Facts) -> list[Action]:
        if breach := self._breach(facts):
            return self._return(facts, Code.ROLLED_BACK, breach)
        config, lasted_s = self._config, facts.now - self._since
        seen = self._seen(facts)
        if lasted_s < config.step_s or seen.episodes < config.step_episodes:
            if lasted_s > config.step_longest_s:
                reason = (
                    f"only {seen.episodes} of {config.step_episodes} episodes began with "
                    f"{self._candidate} in {config.step_longest_s:g} s (step_longest_s)"
                )
                return self._return(facts, Code.ROLLED_BACK, Breach(reason))
            return self._wait(
                facts, f"{seen.episodes} of {config.step_episodes} episodes have begun"
            )
        if self._slow_since is not None:
            return []  # it will soon be known whether that lasts
        self._keep_step(facts)
        said = Say(f"step {len(self.steps)} is passed: {self._told(seen)}")
        if len(self.steps) < len(config.shares):
            return [said, *self._step(facts)]
        self._enter(Phase.FINISHING, facts)
        self._has_moved = False
        running = counted(facts.stable.running, "episode")
        return [
            said,
            Plan(self._candidate, self._stable),
            Say(f"all new episodes go to {self._candidate}; still with {self._stable}: {running}"),
        ]

    def _finish(self, facts: Facts) -> list[Action]:
        """Wait for the old version's episodes, and then retire its workers."""
        end = End(Code.DONE, f"{self._candidate} has taken over from {self._stable}")
        return self._let_end(facts, self._stable, facts.stable, self._candidate, end)

    def _await_return(self, facts: Facts) -> list[Action]:
        return self._let_end(facts, self._candidate, facts.candidate, self._stable, self._end)

    def _let_end(
        self, facts: Facts, name: str, figures: Figures, stable: str, end: End
    ) -> list[Action]:
        """Wait for a version's episodes, moving them when they take too long; retire its workers.

        An operator who interrupts a return again does not want to wait for them.
        """
        running = counted(figures.running, "episode")
        is_hurried = self.phase is Phase.RETURNING and facts.interrupts > 1
        is_late = is_hurried or facts.now - self._since > self._config.episode_s
        if figures.running and figures.workers and not self._has_moved:
            if not is_late:
                return self._wait(facts, f"still with {name}: {running}")
            self._has_moved = True
            said = Say(f"moved from {name} to {stable}: {running}")
            return [said, Plan(stable, name, move=True)]
        if not facts.is_settled and figures.workers and not is_late:
            return []
        self._enter(Phase.LEAVING, facts)
        self._leaving, self._end = name, end
        actions: list[Action] = [
            Say(f"no episode runs with {name}: its workers are retired"),
            Plan(stable, retire=(name,)),
        ]
        return [*actions, Stop()] if name == self._candidate else actions

    def _leave(self, facts: Facts) -> list[Action]:
        """Wait until the retired workers have gone."""
        left = facts.stable if self._leaving == self._stable else facts.candidate
        is_late = facts.now - self._since > RETIRE_S
        if left.workers and not is_late:
            return []
        self._enter(Phase.OVER, facts)
        if not left.workers:
            return [self._end]
        still = f"{counted(left.workers, 'worker')} of {self._leaving}"
        text = f"still there after {RETIRE_S:g} s: {still}; end what runs there yourself"
        return [Say(text, is_bad=True), self._end]

    def _step(self, facts: Facts) -> list[Action]:
        """Begin the next step."""
        config, number = self._config, len(self.steps)
        self._enter(Phase.STEP, facts)
        self._begun, self._gone_since, self._slow_since = facts.candidate, None, None
        share = config.shares[number]
        text = (
            f"step {number + 1} of {len(config.shares)}: {share:.0%} of the episodes that begin go "
            f"to {self._candidate}, for {config.step_s:g} s and {config.step_episodes} episodes"
        )
        return [Plan(self._stable, self._candidate, share), Say(text)]

    def _keep_step(self, facts: Facts) -> None:
        share = self._config.shares[len(self.steps)]
        self.steps.append(Step(share, facts.now - self._since, facts.stable, self._seen(facts)))

    def _seen(self, facts: Facts) -> Figures:
        """The new version's figures of this step, without latencies from before the rollout."""
        new = facts.candidate  # which may have been the stable one a minute ago
        return replace(new.since(self._begun), timed=min(new.timed, new.requests))

    def _breach(self, facts: Facts) -> Breach | None:
        bounds, names = self._config.bounds, self._names
        if facts.candidate.ready or not facts.stable.ready:  # a broker that restarts has neither
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = facts.now
        elif facts.now - self._gone_since > GONE_S:
            words = f"; one ended {facts.ended[0]}" if facts.ended else ""
            return Breach(f"no worker of {self._candidate} is left{words}", moves=True)
        old = replace(facts.stable, timed=self._timed.timed, p95_ms=self._timed.p95_ms)
        shadow = facts.shadow
        found = [
            None if shadow is None else judge_shadow(names, shadow, bounds),
            judge_requests(names, old, self._seen(facts), bounds),
        ]
        breaches = sorted(filter(None, found), key=lambda each: each.is_latency)
        if not breaches or not breaches[0].is_latency:
            self._slow_since = None
            return breaches[0] if breaches else None
        if self._slow_since is None or not facts.is_settled:
            self._slow_since = facts.now
        return breaches[0] if facts.now - self._slow_since >= bounds.latency_s else None

    def _return(self, facts: Facts, code: Code, breach: Breach) -> list[Action]:
        """Roll back: no more episodes begin with the new version, and its own end there or move."""
        if self.phase is Phase.STEP:
            self._keep_step(facts)
        self._enter(Phase.RETURNING, facts)
        self._end, self._has_moved = End(code, breach.reason), breach.moves
        return [
            Say(f"back to {self._stable}: {breach.reason}", is_bad=True),
            Plan(self._stable, self._candidate, move=breach.moves),
        ]

    def _enter(self, phase: Phase, facts: Facts) -> None:
        self.phase, self._since, self._told_at = phase, facts.now, facts.now

    def _wait(self, facts: Facts, text: str) -> list[Action]:
        """Say now and then what the rollout is waiting for."""
        if facts.now - self._told_at < _TELL_S:
            return []
        self._told_at = facts.now
        return [Say(text)]

    def _told(self, seen: Figures) -> str:
        text = (
            f"{counted(seen.episodes, 'episode')}, {counted(seen.requests, 'request')}, "
            f"{seen.failures} failed"
        )
        if min(seen.timed, self._timed.timed) >= self._config.bounds.latency_requests:
            return f"{text}, 95 % within {seen.p95_ms:.0f} ms (old: {self._timed.p95_ms:.0f} ms)"
        return f"{text}; too few to judge their latency"

    def _told_shadow(self, facts: Facts) -> str:
        shadow = facts.shadow
        if shadow is None or shadow.largest is None:
            return f"{0 if shadow is None else shadow.failures} failed, no actions were compared"
        other = f"; some differ in another way: {shadow.other}" if shadow.other else ""
        return (
            f"{shadow.failures} failed, actions differ by {shadow.largest:.4g} at most, and by "
            f"{shadow.mean:.4g} at most on average over an answer{other}"
        )


# From here on the new version is the stable one and the old one's workers end, or it is all over.
_CANNOT_RETURN: Sequence[Phase] = (Phase.RETURNING, Phase.LEAVING, Phase.OVER)
_DO: dict[Phase, Callable[[Rollout, Facts], list[Action]]] = {
    Phase.LOADING: Rollout._load,
    Phase.SHADOWED: Rollout._watch_shadow,
    Phase.STEP: Rollout._watch_step,
    Phase.FINISHING: Rollout._finish,
    Phase.RETURNING: Rollout._await_return,
    Phase.LEAVING: Rollout._leave,
    Phase.OVER: lambda rollout, facts: [],
}
