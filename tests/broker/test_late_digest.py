"""Workers that know only after a download which files they serve."""

from __future__ import annotations

import pytest

from tests.broker.scenario import Scenario


@pytest.fixture
def story() -> Scenario:
    return Scenario()


def refusals(story: Scenario, worker: str) -> list[str]:
    return [header["code"] for header in story.told[worker] if header["kind"] == "error"]


def test_an_unknown_digest_is_welcome_beside_any(story: Scenario) -> None:
    story.join("w1")
    story.hello("w2", digest=None)
    story.hello("w3", digest=None)
    assert refusals(story, "w2") == refusals(story, "w3") == []


def test_an_unknown_digest_is_no_excuse_for_another_horizon(story: Scenario) -> None:
    story.join("w1")
    story.hello("w2", digest=None, horizon=10)
    assert refusals(story, "w2") == ["worker_refused"]


def test_a_digest_that_turns_out_alike_serves(story: Scenario) -> None:
    story.join("w1")
    story.hello("w2", digest=None)
    story.hello("w2")
    story.ready("w2")
    story.ask("a")
    story.ask("b")
    assert len(story.work("w2")) == 1


def test_a_digest_that_turns_out_different_never_serves(story: Scenario) -> None:
    story.join("w1")
    story.hello("w2", digest=None)
    story.hello("w2", digest="other")
    story.ready("w2")
    story.ask("a")
    story.ask("b")
    assert refusals(story, "w2") == ["worker_refused"]
    assert story.work("w2") == []


def test_a_digest_once_known_binds_the_others(story: Scenario) -> None:
    story.hello("w1", digest=None)
    story.hello("w2", digest=None)
    story.hello("w1", digest="one")
    story.hello("w2", digest="two")
    assert refusals(story, "w1") == []
    assert refusals(story, "w2") == ["worker_refused"]


def test_a_known_digest_is_not_changed_by_another_hello(story: Scenario) -> None:
    story.join("w1")
    story.hello("w1", digest="other")
    story.hello("w2")
    assert refusals(story, "w2") == []
    story.hello("w3", digest="other")
    assert refusals(story, "w3") == ["worker_refused"]
