"""The trained weights that ship with the package, for `model=tiny` on the one robot they know.

`trained.json` beside them says for which statistics (`asset_id`) and model they were trained, and
holds the SHA-256 of each file, so that a damaged copy is never served.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worker.config import ModelConfig
from worker.errors import CheckpointError

FOLDER = Path(__file__).parents[1] / "assets" / "tiny_aloha_sim"
"""A checkpoint in the public layout, without a tokenizer: that of `model=tiny` fits."""
DESCRIPTION = "trained.json"


def mismatch(model: ModelConfig, asset_id: str, folder: Path = FOLDER) -> str | None:
    """What keeps the trained weights from serving this model and robot; None: nothing does."""
    trained = _description(folder)
    if asset_id != trained["asset_id"]:
        return f"the trained weights that ship are for env.asset_id={trained['asset_id']}"
    given = _flat(asdict(model))
    for key, value in _flat(trained["model"]).items():
        if given.get(key) != value:
            return f"the trained weights that ship need model.{key}={value}, not {given.get(key)}"
    return None


def check(folder: Path) -> None:
    """Compare every file with the SHA-256 that it had when it was trained.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    for name, expected in _description(folder)["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: install the package again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise CheckpointError(
                f"{path} is damaged: its SHA-256 is not the one in {DESCRIPTION} beside it;"
                " install the package again"
            )


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        described: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): install the package again"
        ) from error
    return described


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
        flat |= inner
    return flat
