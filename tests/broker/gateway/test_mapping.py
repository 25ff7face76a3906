"""Whose keys become whose: data, checked when it is read and when it is applied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from broker.gateway.mapping import FOLDER, Mapping, flatten, read_mapping
from client.errors import BadObservation, PolicyFailed

TWO_ARMS = """
observation:
  state: [state.left, state.right]
  images.cam_high: [video.top]
  images.cam_low: [video.low]
  prompt: [language]
optional: [images.cam_low]
actions:
  left: [0, 7]
  right: [7, 14]
"""


@pytest.fixture
def mapping(tmp_path: Path) -> Mapping:
    (tmp_path / "two_arms.yaml").write_text(TWO_ARMS)
    return read_mapping(str(tmp_path / "two_arms.yaml"))


def test_keys_are_renamed_nested_and_put_together(mapping: Mapping) -> None:
    top = np.zeros((2, 2, 3), np.uint8)
    left, right = np.arange(3), np.arange(3, 7)
    theirs = {"state": {"left": left, "right": right}, "video": {b"top": top}, "language": "go"}
    ours = mapping.to_ours(flatten({**theirs, "unknown": 1}))
    assert ours.keys() == {"state", "images", "prompt"}
    assert ours["state"].tolist() == list(range(7))
    assert ours["images"]["cam_high"] is top
    assert ours["prompt"] == "go"


def test_what_is_missing_is_named_unless_it_may_be(mapping: Mapping) -> None:
    with pytest.raises(BadObservation, match=r"no state\.right, of which state is made"):
        mapping.to_ours({"state.left": np.zeros(1), "video.top": 1, "language": ""})


def test_parts_that_do_not_fit_are_named(mapping: Mapping) -> None:
    parts = {"state.left": np.zeros((2, 3)), "state.right": np.zeros(3)}
    with pytest.raises(BadObservation, match=r"state\.left, state\.right cannot be put together"):
        mapping.to_ours({**parts, "video.top": 1, "language": ""})


def test_actions_are_taken_apart(mapping: Mapping) -> None:
    parts = mapping.to_theirs(np.arange(28).reshape(2, 14))
    assert parts["left"].shape == (2, 7)
    assert parts["right"][0].tolist() == list(range(7, 14))
    with pytest.raises(PolicyFailed, match="8 columns, and the mapping wants more for right"):
        mapping.to_theirs(np.zeros((2, 8)))


def test_none_takes_an_observation_as_it_is() -> None:
    assert read_mapping(None).to_ours({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("observations: {}", "observations"),
        ("observation: 1", "Cannot assign int"),
        ("observation: {state: []}", r"OURS: \[theirs\]"),
        ("actions: {left: [3, 3]}", r"\[first, end\]"),
        ("actions: {left: [3]}", r"\[first, end\]"),
        ("observation: [", "is no mapping"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ValueError, match=reason):
        read_mapping(str(tmp_path / "bad.yaml"))


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no mapping 'nothing'"):
        read_mapping("nothing")


def test_those_that_we_ship_can_be_read() -> None:
    for path in sorted(FOLDER.glob("*.yaml")):
        assert read_mapping(path.stem).observation, path
