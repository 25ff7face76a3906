"""Rollouts between real processes, under load: what robots see, and what the operator is told."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scripts.local.processes import Processes
from tests.e2e.stack import WAIT_S, eventually
from tests.scripts.rollout.site import ROOT, Site

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_a_good_version_takes_over_and_no_robot_notices(site: Site) -> None:
    old = site.old("good", version=None)
    robots = site.robots("good")
    words = site.words("good", f"tap={site.tap}", "shadow.requests=5", "shadow.share=1")
    command = [sys.executable, "-m", "scripts.rollout", *words, "bounds.largest_difference=0"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=WAIT_S, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    eventually(lambda: robots.seen().took[-1][2] == "2", "the new version answers")
    seen = robots.stop()
    assert not seen.errors
    assert (seen.wrong, seen.mixed) == (0, 0)
    assert set(seen.episodes) == {"1", "2"}
    assert old.wait(WAIT_S) == 0  # retired, and not killed
    told = site.told("good")
    assert told["outcome"] == "done"
    assert told["moved"] == 0
    assert [step["share"] for step in told["steps"]] == [0.5, 1.0]
    assert told["shadow"]["asked"] >= 5
    assert (told["shadow"]["largest"], told["shadow"]["failed"]) == (0.0, {})
    assert told["versions"]["good@2"]["failed"] == {}
    assert told["pids"] == [
        process.pid for process in site.left() if "name=good" in process.info["cmdline"]
    ]  # it lives on
    (pid,) = told["pids"]
    assert f"workers that go on without this command: pid {pid}\n" in done.stdout
    for words_ in ("step 2 of 2: 100% of the episodes", "good@2 has taken over from good"):
        assert words_ in done.stdout


def test_a_version_that_fails_is_returned(site: Site, capsys: Captured) -> None:
    site.old("failing")
    robots = site.robots("failing")
    assert site.roll_out("failing", "step_episodes=1000", fails="true") == 3
    at = len(robots.seen().took)
    eventually(lambda: len(robots.seen().took) > at + 20, "the old version answers")
    seen = robots.stop()
    assert set(seen.errors) == {"PolicyFailed"}
    assert seen.wrong == 0
    assert set(seen.episodes) == {"1"}
    assert "back to failing@1: failing@2 failed " in capsys.readouterr().out
    told = site.told("failing")
    assert told["versions"]["failing@2"]["failed"]["policy_failed"] >= 3
    assert "policy_failed" in told["reason"]
    assert not [each for each in site.left() if each.pid in told["pids"]]


def test_a_version_that_is_too_slow_is_returned_and_its_episodes_end_with_it(site: Site) -> None:
    site.old("slow")
    robots = site.robots("slow", 2, requests=2, period_s=0.0)
    bounds = ("bounds.latency_requests=5", "bounds.latency_factor=1.5", "bounds.latency_s=0.5")
    slack = "bounds.latency_slack_ms=100"  # a busy machine's own
    assert site.roll_out("slow", "step_episodes=1000", *bounds, slack, time_s=0.4) == 3
    seen = robots.stop()
    assert not seen.errors
    assert (seen.wrong, seen.mixed) == (0, 0)
    told = site.told("slow")
    assert "slow@2 is slower: 95 % of its requests took up to " in told["reason"]
    assert told["moved"] == 0


def test_a_version_with_other_actions_is_returned_before_a_robot_gets_one(
    site: Site, capsys: Captured
) -> None:
    site.old("other")
    robots = site.robots("other")
    shadow = (f"tap={site.tap}", "shadow.share=1", "bounds.largest_difference=0.1")
    assert site.roll_out("other", *shadow, offset=0.25) == 3
    seen = robots.stop()
    assert not seen.errors
    assert set(seen.episodes) == {"1"}
    told = site.told("other")
    assert told["shadow"]["largest"] == pytest.approx(0.25)
    assert told["versions"]["other@2"]["episodes"] == 0
    assert "differ from those of other@1 by 0.25 (largest" in capsys.readouterr().out


def test_a_version_that_does_not_load_changes_nothing(site: Site, capsys: Captured) -> None:
    old = site.old("broken")
    robots = site.robots("broken")
    policy = "{_target_: tests.e2e.policies.Broken}"
    assert site.roll_out("broken", policy=policy) == 1
    seen = robots.stop()
    assert not seen.errors
    assert set(seen.episodes) == {"1"}
    assert old.is_alive()
    output = capsys.readouterr().out
    assert "broken@2-1.log | " in output
    assert "the weights are of another model" in output


def test_an_operator_interrupts(site: Site) -> None:
    site.old("stopped")
    robots = site.robots("stopped")
    words = site.words("stopped", "step_episodes=1000")
    command = subprocess.Popen(
        [sys.executable, "-m", "scripts.rollout", *words],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        eventually(lambda: "2" in robots.seen().episodes, "the new version answers")
        command.send_signal(signal.SIGINT)
        output, _ = command.communicate(timeout=WAIT_S)
    finally:
        command.kill()
    assert command.returncode == 130
    assert "back to stopped@1: the operator interrupted the rollout" in output
    seen = robots.stop()
    assert not seen.errors
    assert (seen.wrong, seen.mixed) == (0, 0)


def test_a_broker_killed_in_the_middle_costs_no_request_and_mixes_no_episode(
    tmp_path: Path,
) -> None:
    with Processes(tmp_path / "logs") as processes:
        site = Site(processes, tmp_path)
        try:
            site.old("arm")
            robots = site.robots("arm")
            words = site.words("arm", "shares=[0.5,1]", "step_episodes=30")
            command = subprocess.Popen(
                [sys.executable, "-m", "scripts.rollout", *words],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            eventually(lambda: "2" in robots.seen().episodes, "the new version answers")
            site.broker.kill()
            site.start_broker()
            output, _ = command.communicate(timeout=WAIT_S)
            seen = robots.stop()
            assert command.returncode == 0, output
            assert "has restarted, and was told the plan again" in output
            assert "50.0% of them to arm@2" in site.broker.log.read_text()  # its second life's
            assert not seen.errors
            assert (seen.wrong, seen.mixed) == (0, 0)
            assert site.told("arm")["moved"] == 0
        finally:
            site.close()


def test_a_broker_that_stays_away_ends_it_and_leaves_no_new_worker_behind(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.rollout.command.SILENT_S", 3.0)
    monkeypatch.setattr("scripts.rollout.brokers.TIMEOUT_S", 0.5)
    with Processes(tmp_path / "logs") as processes:
        site = Site(processes, tmp_path)
        try:
            site.old("arm")
            log = tmp_path / "new" / "arm@2-1.log"

            def kill() -> None:
                eventually(lambda: log.exists(), "a worker is started")
                site.broker.kill()

            killer = threading.Thread(target=kill)
            killer.start()
            assert site.roll_out("arm") == 4
            killer.join()
            assert "no broker answers" in capsys.readouterr().out
            (pid,) = site.told("arm")["pids"]
            eventually(lambda: pid not in [each.pid for each in site.left()], "it ends")
        finally:
            site.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("policy=unserved",), "policy is unserved, which no worker serves"),
        (("stable=checked@7",), "stable is checked@7, which no worker at the broker"),
        (("version=1",), "version is 1, which robots have already"),
        (("worker=[checkpoit=/x]",), "did you mean 'checkpoint'?"),
    ],
)
def test_what_does_not_fit_what_is_served_is_told_before_anything_is_started(
    site: Site, capsys: Captured, words: tuple[str, ...], told: str
) -> None:
    if not any("name=checked" in str(each.info["cmdline"]) for each in site.left()):
        site.old("checked")
    workers = {"version=1": "workers=0"}.get(words[0], "workers=1")
    assert site.roll_out("checked", workers, *words) == 2
    assert told in capsys.readouterr().err


def test_no_broker_and_no_tap(
    site: Site, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.rollout.shadow.CONNECT_S", 0.2)
    if not any("name=checked" in str(each.info["cmdline"]) for each in site.left()):
        site.old("checked")
    assert site.roll_out("checked", "tap=ipc:///tmp/none/tap") == 2
    assert "no tap answers" in capsys.readouterr().err
