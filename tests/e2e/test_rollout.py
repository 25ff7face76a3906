"""Two versions of one policy under load: no episode is mixed, and the old one leaves unnoticed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import ZmqPolicyClient
from client.rollout import get_rollout, set_rollout
from scripts.local.processes import Processes
from tests.e2e.stack import WAIT_S, Stack, eventually

_ROBOTS = 6
_STEPS = 5  # of an episode
_OLD, _NEW = "arm@1", "arm@2"
_HORIZONS = {50: _OLD, 40: _NEW}  # by which an answer shows who gave it


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A broker with nothing started yet."""
    with Processes(tmp_path / "logs") as processes:
        stack = Stack(processes, tmp_path)
        yield stack
        stack.close()


def wait_ready(client: ZmqPolicyClient, version: str) -> None:
    """Return once a worker of this full name is ready."""
    eventually(lambda: client.ping()["policies"].get(version, {}).get("ready"), version)


class Episodes:
    """Robots that play one episode after another; which versions answered each is kept."""

    def __init__(self, stack: Stack) -> None:
        self.played: list[list[str]] = []
        self.errors: list[BaseException] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._play, args=(stack.client(policy="arm"),))
            for _ in range(_ROBOTS)
        ]
        for thread in self._threads:
            thread.start()

    def _play(self, client: ZmqPolicyClient) -> None:
        try:
            while not self._is_over.is_set():
                steps = [len(client.infer({"state": [0.0]})["actions"]) for _ in range(_STEPS)]
                self.played.append([_HORIZONS[horizon] for horizon in steps])
                client.reset()
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            self.errors.append(error)

    def go_on(self, count: int = 20) -> list[list[str]]:
        """Wait until so many more episodes have ended; returns those that ended meanwhile."""
        before = len(self.played)
        eventually(lambda: self.errors or len(self.played) >= before + count, "episodes end")
        if self.errors:
            raise self.errors[0]
        return self.played[before:]

    def end(self) -> None:
        """Stop playing; raises what a robot was told."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(WAIT_S)
        if self.errors:
            raise self.errors[0]


def test_a_version_is_rolled_out_under_load(stack: Stack) -> None:
    stack.broker("limits.max_requests_per_robot=4")
    old = stack.worker("arm", "version=1", "policy.action_horizon=50", policy="noop")
    boss = stack.client()
    wait_ready(boss, _OLD)
    episodes = Episodes(stack)
    assert {version for played in episodes.go_on() for version in played} == {_OLD}

    stack.worker("arm", "version=2", "policy.action_horizon=40", policy="noop")
    wait_ready(boss, _NEW)
    assert {version for played in episodes.go_on() for version in played} == {_OLD}

    set_rollout(boss, "arm", stable=_OLD, candidate=_NEW, share=0.5)
    shared = episodes.go_on(60)
    assert {len(set(played)) for played in shared} == {1}
    assert {played[0] for played in shared} == {_OLD, _NEW}

    # What runs on the old one moves while it leaves, or has ended there: nobody gets an error.
    set_rollout(boss, "arm", stable=_NEW, retire=[_OLD])
    assert old.wait(WAIT_S) == 0
    episodes.go_on(2 * _ROBOTS)
    assert {version for played in episodes.go_on() for version in played} == {_NEW}
    episodes.end()
    told = get_rollout(boss, "arm")
    assert told["requests"][_OLD]["failed"] == told["requests"][_NEW]["failed"] == {}
    assert set(boss.ping()["policies"][_OLD]) == set()


def test_a_restart_of_the_broker_mixes_no_episode(stack: Stack) -> None:
    broker = stack.broker("limits.max_requests_per_robot=4")
    stack.worker("arm", "version=1", "policy.action_horizon=50", policy="noop")
    stack.worker("arm", "version=2", "policy.action_horizon=40", policy="noop")
    boss = stack.client()
    wait_ready(boss, _OLD)
    wait_ready(boss, _NEW)
    set_rollout(boss, "arm", stable=_OLD, candidate=_NEW, share=0.5)
    episodes = Episodes(stack)
    shared = episodes.go_on()
    for _ in range(2):
        epoch = boss.ping()["epoch"]
        broker.kill()
        broker = stack.broker("limits.max_requests_per_robot=4")
        shared += episodes.go_on()
        assert boss.ping()["epoch"] != epoch
        assert get_rollout(boss, "arm")["stable"] is None  # a plan is to be sent again
        wait_ready(boss, _OLD)  # a version that it has not heard of yet cannot be planned with
        wait_ready(boss, _NEW)
        set_rollout(boss, "arm", stable=_OLD, candidate=_NEW, share=0.5)
        shared += episodes.go_on()
    episodes.end()
    assert {len(set(played)) for played in shared} == {1}
    assert {played[0] for played in shared} == {_OLD, _NEW}
