"""An evaluation's files: it goes on from them, and they never mix what differs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from scripts.tiny.records import Records, weights_of
from scripts.tiny.trial import Outcome
from worker.checkpoints.shipped import FOLDER


def outcome(seed: int, condition: str = "25 actions") -> Outcome:
    return Outcome("transfer", condition, seed, 4, 200, True, [1.5])


def test_what_was_run_is_still_there(tmp_path: Path) -> None:
    Records(tmp_path, "some", 1000).add(outcome(1000))
    again = Records(tmp_path, "some", 1000)
    assert again.has("transfer", "25 actions", 1000)
    assert not again.has("transfer", "25 actions", 1001)
    assert "| transfer | 25 actions | 1 of 1" in again.write_table()
    table = json.loads((tmp_path / "table.json").read_text())
    assert (table["weights"], table["first_seed"], len(table["rows"])) == ("some", 1000, 1)
    assert (tmp_path / "table.md").read_text() == again.write_table()


@pytest.mark.parametrize(("weights", "first_seed"), [("others", 1000), ("some", 1001)])
def test_other_weights_and_seeds_do_not_count(
    tmp_path: Path, weights: str, first_seed: int
) -> None:
    Records(tmp_path, "some", 1000).add(outcome(1000))
    assert not Records(tmp_path, weights, first_seed).has("transfer", "25 actions", 1000)


def test_a_line_that_was_never_finished_is_dropped(tmp_path: Path) -> None:
    records = Records(tmp_path, "some", 1000)
    records.add(outcome(1000))
    path = tmp_path / "episodes.jsonl"
    path.write_text(path.read_text() + '{"weights": "so')
    Records(tmp_path, "some", 1000).add(outcome(1001))
    again = Records(tmp_path, "some", 1000)
    assert again.has("transfer", "25 actions", 1000)
    assert again.has("transfer", "25 actions", 1001)


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"weights": "some", "seed": 1}'])
def test_a_foreign_line_is_named(tmp_path: Path, line: str) -> None:
    Records(tmp_path, "some", 1000).add(outcome(1000))
    path = tmp_path / "episodes.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"episodes.jsonl, line 2, is no episode .*--output"):
        Records(tmp_path, "some", 1000)


def test_a_condition_of_another_version_is_left_out(tmp_path: Path) -> None:
    Records(tmp_path, "some", 1000).add(outcome(1000, "upside down"))
    assert "upside down" not in Records(tmp_path, "some", 1000).write_table()


def test_weights_are_known_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert weights_of(str(tmp_path), None) == hashlib.sha256(b"weights").hexdigest()
    assert weights_of("s3://bucket/tiny", None) == "s3://bucket/tiny"
    assert weights_of(None, ("robots.example", 8000)) == "robots.example:8000"
    digests = json.loads((FOLDER / "trained.json").read_text())["sha256"]
    assert weights_of(None, None) == digests["model.safetensors"]
