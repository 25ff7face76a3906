"""Plays a schedule: trouble first, then peace, in which everything must come right again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from broker.states import WorkerState
from tests.simulation import schedule as steps
from tests.simulation.bounds import check_empty
from tests.simulation.broker_process import BrokerProcess
from tests.simulation.client_robot import ClientRobot
from tests.simulation.clock import Clock
from tests.simulation.ledger import Ledger
from tests.simulation.network import Link
from tests.simulation.robots import BareRobot, Call, Pipeliner, Robot
from tests.simulation.schedule import Schedule
from tests.simulation.violation import Violation
from tests.simulation.worker_seat import Seat

_SETTLE_S = 8.0  # at most, from the end of trouble until every worker is trusted
_LOOK_S = 0.05  # how often it is looked at
_PROBE_DEADLINE_S = 60.0
_PROBE_SLACK_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """What a simulation that found nothing wrong did."""

    words: Counter[str]  # final answers by kind or error code
    handled: int  # events of the core
    simulated_s: float
    settled_s: float  # how long peace took to come
    digest: int  # of all answers, with their moments
    over_slots: int  # workers that held more than their slots, of several registrations


class World:
    """Everybody in one simulation."""

    def __init__(self, schedule: Schedule) -> None:
        setting = schedule.setting
        self.schedule, self.clock = schedule, Clock()
        self.links: dict[str, Link] = {}
        self.ledger = Ledger(setting.default_deadline_s)
        self.broker = BrokerProcess(self.clock, setting.broker_config(), self.ledger, schedule.seed)
        for number, spec in enumerate(setting.workers):
            self._link(f"w{number}", spec.delay_s, setting.hang_up_s)
        self.workers = [Seat(self, number, spec) for number, spec in enumerate(setting.workers)]
        self.robots = [
            self._robot(f"r{number}", spec) for number, spec in enumerate(setting.robots)
        ]
        self.at_peace = False
        self._bodies = 0

    def play(self) -> Outcome:
        """Run it all.

        Raises:
            Violation: something happened that must not.
        """
        last = 0.5
        for step in self.schedule.steps:
            self.clock.at(step.at, self._happen, step)
            last = max(last, step.at + 0.01)
        self.clock.run_until(last)
        self._make_peace()
        settled_s = self._settle()
        for policy in sorted({seat.policy for seat in self.workers if seat.process is not None}):
            self._probe(policy)
        self._settle()
        if self.broker.core is not None:
            check_empty(self.broker.core)
        return Outcome(
            self.ledger.outcomes,
            self.broker.handled,
            self.clock.now,
            settled_s,
            self.ledger.digest,
            sum(seat.most_held > seat.spec.slots for seat in self.workers),
        )

    # What steps ask for.

    def ask(self, ask: steps.Ask) -> None:
        """A robot's program calls `infer`."""
        call = Call("infer", self._body(ask.effect, ask.size), ask.deadline_s, ask.policy)
        call.session, call.priority = ask.session, ask.priority
        self.robots[ask.robot].call(call)

    def call(self, step: steps.Call) -> None:
        """A robot's program calls something else."""
        call = Call(step.kind, policy=step.policy, session=step.session)
        self.robots[step.robot].call(call)

    def delay(self, peer: str, extra_s: float) -> None:
        """From now on a peer's messages take this much longer."""
        self.links[peer].extra_s = extra_s
        self.links[peer].disturbances += 1

    def mislead(self, robot: int) -> None:
        """The next answer to a robot comes under the id of another request."""
        self.links[f"r{robot}"].misleads = True

    def restart(self, down_s: float, gently: bool) -> None:
        """End the broker and start it again."""
        if gently:
            self.broker.stop()
            down_s += self.schedule.setting.drain_ms / 1e3
        else:
            self.broker.kill()
        self.clock.after(down_s, self.broker.start)

    # Peace.

    def _make_peace(self) -> None:
        self.at_peace = True
        for robot in self.robots:
            robot.rest()
        self.broker.resume()
        for link in self.links.values():
            link.heal()
        for seat in self.workers:
            seat.heal()

    def _settle(self) -> float:
        """Wait until nobody waits and every live worker is trusted; returns for how long."""
        began = self.clock.now
        while wrong := self._unsettled():
            if self.clock.now - began > _SETTLE_S:
                raise Violation(5, f"after {_SETTLE_S} s of peace {wrong}")
            self.clock.run_until(self.clock.now + _LOOK_S)
        return self.clock.now - began

    def _unsettled(self) -> str:
        """Who is not settled, or nothing."""
        core = self.broker.core
        if core is None:
            return "the broker is down"
        for number, robot in enumerate(self.robots):
            if not robot.is_idle or self.links[f"r{number}"].under_way:
                return f"robot {number} still waits"
        if core.in_hand:
            return f"{core.in_hand} requests are in hand"
        live = set()
        for seat in self.workers:
            if seat.process is None:
                if seat.comes_back:
                    return f"{seat.name} has not come back"
                continue
            if seat.process.session.state == "draining":
                return f"{seat.name} has not left yet"
            worker = core.pool.by_id.get(seat.process.identity)
            live.add(seat.process.identity)
            if worker is None or not self.broker.reaches(seat.process):
                return f"{seat.name} is unknown to the broker"
            if worker.state is not WorkerState.READY or worker.in_hand:
                return f"{seat.name} is {worker.state} with {len(worker.in_hand)} in hand"
        gone = set(core.pool.by_id) - live
        return f"the core still believes in {sorted(gone)}" if gone else ""

    def _probe(self, policy: str) -> None:
        """Ask more of a policy than it can do at once: all is answered, as fast as it can be."""
        seats = [s for s in self.workers if s.process is not None and s.policy == policy]
        limits = self.schedule.setting
        slots = sum(seat.spec.slots for seat in seats)
        count = min(2 * slots + 1, limits.max_requests, limits.max_total_bytes // 50)
        began, words = self.clock.now, Counter[str]()
        for number in range(count):
            spec = steps.RobotSpec()
            link = self._link(f"p{policy}{number}", spec.delay_s, float("inf"))
            robot = ClientRobot(self.clock, spec, link, self.broker, self.ledger)
            robot.on_answer = lambda call, word: words.update([word])
            robot.call(Call("infer", self._body("good", 30), _PROBE_DEADLINE_S, policy))
        rate = sum(1.0 / seat.spec.inference_s for seat in seats)
        slowest = max(seat.spec.inference_s * seat.spec.slots for seat in seats)
        self.clock.run_until(began + 1.2 * (count / rate + 2 * slowest) + _PROBE_SLACK_S)
        if words["result"] != count:
            took_s = self.clock.now - began
            raise Violation(
                5, f"after {took_s:.2f} s of peace {count} requests for {policy} got {dict(words)}"
            )

    def _happen(self, step: steps.Step) -> None:
        if not self.at_peace:
            step.happen(self)

    def _body(self, effect: str, size: int) -> bytes:
        """An observation unlike any other."""
        self._bodies += 1
        return (
            b"" if effect == "empty" else b"%s:%d:" % (effect.encode(), self._bodies) + b"." * size
        )

    def _link(self, name: str, delay_s: float, hang_up_s: float) -> Link:
        link = Link(self.clock, name, delay_s, hang_up_s, self.schedule.seed)
        link.reconnect_max_s = self.schedule.setting.reconnect_max_s
        self.links[name] = link
        return link

    def _robot(self, name: str, spec: steps.RobotSpec) -> Robot:
        # Towards robots ZeroMQ's heartbeats are patient enough never to matter here.
        link = self._link(name, spec.delay_s, float("inf"))
        if spec.pipelines:
            return Pipeliner(self.clock, spec, link, self.broker, self.ledger)
        kind = ClientRobot if spec.names_requests else BareRobot
        return kind(self.clock, spec, link, self.broker, self.ledger)
