"""Schedules out of seeds: who takes part, what they ask, and which troubles befall them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from tests.simulation import schedule as s
from tests.simulation.schedule import EFFECTS, RobotSpec, Schedule, Setting, Step, WorkerSpec
from tests.simulation.worker_seat import LIES

_ONE_IN = 4  # seeds has several brokers
_VERSIONED = 0.3  # of the seeds: several versions of a policy
TROUBLE_S = 2.2  # from the start; peace begins after the last step

Trouble = Callable[[Random, Setting, float], Step]


def generate(seed: int) -> Schedule:
    """The schedule of a seed."""
    random = Random(seed)
    setting = _lanes(Random(f"{seed}/lanes"), _setting(random))
    mood = random.choice(list(MOODS))
    steps = _asks(random, setting)
    kinds = MOODS[mood]
    count = random.randint(1, 12) if kinds else 0
    for _ in range(count):
        trouble = TROUBLES[random.choice(kinds)]
        steps.append(trouble(random, setting, _moment(random)))
    setting, steps = _with_versions(Random(f"{seed}/versions"), setting, steps)
    if has_several_brokers(seed):
        setting, steps = _with_several_brokers(random, setting, steps)
    return Schedule(seed, setting, tuple(sorted(steps, key=lambda step: step.at)))


def has_several_brokers(seed: int) -> bool:
    """Whether a seed's schedule has more than one broker."""
    return seed % _ONE_IN == _ONE_IN - 1


def _with_versions(
    random: Random, setting: Setting, steps: list[Step]
) -> tuple[Setting, list[Step]]:
    """Some of the schedules with several versions of the policy `a`, and plans for them."""
    if random.random() >= _VERSIONED:
        return setting, steps
    versions = random.choice((("a@1", "a@2"), ("a@1", "a@2"), ("a", "a@2"), ("a", "a@1", "a@2")))

    def versioned(worker: WorkerSpec) -> WorkerSpec:
        return replace(worker, policy=random.choice(versions)) if worker.policy == "a" else worker

    # Two of them at least, or there is nothing to choose from.
    workers = tuple(versioned(worker) for worker in (*setting.workers, WorkerSpec()))
    setting = replace(setting, workers=workers)
    steps = [
        replace(step, policy=random.choice(versions))
        if isinstance(step, s.Ask) and random.random() < 0.05
        else step
        for step in steps
    ]
    steps += [_rollout(random, versions) for _ in range(random.randint(0, 6))]
    return setting, steps


def _rollout(random: Random, versions: Sequence[str]) -> s.Rollout:
    stable, candidate, *_ = random.sample(versions, 2)
    return s.Rollout(
        _moment(random),
        stable,
        random.choice((candidate, candidate, None)),
        random.choice((0.0, 0.25, 0.5, 0.5, 1.0)),
        move=random.random() < 0.15,
        retire=(candidate,) if random.random() < 0.15 else (),
    )


def _with_several_brokers(
    random: Random, setting: Setting, steps: list[Step]
) -> tuple[Setting, list[Step]]:
    """The same with more brokers; each trouble befalls one of them, or a way to one of them."""
    count = random.choice((2, 2, 2, 3))
    # Each broker would refuse others of workers that differ, and then none can be settled.
    workers = tuple(replace(worker, digest="d") for worker in setting.workers)
    # Lanes are probed with one broker; here all robots are alike.
    most = Setting.max_workers
    setting = replace(setting, workers=workers, brokers=count, max_workers=most, teams=())

    def spread(step: Step) -> Step:
        if isinstance(step, (s.Restart, s.Pause, s.Jump, s.Rollout)):
            return replace(step, broker=random.randrange(count))
        if isinstance(step, (s.Cut, s.Delay)):
            return replace(step, peer=s.way(step.peer, random.randrange(count)))
        if isinstance(step, s.Partition):
            ways = {
                s.way(peer, number)
                for peer in step.peers
                for number in random.sample(range(count), random.randint(1, count))
            }
            return replace(step, peers=tuple(sorted(ways)))
        return step

    return setting, [spread(step) for step in steps]


