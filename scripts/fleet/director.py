"""The director: a Ray actor around the roster, the crew and the brokers' figures.

It runs once a fleet, under a name of its own, and is started again by Ray where its machine dies.
It then takes over the seats that it finds, so that its death costs no worker.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from scripts.fleet.cluster import why_pending
from scripts.fleet.config import FleetConfig
from scripts.fleet.crew import BROKERS, GATEWAY, Crew, Lost, Seen
from scripts.fleet.demand import Watch, demand_of
from scripts.fleet.roster import Close, Drain, Open, Roster, State
from scripts.fleet.scaling import Bounds, Memory, decide

logger = logging.getLogger("fleet")

NAME = "director"
_STEP_S = 0.2
_KEPT = 2000  # log lines of each group
_SOON_S = 3.0  # a place is found within this time if there is one


class Director:
    """Runs a fleet until it is told to stop. Its methods may be called from any thread."""

    def __init__(self, config: FleetConfig, namespace: str) -> None:
        """Take over what runs already under this namespace, and start the rest."""
        import ray

        self._ray, self._config, self._namespace = ray, config, namespace
        self._roster = Roster(config.restarts)
        self._crew = Crew(ray, config, namespace)
        self._watch = Watch(config.brokers, config.key)
        self._memories = dict.fromkeys(config.policies, Memory())
        self._held: dict[str, int] = {}  # sizes that an operator has set
        self._changes: dict[str, str] = {}  # the last of each policy's size, and why
        self._lines: dict[str, deque[tuple[int, str, str]]] = {}
        self._count = 0  # log lines so far
        self._is_stopping = False
        self._trouble = ""
        self._lock = threading.Lock()
        self._adopt()
        self._watch.start()
        threading.Thread(target=self._run, name="director", daemon=True).start()

    def state(self) -> dict[str, Any]:
        """All members, policies and brokers, for `report.render`."""
        with self._lock:
            now = time.monotonic()
            members = [
                {
                    "group": member.group,
                    "name": member.name,
                    "state": member.state.value,
                    "node": member.node,
                    "restarts": member.restarts,
                    "reason": member.reason,
                    "due_s": max(0.0, member.due_at - now),
                }
                for member in sorted(
                    self._roster.members.values(), key=lambda each: (each.group, each.number)
                )
            ]
            reports = self._watch.reports()
            policies = {
                name: self._policy(name, demand_of(reports, self._config.served(name)))
                for name in self._config.policies
            }
        return {
            "name": self._config.name,
            "stopping": self._is_stopping,
            "members": members,
            "policies": policies,
            "brokers": {
                name: self._watch.troubles().get(name, "answers") for name in self._config.brokers
            },
            "trouble": self._trouble,
        }

    def lines(self, group: str, after: int) -> tuple[list[tuple[str, str]], int]:
        """Log lines of a group, each with its member's name, that are newer than number `after`.

        Returns:
            The lines, and the number to go on from.
        """
        with self._lock:
            kept = self._lines.get(group, ())
            return [(name, text) for number, name, text in kept if number > after], self._count

    def scale(self, policy: str, workers: int | None) -> None:
        """Hold a policy at so many workers (None: between its bounds), and try all again."""
        with self._lock:
            if workers is None:
                self._held.pop(policy, None)
            else:
                self._held[policy] = workers
            self._memories[policy] = Memory()
            self._roster.try_again(policy, time.monotonic())

    def stop(self) -> None:
        """Drain everything: workers first, then the gateway and the brokers."""
        self._is_stopping = True

    def _policy(self, name: str, demand: Any) -> dict[str, Any]:
        settings = self._config.policies[name]
        return {
            "min": settings.min,
            "max": settings.max,
            "held": self._held.get(name),
            "workers": len(self._roster.of(name)),
            "change": self._changes.get(name, ""),
            "waiting": None if demand is None else demand.waiting,
            "wait_ms": None if demand is None else demand.wait_s * 1e3,
            "seen": None if demand is None else demand.ready,
        }

    def _adopt(self) -> None:
        for each in self._ray.util.list_named_actors(all_namespaces=True):
            name, _, life = each["name"].rpartition(".")
            if each["namespace"] != self._namespace or not life.isdecimal():
                continue
            group, _, number = name.rpartition("-")
            try:
                self._crew.adopt(name, int(life))
            except ValueError:  # it has ended since
                continue
            if group in self._crew.groups():
                self._roster.adopt(group, int(number), int(life), time.monotonic())
            else:
                self._crew.close(name, int(life))

    def _run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                with self._lock:
                    self._step(started)
                self._trouble = ""
            except Exception as error:
                # Ray's own trouble, such as a head that restarts: the fleet goes on without us.
                logger.exception("a step failed, and is tried again")
                self._trouble = f"{type(error).__name__}: {error}"
            time.sleep(max(0.01, _STEP_S - (time.monotonic() - started)))

    def _step(self, now: float) -> None:
        for event in self._crew.look():
            self._take(event, now)
        self._resize(now)
        self._roster.tick(now)
        commands, self._roster.commands = self._roster.commands, []
        for command in commands:
            if isinstance(command, Open):
                self._crew.open(command.name, command.life)
            elif isinstance(command, Drain):
                self._crew.drain(command.name, command.life)
            elif isinstance(command, Close):
                self._crew.close(command.name, command.life)
        self._explain_pending(now)

    def _take(self, event: Seen | Lost, now: float) -> None:
        name, life = event.name, event.life
        if isinstance(event, Lost):
            logger.warning("%s is lost: %s", name, event.reason)
            self._roster.lost(name, life, event.reason, now)
            return
        look = event.look
        group = name.rpartition("-")[0]
        kept = self._lines.setdefault(group, deque(maxlen=_KEPT))
        for text in look.lines:
            self._count += 1
            kept.append((self._count, name, text))
        self._roster.placed(name, life, event.node)
        if look.is_ready:
            self._roster.ready(name, life, now)
        if look.exit_code is not None:
            logger.warning("%s ended with %d: %s", name, look.exit_code, look.last_words)
            self._roster.exited(name, life, look.exit_code, look.last_words, now)

    def _resize(self, now: float) -> None:
        if self._is_stopping:
            self._dissolve(now)
            return
        reports = self._watch.reports()
        for group in self._crew.groups():
            if group not in self._config.policies:
                self._roster.resize(group, 1, now)
                continue
            settings, held = self._config.policies[group], self._held.get(group)
            bounds = Bounds(settings.min, settings.max) if held is None else Bounds(held, held)
            workers = len(self._roster.of(group))
            decision = decide(
                workers,
                demand_of(reports, self._config.served(group)),
                bounds,
                self._memories[group],
                now,
                self._config.scaling,
            )
            self._memories[group] = decision.memory
            if decision.workers != workers:
                text = f"{workers} to {decision.workers}: {decision.reason}"
                logger.info("%s: from %s", group, text)
                self._changes[group] = text
                self._roster.resize(group, decision.workers, now)

    def _dissolve(self, now: float) -> None:
        """Shrink to nothing: what robots talk to goes when nobody answers there any more."""
        members = self._roster.members.values()
        for beginning in ("", GATEWAY, BROKERS):
            groups = {
                group
                for group in (member.group for member in members)
                if (
                    group in self._config.policies if not beginning else group.startswith(beginning)
                )
            }
            for group in groups:
                self._roster.resize(group, 0, now)
            if groups:
                return

    def _explain_pending(self, now: float) -> None:
        pending = [
            member for member in self._roster.members.values() if member.state is State.pending
        ]
        for member in pending:
            if member.due_at + _SOON_S < now:
                member.reason = why_pending(
                    self._crew.wanted(member.group),
                    self._ray.nodes(),
                    self._ray.available_resources(),
                )
