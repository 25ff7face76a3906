"""The file of teams: a good one, and every kind of mistake in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.teams import Team, read_teams

KNOWN = ("arm-1", "arm-2", "grid")


def written(folder: Path, text: str) -> Path:
    path = folder / "teams.yaml"
    path.write_text(text)
    return path


def test_a_file_as_it_should_be(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "lab: {members: [arm-1, arm-2], weight: 2}\n"
        "night: {members: [grid], traffic: evaluation, max_requests: 64, max_rate: 50,"
        " max_share: 0.5, max_rate_per_member: null}\n",
    )
    assert read_teams(path, KNOWN) == {
        "lab": Team(["arm-1", "arm-2"], 2),
        "night": Team(["grid"], 1.0, "evaluation", 64, 50, None, 0.5),
    }
    assert read_teams(written(tmp_path, "x: {members: [any robot]}")) == {"x": Team(["any robot"])}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lab: {members: [arm-1], wieght: 2}", "'wieght' (did you mean 'weight'?)"),
        ("lab: {members: [arm-3]}", "'arm-3', and no key has that name (did you mean 'arm-"),
        ("lab: {members: [arm-1]}\nb: {members: [arm-1]}", "'arm-1' is in 'lab' and in 'b'"),
        ("lab: {members: [arm-1], traffic: evalution}", "(did you mean 'evaluation'?)"),
        ("lab: {members: [arm-1], weight: 0}", "weight is 0: a number above 0"),
        ("lab: {members: [arm-1], weight: heavy}", "weight is 'heavy'"),
        ("lab: {members: [arm-1], weight: true}", "weight is True"),
        ("lab: {members: [arm-1], max_share: 1.5}", "max_share is 1.5: a number above 0"),
        ("lab: {members: [arm-1], max_requests: 1.5}", "an integer from 1 on"),
        ("lab: {members: [arm-1], max_requests: 0}", "an integer from 1 on"),
        ("lab: {members: [arm-1], max_rate: -1}", "max_rate is -1"),
        ("lab: {members: [arm-1], max_rate: .nan}", "max_rate is nan"),
        ("lab: {members: arm-1}", "members is 'arm-1': a list of names"),
        ("lab: {members: []}", "members is []"),
        ("lab: {members: [1]}", "members is [1]"),
        ("lab: {weight: 1}", "members is None"),
        ("lab: 3", "team 'lab' is 3"),
        ("", "1 to 256 teams"),
        ("[lab]", "1 to 256 teams"),
        ("lab: {members: [", "cannot be read"),
        ("lab: ${oc.env:HOME}", "team 'lab' is"),
        (f"{'x' * 129}: {{members: [arm-1]}}", "1 to 128 characters"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match="teams") as caught:
        read_teams(written(tmp_path, text), KNOWN)
    assert words in str(caught.value)
    assert "teams.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_teams(tmp_path / "none.yaml")
