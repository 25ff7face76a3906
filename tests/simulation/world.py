"""Plays a schedule: trouble first, then peace, in which everything must come right again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from broker.states import WorkerState
from client.body import encode_body
from client.names import base_of
from tests.simulation import schedule as steps
from tests.simulation.bounds import check_empty
from tests.simulation.broker_process import BrokerProcess
from tests.simulation.client_robot import ClientRobot
from tests.simulation.clock import Clock
from tests.simulation.ledger import Ledger
from tests.simulation.network import Link
from tests.simulation.robots import BareRobot, Call, Pipeliner, Robot
from tests.simulation.schedule import Schedule, way
from tests.simulation.violation import Violation
from tests.simulation.worker_seat import Seat

_SETTLE_S = 8.0  # at most, from the end of trouble until every worker is trusted
_LOOK_S = 0.05  # how often it is looked at
_PROBE_DEADLINE_S = 60.0
_PROBE_SLACK_S = 0.5
_PROBE_MANY = 30  # requests of a greedy lane
_PROBE_SLOTS = 2


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
        self.brokers = [
            BrokerProcess(
                self.clock,
                setting.broker_config(),
                setting.team_settings(),
                Ledger(setting.default_deadline_s),
                schedule.seed,
                number,
            )
            for number in range(setting.brokers)
        ]
        self.broker = self.brokers[0]
        for number, spec in enumerate(setting.workers):
            self._lay(f"w{number}", spec.delay_s, setting.hang_up_s)
        self.workers = [Seat(self, number, spec) for number, spec in enumerate(setting.workers)]
        self.robots = [
            self._robot(f"r{number}", number, spec) for number, spec in enumerate(setting.robots)
        ]
        self.operators = [
            BareRobot(
                self.clock,
                steps.RobotSpec(names_requests=False),
                self._lay(f"o{number}", 0.0005, float("inf"))[number],
                broker,
                broker.ledger,
            )
            for number, broker in enumerate(self.brokers)
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
            if self.schedule.setting.teams:
                self._probe_lanes(policy)
        self._settle()
        words: Counter[str] = Counter()
        digest = 0
        for broker in self.brokers:
            if broker.core is not None:
                check_empty(broker.core)
            words.update(broker.ledger.outcomes)
            digest ^= broker.ledger.digest
        return Outcome(
            words,
            sum(broker.handled for broker in self.brokers),
            self.clock.now,
            settled_s,
            digest,
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

    def roll_out(self, step: steps.Rollout) -> None:
        """An operator sends a plan to one broker."""
        plan = {
            "policy": step.policy,
            "stable": step.stable,
            "candidate": step.candidate,
            "share": step.share,
            "move": step.move,
            "retire": list(step.retire),
        }
        (body,) = encode_body(plan, buffers=False)
        self.operators[step.broker].call(Call("rollout", bytes(body)))

    def delay(self, peer: str, extra_s: float) -> None:
        """From now on a peer's messages take this much longer."""
        self.links[peer].extra_s = extra_s
        self.links[peer].disturbances += 1

    def mislead(self, robot: int) -> None:
        """The next answer to a robot comes under the id of another request."""
        self.links[f"r{robot}"].misleads = True

    def restart(self, down_s: float, gently: bool, number: int = 0) -> None:
        """End a broker and start it again."""
        broker = self.brokers[number]
        if gently:
            broker.stop()
            down_s += self.schedule.setting.drain_ms / 1e3
        else:
            broker.kill()
        self.clock.after(down_s, broker.start)

    # Peace.

    def _make_peace(self) -> None:
        self.at_peace = True
        for robot in [*self.robots, *self.operators]:
            robot.rest()
        for broker in self.brokers:
            broker.resume()
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
        for number, robot in enumerate(self.robots):
            links = [self.links[way(f"r{number}", each)] for each in range(len(self.brokers))]
            if not robot.is_idle or any(link.under_way for link in links):
                return f"robot {number} still waits"
        if not all(operator.is_idle for operator in self.operators):
            return "an operator still waits"
        return next(filter(None, map(self._unsettled_at, range(len(self.brokers)))), "")

    def _unsettled_at(self, number: int) -> str:
        """Who is not settled at a broker, or nothing."""
        broker = self.brokers[number]
        core = broker.core
        if core is None:
            return "the broker is down"
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
            socket = seat.process.sockets[number]
            worker = core.pool.by_id.get(socket.identity)
            live.add(socket.identity)
            if worker is None or not broker.reaches(socket):
                return f"{seat.name} is unknown to the broker"
            if worker.state is not WorkerState.READY or worker.in_hand:
                return f"{seat.name} is {worker.state} with {len(worker.in_hand)} in hand"
        gone = set(core.pool.by_id) - live
        return f"the core still believes in {sorted(gone)}" if gone else ""

    def _probe(self, policy: str) -> None:
        """Ask more of a policy than it can do at once: all is answered, as fast as it can be."""
        seats = [s for s in self.workers if s.process is not None and s.policy == policy]
        limits = self.schedule.setting
        if any(seat.policy != policy == base_of(seat.policy) for seat in self.workers):
            for number in range(len(self.brokers)):  # else another version may be the stable one
                self.roll_out(steps.Rollout(self.clock.now, policy, policy=policy, broker=number))
            self._settle()
        slots = sum(seat.spec.slots for seat in seats)
        count = min(2 * slots + 1, limits.max_requests, limits.max_total_bytes // 50)
        began, words = self.clock.now, Counter[str]()
        for number in range(count):
            robot = self._robot(f"p{policy}{number}", number, steps.RobotSpec())
            assert isinstance(robot, ClientRobot)
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

    def _probe_lanes(self, policy: str) -> None:
        """A lane asks for much and others, later, for little: none has to wait for all of it."""
        seats = [s for s in self.workers if s.process is not None and s.policy == policy]
        setting, slots = self.schedule.setting, sum(seat.spec.slots for seat in seats)
        teams = ["", *(each.name for each in setting.teams if not each.has_quotas)]
        lanes = [steps.RobotSpec(team=team) for team in reversed(teams)]
        if not setting.reserve_live:
            lanes.append(steps.RobotSpec(traffic="evaluation"))
        count = _PROBE_MANY + 2 * (len(lanes) - 1)
        fits = count <= setting.max_requests and count * 50 <= setting.max_total_bytes
        if slots > _PROBE_SLOTS or not fits:
            return  # where many are under way at once, a lane may be ahead for longer than this
        bodies: list[list[bytes]] = []
        words = Counter[str]()
        for number, spec in enumerate(lanes):
            bodies.append([self._body("good", 30) for _ in range(_PROBE_MANY if not number else 2)])
            for index, body in enumerate(bodies[-1]):
                link = self._lay(f"l{policy}{number}.{index}", spec.delay_s, float("inf"))[0]
                robot = ClientRobot(self.clock, spec, link, self.broker, self.broker.ledger)
                robot.on_answer = lambda call, word: words.update([word])
                robot.call(Call("infer", body, _PROBE_DEADLINE_S, policy))
        slowest_s = max(s.spec.inference_s * s.spec.slots + 4.0 * s.spec.delay_s for s in seats)
        self.clock.run_until(self.clock.now + 1.2 * count * slowest_s + _PROBE_SLACK_S)
        if words["result"] != count:
            raise Violation(5, f"{count} requests for {policy} in lanes got {dict(words)}")
        greedy, *others = [
            [self.broker.ledger.given.index(body) for body in lane] for lane in bodies
        ]
        for spec, places in zip(lanes[1:], others, strict=True):
            if min(places) > max(greedy):
                raise Violation(6, f"{spec} was given nothing until {lanes[0]} had all")

    def _happen(self, step: steps.Step) -> None:
        if not self.at_peace:
            step.happen(self)

    def _body(self, effect: str, size: int) -> bytes:
        """An observation unlike any other."""
        self._bodies += 1
        return (
            b"" if effect == "empty" else b"%s:%d:" % (effect.encode(), self._bodies) + b"." * size
        )

    def _lay(self, name: str, delay_s: float, hang_up_s: float) -> list[Link]:
        """Links between a peer and all brokers."""
        links = []
        for number in range(len(self.brokers)):
            link = Link(self.clock, way(name, number), delay_s, hang_up_s, self.schedule.seed)
            link.reconnect_max_s = self.schedule.setting.reconnect_max_s
            self.links[link.name] = link
            links.append(link)
        return links

    def _robot(self, name: str, number: int, spec: steps.RobotSpec) -> Robot:
        # Towards robots ZeroMQ's heartbeats are patient enough never to matter here.
        links = self._lay(name, spec.delay_s, float("inf"))
        ways = [
            (link, broker, broker.ledger) for link, broker in zip(links, self.brokers, strict=True)
        ]
        first = number % len(ways)  # not all begin with the same one
        ways = ways[first:] + ways[:first]
        if spec.pipelines:
            return Pipeliner(self.clock, spec, *ways[0])
        if not spec.names_requests:
            return BareRobot(self.clock, spec, *ways[0])
        robot = ClientRobot(self.clock, spec, *ways[0])
        if len(ways) > 1:
            robot.also_knows(ways[1:])
        return robot