def _moment(random: Random) -> float:
    return round(random.uniform(0.05, TROUBLE_S), 4)


def _delay(random: Random) -> float:
    return random.choice((0.0002, 0.0005, 0.0005, 0.002, 0.02))


def _setting(random: Random) -> Setting:
    policies = random.choice(("a", "a", "ab"))
    workers = tuple(_worker(random, policies) for _ in range(random.randint(1, 4)))
    robots = tuple(_robot(random) for _ in range(random.randint(1, 8)))
    heartbeat_ms = random.choice((100.0, 100.0, 200.0))
    limits: dict[str, Any] = {"max_requests_per_robot": random.choice((1, 2, 2, 64, 64, 64))}
    if random.random() < 0.25:
        limits["max_requests"] = random.randint(1, 4)
    if random.random() < 0.15:
        limits["max_total_bytes"] = random.randint(60, 200)
    if random.random() < 0.15:
        limits["max_bytes"] = random.randint(50, 80)
    if random.random() < 0.1:
        limits["max_workers"] = random.randint(1, 3)
    return Setting(
        workers,
        robots,
        heartbeat_ms=heartbeat_ms,
        suspect_ms=heartbeat_ms * random.choice((2.0, 3.0, 5.0)),
        shortest_lease_ms=random.choice((100.0, 250.0)),
        hang_up_s=random.choice((0.4, 1.0)),
        **limits,
    )


def _lanes(random: Random, setting: Setting) -> Setting:
    """Teams and evaluations, in some of the schedules."""
    if random.random() < 0.6:
        return setting
    teams = tuple(
        s.TeamSpec(
            name,
            random.choice((1.0, 1.0, 2.0, 0.5)),
            max_requests=random.choice((None, None, None, 1, 3)),
            max_rate=random.choice((None, None, None, 5.0)),
            max_share=random.choice((None, None, None, 0.3)),
        )
        for name in "xyz"[: random.randint(0, 3)]
    )
    names = ["", *(team.name for team in teams)]
    robots = tuple(
        replace(
            robot,
            team=random.choice(names),
            traffic=random.choice(("live", "live", "evaluation")),
        )
        for robot in setting.robots
    )
    return replace(
        setting,
        robots=robots,
        teams=teams,
        evaluation_share=random.choice((0.1, 0.25)),
        reserve_live=random.choice((0, 0, 0, 1, 2)),
    )


def _worker(random: Random, policies: str) -> WorkerSpec:
    return WorkerSpec(
        policy=random.choice(policies),
        slots=random.choice((1, 1, 1, 2, 4)),
        inference_s=round(random.uniform(0.005, 0.06), 3),
        batched=random.random() < 0.5,
        warm_up_s=round(random.uniform(0.0, 0.4), 3),
        delay_s=_delay(random),
        digest="d" if random.random() < 0.95 else "another",
        downloads=random.random() < 0.15,
    )


def _robot(random: Random) -> RobotSpec:
    return RobotSpec(
        pipelines=random.random() < 0.25,
        names_requests=random.random() < 0.75,
        delay_s=_delay(random),
    )


def _asks(random: Random, setting: Setting) -> list[Step]:
    policies = sorted({worker.policy for worker in setting.workers})
    steps: list[Step] = []
    for robot, spec in enumerate(setting.robots):
        own = random.choice(policies)
        pace_s = random.choice((0.005, 0.05, 0.15, 0.4))
        moment = random.uniform(0.0, 0.3)
        for _ in range(random.randint(3, 16)):
            steps.append(_ask(random, robot, own, round(moment, 4)))
            if spec.pipelines and random.random() < 0.3:
                again = moment + random.choice((0.0, 0.01, 0.1))
                steps.append(s.AskAgain(round(again, 4), robot))
            moment += random.expovariate(1.0 / pace_s)
            if moment > TROUBLE_S:
                break
        if random.random() < 0.2:
            steps.append(_call(random, robot, own))
    return steps


