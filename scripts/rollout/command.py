"""The loop of a rollout: it gives the plan what is known, and does what the plan says."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from client.names import base_of, full_name
from client.wire import MAX_NAME
from conf.compose import ConfigError
from scripts.rollout.actions import Action, Code, End, Plan, Say, Stop, counted
from scripts.rollout.brokers import Broker, Brokers
from scripts.rollout.config import RolloutConfig
from scripts.rollout.facts import Facts, without_shadow
from scripts.rollout.launch import Launched
from scripts.rollout.plan import Phase, Rollout
from scripts.rollout.report import save, table
from scripts.rollout.shadow import Shadow

LOOK_S = 0.25
# How long all brokers may be silent; without one nothing can be changed.
SILENT_S = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Silent(Exception):
    """No broker answers; the message says why."""


class Interrupts:
    """Counts the signals that ask the command to end."""

    def __init__(self) -> None:
        self.count = 0
        self._came = threading.Event()

    def wait(self, seconds: float) -> None:
        """Wait for so many seconds, or until a signal comes."""
        self._came.wait(seconds)
        self._came.clear()

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Inside, signals are only counted."""

        def count(number: int, frame: FrameType | None) -> None:
            self.count += 1
            self._came.set()

        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            for number, handler in before.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, count)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Command:
    """One rollout, from the first check to the end."""

    def __init__(self, config: RolloutConfig, console: Console) -> None:
        """Nothing is asked or started yet."""
        self._config, self._console = config, console
        self._policy = config.policy or ""
        self.stable = ""
        version = config.version or time.strftime("%Y%m%d-%H%M%S")
        self._version, self.candidate = version, full_name(self._policy, version)
        self._brokers = Brokers(config.broker, self._policy, config.key)
        self._launched = Launched(Path(config.logs))
        self._interrupts = Interrupts()
        self._shadow: Shadow | None = None
        self._told: dict[str, str] = {}  # troubles of brokers
        self._restarts: dict[str, int] = {}
        self._end: End | None = None

    def run(self) -> int:
        """Returns the exit code.

        Raises:
            ConfigError: a setting is wrong, or does not fit what is served.
            PolicyError: a broker does not answer, or the key is no operator's.
            NoTap: no tap answers where one should.
            OSError: the folder of logs, or the report, cannot be written.
            ValueError: the key file is not valid.
        """
        with ExitStack() as stack:
            stack.callback(self._brokers.close)
            self._check()
            if self._config.tap is None:
                self._say(Say("no tap= is given, so the answers of both versions are not compared"))
            else:
                self._shadow = Shadow(self._config, self.stable, self.candidate)
                stack.callback(self._shadow.close)
            with self._interrupts.caught():
                return self._run()

    def _check(self) -> None:
        """Ask what is served.

        Raises:
            ConfigError: the old version is not served, or the new one is already.
            PolicyError: a broker does not answer, or the key is no operator's.
        """
        if len(self.candidate) > MAX_NAME:
            raise ConfigError(f"{self.candidate} has more than {MAX_NAME} characters")
        self._config.check_worker(self._version)
        for broker in self._brokers.all:
            served = [name for name, states in broker.ping()["policies"].items() if states]
            self.stable = self.stable or self._find_stable(broker, served)
            if self.stable not in served:
                raise ConfigError(
                    f"stable is {self.stable}, which no worker at the broker {broker.address} "
                    f"serves; there are: {_listed(served)}"
                )
            if self.stable == self.candidate:
                raise ConfigError(
                    f"version is {self._version}, which robots have already: give another one"
                )
            self._tell_of_another(broker)
            if self._config.workers and self.candidate in served:
                raise ConfigError(
                    f"{self.candidate} is served already: another version= is expected, or "
                    "workers=0 where its workers are started by somebody else"
                )

    def _tell_of_another(self, broker: Broker) -> None:
        plan = broker.read()
        if plan.get("candidate") and plan.get("share"):
            text = (
                f"an earlier plan, which is replaced now, gave {plan['candidate']} "
                f"{plan['share']:.0%} of the episodes that begin; end its workers yourself"
            )
            self._say(Say(text, is_bad=True))

    def _find_stable(self, broker: Broker, served: list[str]) -> str:
        found = [name for name in served if base_of(name) == self._policy]
        if not found:
            raise ConfigError(
                f"policy is {self._policy}, which no worker serves at the broker {broker.address}; "
                f"there are: {_listed(served)}"
            )
        stated = self._config.stable or broker.read().get("stable")
        if stated:
            return str(stated)
        others = [name for name in found if name != self.candidate] or found
        if len(others) > 1:
            raise ConfigError(
                f"{_listed(others)} are served: say with stable=NAME which of them robots have now"
            )
        return others[0]

    def _run(self) -> int:
        rollout, facts = Rollout(self.stable, self.candidate, self._config), Facts(0.0)
        try:
            facts = self._begin(rollout)
            while self._end is None:
                self._interrupts.wait(LOOK_S)
                facts = self._look()
                for action in rollout.next(facts):
                    self._do(action)
                self._steer_shadow(rollout.phase)
        except Silent as error:
            self._say(Say(str(error), is_bad=True))
            self._end = End(Code.SILENT, str(error))
        finally:
            if self._end is None or self._end.code is Code.SILENT:
                self._abandon(rollout.phase)
        if self._end.code is Code.NOT_READY:
            for line in self._launched.last_words():
                self._console.print(line, soft_wrap=True)
        if killed := self._launched.wait():
            self._say(Say(f"killed, since they did not end in time: {counted(killed, 'worker')}"))
        return self._close(rollout, facts, self._end)

    def _begin(self, rollout: Rollout) -> Facts:
        """Set the old version as the stable one, and then start workers of the new one.

        Raises:
            Silent: no broker answers.
            OSError: the folder of logs cannot be written.
        """
        facts = self._look()
        for action in rollout.first(facts.now):
            self._do(action)
        facts = self._look()  # this sends the plan
        words = self._config.worker_words(self._version)
        name = self.candidate.replace("/", "-")
        for line in self._launched.start(name, words, self._config.workers):
            self._say(Say(line))
        return facts

    def _abandon(self, phase: Phase) -> None:
        """Take the new version away, since no robot may stay with one that is not fully tried."""
        if phase in (Phase.LOADING, Phase.SHADOWED, Phase.STEP, Phase.RETURNING):
            self._brokers.set(Plan(self.stable, self.candidate, move=True))
            self._brokers.look(self.stable, self.candidate)
            self._launched.stop()

    def _look(self) -> Facts:
        """What is known now; waits until a broker answers.

        Raises:
            Silent: no broker has answered for a long time.
        """
        compared = None if self._shadow is None else self._shadow.compared()
        give_up = time.monotonic() + SILENT_S
        while (seen := self._brokers.look(self.stable, self.candidate)) is None:
            self._tell_troubles()
            if time.monotonic() > give_up or self._interrupts.count > 1:
                raise Silent(
                    "no broker answers, so nothing can be changed: "
                    f"{'; '.join(self._brokers.troubles().values())}"
                )
            time.sleep(LOOK_S)
        self._tell_troubles()
        return Facts(
            now=time.monotonic(),
            stable=seen.stable,
            candidate=without_shadow(seen.candidate, compared),
            shadow=compared,
            ended=self._launched.ended(),
            interrupts=self._interrupts.count,
            moved=seen.moved,
            is_settled=seen.is_settled,
        )

    def _steer_shadow(self, phase: Phase) -> None:
        """Compare as long as there is something to decide."""
        shadow = self._shadow
        if shadow is None:
            return
        if phase is Phase.SHADOWED and shadow.ident is None:
            shadow.start()
        elif phase not in (Phase.LOADING, Phase.SHADOWED, Phase.STEP):
            shadow.close()
        if shadow.trouble:
            self._say(Say(f"nothing more is compared: {shadow.trouble}", is_bad=True))
            shadow.trouble = ""

    def _do(self, action: Action) -> None:
        if isinstance(action, Plan):
            self._brokers.set(action)
        elif isinstance(action, Say):
            self._say(action)
        elif isinstance(action, Stop):
            self._launched.stop()
        else:
            self._end = action

    def _close(self, rollout: Rollout, facts: Facts, end: End) -> int:
        names = self.stable, self.candidate
        self._console.print(table(names, facts))
        if end.code is Code.DONE and self._launched.pids:
            pids = ", ".join(map(str, self._launched.pids))
            self._say(Say(f"workers that go on without this command: pid {pids}"))
        self._say(Say(end.reason, is_bad=end.code is not Code.DONE))
        if self._config.report is not None:
            path = Path(self._config.report)
            save(path, names, rollout.steps, facts, end, self._launched.pids)
        return int(end.code)

    def _say(self, said: Say) -> None:
        style = "red" if said.is_bad else None
        text = f"{time.strftime('%H:%M:%S')} {said.text}"
        self._console.print(text, style=style, soft_wrap=True)

    def _tell_troubles(self) -> None:
        troubles = self._brokers.troubles()
        for address, trouble in troubles.items():
            if address not in self._told:
                self._say(Say(f"the broker {address}: {trouble}", is_bad=True))
        for address in self._told.keys() - troubles.keys():
            self._say(Say(f"the broker {address} answers again"))
        self._told = troubles
        for address, count in self._brokers.restarts().items():
            if count > self._restarts.get(address, 0):
                self._say(Say(f"the broker {address} has restarted, and was told the plan again"))
            self._restarts[address] = count


def _listed(names: list[str]) -> str:
    return ", ".join(sorted(names)) or "none"
