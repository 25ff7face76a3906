"""The files of an evaluation: a line for each episode, and the table made of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from scripts.tiny.success import as_json, markdown, rows
from scripts.tiny.trial import CONDITIONS, Outcome
from worker.checkpoints.layout import WEIGHTS_FILE
from worker.checkpoints.shipped import FOLDER


def weights_of(checkpoint: str | None, broker: tuple[str, int] | None) -> str:
    """By what an evaluation's weights are known again.

    The SHA-256 of a folder's weights (None: of those that ship); a checkpoint elsewhere is known by
    its name, and workers that somebody else has started by their broker's address.
    """
    if broker is not None:
        return "{}:{}".format(*broker)
    path = (FOLDER if checkpoint is None else Path(checkpoint)) / WEIGHTS_FILE
    if not path.is_file():
        return str(checkpoint)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Records:
    """Outcomes of some weights on seeds from `first_seed` on, those of earlier runs included."""

    def __init__(self, folder: Path, weights: str, first_seed: int) -> None:
        """Read what `folder` holds already.

        Raises:
            ValueError: a line there is none of ours; the message says which.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._weights, self._first_seed = folder, weights, first_seed
        self._path = folder / "episodes.jsonl"
        self._outcomes: dict[tuple[str, str, int], Outcome] = {}
        for number, line in enumerate(_whole_lines(self._path), 1):
            self._read(number, line)

    def has(self, task: str, condition: str, seed: int) -> bool:
        """Whether this episode was run."""
        return (task, condition, seed) in self._outcomes

    def add(self, outcome: Outcome) -> None:
        """Keep `outcome`, also on disk."""
        self._keep(outcome)
        with self._path.open("a") as file:
            file.write(json.dumps({"weights": self._weights, **asdict(outcome)}) + "\n")

    def write_table(self) -> str:
        """Write `table.json` and `table.md`; returns the latter."""
        table = rows(list(self._outcomes.values()))
        described = {
            "weights": self._weights,
            "first_seed": self._first_seed,
            "rows": as_json(table),
        }
        (self._folder / "table.json").write_text(json.dumps(described, indent=1) + "\n")
        told = markdown(table)
        (self._folder / "table.md").write_text(told)
        return told

    def _read(self, number: int, line: str) -> None:
        try:
            fields = json.loads(line)
            weights = fields.pop("weights")
            outcome = Outcome(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{self._path}, line {number}, is no episode ({error}): remove it, or choose"
                " another --output"
            ) from error
        if weights == self._weights and outcome.seed >= self._first_seed:
            self._keep(outcome)

    def _keep(self, outcome: Outcome) -> None:
        if outcome.condition in CONDITIONS:  # else one of a table of another version
            self._outcomes[outcome.task, outcome.condition, outcome.seed] = outcome


def _whole_lines(path: Path) -> list[str]:
    """The lines of `path`, from which one is cut off that was never written to its end."""
    told = path.read_text() if path.exists() else ""
    whole = told[: told.rfind("\n") + 1]
    if whole != told:
        path.write_text(whole)
    return whole.splitlines()