def _ask(random: Random, robot: int, policy: str, moment: float) -> s.Ask:
    chance = random.random()
    wanted: str | None = policy
    if chance < 0.05:
        wanted = None
    elif chance < 0.07:
        wanted = random.choice(("b", "nobody"))
    return s.Ask(
        moment,
        robot,
        deadline_s=random.choice((0.001, 0.05, 0.3, 1.0, 1.0, 1.5)),
        policy=wanted,
        session=random.choice(("", "", "x")),
        priority=random.choice((0, 1, 1, 1, 5)),
        size=random.choice((0, 20, 60)),
        effect=random.choices(EFFECTS, (90, 4, 1, 2, 2, 1))[0],
    )


def _call(random: Random, robot: int, policy: str) -> s.Call:
    kind = random.choice(("reset", "metadata", "ping", "status"))
    return s.Call(_moment(random), robot, kind, random.choice((None, policy)))


def _any_worker(random: Random, setting: Setting) -> int:
    return random.randrange(len(setting.workers))


def _any_peer(random: Random, setting: Setting) -> str:
    robots = [f"r{number}" for number in range(len(setting.robots))]
    workers = [f"w{number}" for number in range(len(setting.workers))]
    return random.choice(random.choice((robots, workers)))


def _back(random: Random) -> float | None:
    return random.choice((0.05, 0.3, 0.3, None))


def _seconds(random: Random) -> float:
    return round(random.choice((0.02, 0.2, 0.8, 1.6)) * random.uniform(0.5, 1.5), 3)


def _cut(random: Random, setting: Setting, at: float) -> Step:
    notices = (0.0, 0.001, 0.005, 0.05, 0.4)
    return s.Cut(
        at,
        _any_peer(random, setting),
        random.choice(notices),
        random.choice(notices),
        random.choice(("right", "right", "wrong", "none")),
    )


def _partition(random: Random, setting: Setting, at: float) -> Step:
    peers = {_any_peer(random, setting) for _ in range(random.randint(1, 3))}
    return s.Partition(at, tuple(sorted(peers)), _seconds(random))


TROUBLES: Mapping[str, Trouble] = {
    "crash": lambda r, w, at: s.Crash(at, _any_worker(r, w), _back(r)),
    "drain": lambda r, w, at: s.Drain(at, _any_worker(r, w), _back(r)),
    "stall": lambda r, w, at: s.Stall(at, _any_worker(r, w), _seconds(r)),
    "hang": lambda r, w, at: s.Hang(at, _any_worker(r, w), _seconds(r)),
    "slow": lambda r, w, at: s.Slow(at, _any_worker(r, w), r.choice((3.0, 10.0)), _seconds(r)),
    "forge": lambda r, w, at: s.Forge(at, _any_worker(r, w), r.choice(LIES), _seconds(r)),
    "refuse": lambda r, w, at: s.Refuse(at, _any_worker(r, w), _seconds(r)),
    "cut": _cut,
    "partition": _partition,
    "delay": lambda r, w, at: s.Delay(at, _any_peer(r, w), r.choice((0.02, 0.1, 0.3)), _seconds(r)),
    "mislead": lambda r, w, at: s.Mislead(at, r.randrange(len(w.robots))),
    "restart": lambda r, w, at: s.Restart(at, r.choice((0.01, 0.1, 0.5)), r.random() < 0.3),
    "pause": lambda r, w, at: s.Pause(at, _seconds(r), r.random() < 0.7),
    "jump": lambda r, w, at: s.Jump(at, r.choice((0.05, 0.5, 3.0, 100.0))),
}

MOODS: Mapping[str, tuple[str, ...]] = {
    "calm": (),
    "network": ("cut", "cut", "partition", "delay"),
    "reconnections": ("cut", "cut", "cut", "delay", "pause", "restart"),
    "workers": ("crash", "drain", "stall", "hang", "slow"),
    "rollout": ("drain", "drain", "drain", "drain", "restart"),
    "broker": ("restart", "pause", "jump", "cut"),
    "lies": ("forge", "forge", "forge", "mislead", "hang", "cut"),
    "everything": tuple(TROUBLES),
}
