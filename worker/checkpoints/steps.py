"""The steps that LeRobot runs before and after a policy, and which of them are understood."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.config import Architecture
from worker.errors import CheckpointError

RENAME = "rename_observations_processor"
NORMALIZE, UNNORMALIZE = "normalizer_processor", "unnormalizer_processor"
PREPARE = {
    Architecture.pi0: "pi0_new_line_processor",
    Architecture.pi05: "pi05_prepare_state_tokenizer_processor_step",
    Architecture.pi0_fast: "pi0_fast_prepare_state_tokenizer_processor_step",
}
"""The step that makes each model's prompt."""


@dataclass(frozen=True)
class Step:
    """One step as `policy_preprocessor.json` or `policy_postprocessor.json` has it."""

    path: Path
    """The file."""
    name: str
    config: Mapping[str, Any]
    state_file: str | None


def steps_of(path: Path, pipeline: Mapping[str, Any]) -> list[Step]:
    """The steps of a saved pipeline, in order. A step without a registered name has its class's."""
    return [
        Step(
            path,
            str(step.get("registry_name") or step.get("class")),
            dict(step.get("config") or {}),
            step.get("state_file"),
        )
        for step in pipeline["steps"]
    ]


def check_steps(before: Sequence[Step], after: Sequence[Step], kind: Architecture) -> None:
    """Make sure that every step around the model is one that is done here too.

    Raises:
        CheckpointError: a step is not known, has a setting that is not known, is missing, or comes
            in another order.
    """
    for steps, known in ((before, _BEFORE), (after, _AFTER)):
        for step in steps:
            check = known.get(step.name)
            if check is None and step.name != PREPARE[kind]:
                raise CheckpointError(
                    f"{step.path}: the step {step.name} is not known, so the model would be served"
                    " with other inputs or actions than it was trained with"
                )
            if check is not None and (problem := check(step.config)):
                raise CheckpointError(f"{step.path}: the step {step.name} {problem}")
    names = [step.name for step in before]
    for steps, name in ((before, NORMALIZE), (before, PREPARE[kind]), (after, UNNORMALIZE)):
        count = [step.name for step in steps].count(name)
        if count != 1:
            raise CheckpointError(
                f"{steps[0].path} has the step {name} {count} times; once is expected"
            )
    prepare = before[names.index(PREPARE[kind])]
    unknown = sorted(prepare.config.keys() - {"max_state_dim", "task_key"})
    if unknown:
        raise CheckpointError(
            f"{prepare.path}: the step {prepare.name} has {', '.join(unknown)}, a form of"
            " the prompt that is not known"
        )
    if kind is not Architecture.pi0 and names.index(NORMALIZE) > names.index(PREPARE[kind]):
        raise CheckpointError(
            f"{prepare.path}: the step {NORMALIZE} comes after {prepare.name}; the prompt of such a"
            " model is not known"
        )


def rename_map(before: Sequence[Step], cameras: Sequence[str], prefix: str) -> dict[str, str]:
    """The data set's camera by the model's, as the renaming step says; keys have `prefix`.

    Raises:
        CheckpointError: something other than a camera is renamed.
    """
    renamed: dict[str, str] = {}
    for step in (step for step in before if step.name == RENAME):
        for theirs, ours in dict(step.config.get("rename_map") or {}).items():
            if theirs == ours:
                continue
            camera = str(ours).removeprefix(prefix)
            if not str(theirs).startswith(prefix) or camera not in cameras or camera in renamed:
                raise CheckpointError(
                    f"{step.path}: the step {RENAME} renames {theirs} to {ours}; understood are"
                    f" renames of a camera to one of {', '.join(cameras)}"
                )
            renamed[camera] = str(theirs).removeprefix(prefix)
    return renamed


Check = Callable[[Mapping[str, Any]], str | None]


def _anything(config: Mapping[str, Any]) -> str | None:
    return None


def _is_off(config: Mapping[str, Any]) -> str | None:
    if config.get("enabled"):
        return "is on: actions relative to the state in LeRobot's way are not served"
    return None


def _normalizes(config: Mapping[str, Any]) -> str | None:
    visual = config["norm_map"].get("VISUAL", "IDENTITY")
    if visual != "IDENTITY":
        return f"normalises images by {visual}; served is IDENTITY"
    if config.get("normalize_observation_keys") is not None:
        return "has normalize_observation_keys, which are not known"
    return None


def _tokenizes(config: Mapping[str, Any]) -> str | None:
    name = str(config.get("tokenizer_name") or "paligemma")
    return None if "paligemma" in name else f"has the tokenizer {name}; served is PaliGemma's"


_RELATIVE = ("relative_actions_processor", "delta_actions_processor", "absolute_actions_processor")
_BEFORE: dict[str, Check] = {
    RENAME: _anything,
    "to_batch_processor": _anything,
    "device_processor": _anything,
    NORMALIZE: _normalizes,
    "tokenizer_processor": _tokenizes,
    "action_tokenizer_processor": _anything,
    **dict.fromkeys(_RELATIVE, _is_off),
}
_AFTER: dict[str, Check] = {
    "device_processor": _anything,
    UNNORMALIZE: _anything,
    **dict.fromkeys(_RELATIVE, _is_off),
}
