"""Teams and evaluations with real processes: the file is checked, read again, and kept to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from broker.security import Role
from client import errors
from scripts.local.processes import ProcessError, Processes
from tests.e2e.site import Site, until

OBSERVATION = {"state": np.zeros(3, np.float32)}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Processes(tmp_path / "logs") as processes:
        site = Site(processes, tmp_path / "keys")
        for name, role in (("arm", Role.robot), ("job", Role.robot), ("gpu", Role.worker)):
            site.make(name, role)
        site.make("me", Role.operator)
        yield site


def test_a_quota_is_kept_to_and_can_be_raised_while_the_broker_runs(
    site: Site, tmp_path: Path
) -> None:
    file = tmp_path / "teams.yaml"
    file.write_text("jobs: {members: [job], traffic: evaluation, max_rate: 0.001}")
    broker = site.start_broker(f"fairness.teams={file}")
    site.start_worker("worker", "policy=noop", "name=noop", key=site.key("gpu"))
    with site.client(site.key("arm")) as arm, site.client(site.key("job")) as job:
        for _ in range(3):
            arm.infer(OBSERVATION)
        job.infer(OBSERVATION)
        with pytest.raises(errors.Overloaded, match="'jobs' has used up its max_rate") as caught:
            job.infer(OBSERVATION)
        assert (caught.value.retry_after_s or 0) > 1.0

        file.write_text("jobs: {members: [jobb]}")
        os.kill(broker.pid, signal.SIGHUP)
        until(lambda: "the old teams stay" in broker.last_words(50))
        assert "did you mean 'job'?" in broker.last_words(50)
        with pytest.raises(errors.Overloaded):
            job.infer(OBSERVATION)

        file.write_text("jobs: {members: [job], traffic: evaluation, weight: 3}")
        os.kill(broker.pid, signal.SIGHUP)
        until(lambda: "read the teams again: jobs" in broker.last_words(50))
        job.infer(OBSERVATION)
    with site.client(site.key("me")) as operator:
        (told,) = (each for each in operator.status()["teams"] if each["name"] == "jobs")
    assert told["weight"] == 3.0
    assert told["refused"] == {"max_rate": 2}
    assert told["inference_s"]["evaluation"] > 0.0


def test_a_member_that_no_key_has_ends_the_start(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "teams.yaml"
    file.write_text("lab: {members: [arn]}")
    with pytest.raises(ProcessError, match=r"no key has that name \(did you mean 'arm'\?\)"):
        site.start_broker(f"fairness.teams={file}")


def test_a_client_says_what_it_is_for(site: Site) -> None:
    site.start_broker()
    site.start_worker("worker", "policy=noop", "name=noop", key=site.key("gpu"))
    with site.client(site.key("job"), traffic="evaluation") as job:
        job.infer(OBSERVATION)
    with site.client(site.key("me")) as operator:
        (told,) = operator.status()["teams"]
    assert told["name"] == ""
    assert told["inference_s"]["evaluation"] > 0.0
    wrong = site.client(site.key("job"), traffic="evalution")
    with pytest.raises(ValueError, match="did you mean 'evaluation'"), wrong:
        pass
