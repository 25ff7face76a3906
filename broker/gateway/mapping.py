"""Which keys of a dialect's observation become which of ours: data in `conf/mapping`, applied here.

A dialect flattens what it gets: nested keys are joined with dots (`video.front`). A mapping says of
each of our keys, in which a dot means nesting (`images.cam_high`), from which of theirs it comes.
Several of theirs are put together along the last axis. Of the answer it says which columns of our
`actions` become which of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import conf
from client import errors

FOLDER = Path(conf.__file__).parent / "mapping"


@dataclass
class Mapping:
    """One file of `conf/mapping`."""

    # ours: theirs, a list of keys
    observation: dict[str, list[str]] = field(default_factory=dict)
    # of ours, those that may be missing
    optional: list[str] = field(default_factory=list)
    # of ours, images whose colours come last there and first here
    channels_first: list[str] = field(default_factory=list)
    # theirs: [first column, the one after the last]; empty: all columns stay one array
    actions: dict[str, list[int]] = field(default_factory=dict)

    def to_ours(self, flat: Map[str, Any]) -> dict[str, Any]:
        """Our observation from theirs, whose keys are flat; unmapped ones are left out.

        Raises:
            BadObservation: a key that is needed is missing, or parts do not fit together.
        """
        if not self.observation:
            return dict(flat)
        ours: dict[str, Any] = {}
        for key, theirs in self.observation.items():
            missing = [each for each in theirs if each not in flat]
            if missing and key in self.optional:
                continue
            if missing:
                raise errors.BadObservation(
                    f"the observation has no {', '.join(missing)}, of which {key} is made: "
                    f"it has {', '.join(sorted(map(str, flat))) or 'nothing'}"[:1000]
                )
            parts = [flat[each] for each in theirs]
            value = parts[0] if len(parts) == 1 else _joined(key, theirs, parts)
            _put(ours, key, _turned(key, value) if key in self.channels_first else value)
        return ours

    def to_theirs(self, actions: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The columns of actions (horizon, action dim) by their names.

        Raises:
            PolicyFailed: the policy's actions have fewer columns than the mapping names.
        """
        width = actions.shape[-1]
        short = [name for name, (_, end) in self.actions.items() if end > width]
        if short:
            raise errors.PolicyFailed(
                f"the policy's actions have {width} columns, and the mapping wants more for "
                f"{', '.join(short)}: choose the mapping that belongs to this policy"
            )
        return {name: actions[..., start:end] for name, (start, end) in self.actions.items()}


def read_mapping(setting: str | None) -> Mapping:
    """Read `conf/mapping/NAME.yaml`, or the file at a path that ends in `.yaml`.

    None gives an empty one, which takes an observation as it is.

    Raises:
        ValueError: there is no such file, or it is not of this form.
    """
    if setting is None:
        return Mapping()
    path = Path(setting) if setting.endswith(".yaml") else FOLDER / f"{setting}.yaml"
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Mapping), OmegaConf.load(path))
        built = OmegaConf.to_object(merged)
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise ValueError(f"no mapping {setting!r}: conf/mapping has {known}") from error
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no mapping: {str(error).splitlines()[0]}") from error
    assert isinstance(built, Mapping)  # OmegaConf built it from that class
    wrong = [name for name, span in built.actions.items() if len(span) != 2 or span[0] >= span[1]]
    if wrong or not all(built.observation.values()):
        raise ValueError(f"{path}: actions are NAME: [first, end], observation is OURS: [theirs]")
    return built


def flatten(tree: Map[Any, Any], before: str = "") -> dict[str, Any]:
    """Nested maps as one, their keys joined with dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
        if isinstance(value, Map):
            flat.update(flatten(value, f"{before}{name}."))
        else:
            flat[f"{before}{name}"] = value
    return flat


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
    tree[last] = value


def _turned(key: str, image: Any) -> np.ndarray[Any, Any]:
    if not isinstance(image, np.ndarray) or image.ndim != 3:
        raise errors.BadObservation(f"{key} must be an image (height, width, colours)")
    return np.ascontiguousarray(np.moveaxis(image, -1, 0))


def _joined(key: str, theirs: list[str], parts: list[Any]) -> np.ndarray[Any, Any]:
    try:
        return np.concatenate([np.atleast_1d(part) for part in parts], axis=-1)
    except (ValueError, TypeError) as error:
        raise errors.BadObservation(
            f"{', '.join(theirs)} cannot be put together as {key}: {error}"
        ) from error
