"""What the public implementation computed, for five small checkpoints: see `cases` and `overrides`.

Each folder is a checkpoint in the public layout (`model.safetensors`, `params/`, `assets/`) with
`shapes.json` (its dimensions) and `cases.npz` (observations, inputs after all transforms, outputs).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent
TOKENIZER = FOLDER / "paligemma_tokenizer.model"
FAST_TOKENIZER = FOLDER / "fast_tokenizer"
FLOW_CHECKPOINTS = ("pi0_aloha", "pi0_aloha_sim", "pi05_droid", "pi05_libero")
"""Those of pi0 and pi0.5."""
FAST_CHECKPOINT = "pi0_fast_droid"
"""The fifth, which writes tokens; stored as `params/` only."""
CHECKPOINTS = (*FLOW_CHECKPOINTS, FAST_CHECKPOINT)

Array = npt.NDArray[Any]


RTC_CHECKPOINTS = ("pi0_aloha", "pi0_aloha_sim", "pi05_libero")
"""Those with cases of real-time chunking."""
RTC_FIELDS = (
    "noise",
    "prev_actions",
    "inference_delay",
    "prefix_attention_horizon",
    "schedule",
    "max_guidance_weight",
    "mode",
)


@dataclass(frozen=True)
class RtcCase:
    """One observation with a leftover of the chunk before, and what was computed from it."""

    name: str
    observation: dict[str, Any]
    """With all fields of the request."""
    previous: Array
    """The leftover as the model takes it, (horizon, action dim)."""
    weights: Array
    """(horizon,)"""
    raw_actions: Array
    actions: Array


@dataclass(frozen=True)
class Case:
    """One observation and everything that was computed from it."""

    name: str
    observation: dict[str, Any]
    noise: npt.NDArray[np.float32] | None
    """None for the model that starts from none."""
    images: dict[str, Array]
    """After all transforms, where they were kept."""
    image_mask: dict[str, bool]
    """By the model's names, in its order; some were left out where False."""
    state: Array
    tokens: Array
    """Without padding."""
    raw_actions: Array
    actions: Array


def jax_form(checkpoint: str, folder: Path) -> Path:
    """The golden `checkpoint` in `folder` as if JAX's form were all that there is."""
    target = folder / checkpoint
    target.mkdir()
    for name in ("params", "assets"):
        (target / name).symlink_to(FOLDER / checkpoint / name)
    return target


def overrides(checkpoint: str, location: Path | str | None = None) -> list[str]:
    """Command line settings with which `python -m worker` serves the golden `checkpoint`.

    `location`: another folder or address of the same; None: that beside this file.
    """
    shapes = json.loads((FOLDER / checkpoint / "shapes.json").read_text())
    model = shapes["model"]
    env = checkpoint.removeprefix(f"{model}_")
    keys = ["action_dim", "action_horizon", "max_token_len", "discrete_state_input", "vocab_size"]
    settings = {f"model.{key}": shapes[key] for key in keys if shapes[key] is not None}
    for part in ("vlm", "expert", "vision"):
        sizes = shapes[part] or {}
        settings.update({f"model.{part}.{key}": value for key, value in sizes.items()})
    return [
        f"env={env}",
        f"model={model}",
        f"checkpoint='{location or FOLDER / checkpoint}'",
        f"tokenizer='{TOKENIZER}'",
        f"fast_tokenizer='{FAST_TOKENIZER}'",
        f"env.asset_id='{shapes['asset_id']}'",
        f"num_steps={shapes['num_steps']}",
        *(f"{key}={str(value).lower()}" for key, value in settings.items()),
    ]


def cases(checkpoint: str) -> list[Case]:
    """The four observations of `checkpoint`, as a robot sends them, with what came of them."""
    with np.load(FOLDER / checkpoint / "cases.npz") as stored:
        arrays = dict(stored)
    return [_case(arrays, checkpoint, str(index)) for index in range(4)]


def rtc_cases(checkpoint: str) -> list[RtcCase]:
    """What the public PyTorch form computed with real-time chunking."""
    observations = [case.observation for case in cases(checkpoint)]
    with np.load(FOLDER / checkpoint / "rtc_cases.npz") as stored:
        arrays = dict(stored)
    return [_rtc_case(arrays, checkpoint, str(index), observations) for index in range(4)]


def stages(checkpoint: str) -> dict[str, Array]:
    """Intermediate values for the last of `cases`."""
    with np.load(FOLDER / checkpoint / "cases.npz") as stored:
        return {k.removeprefix("stage|"): v for k, v in stored.items() if k.startswith("stage|")}


def decodings() -> list[tuple[Array, Array]]:
    """Token ids that pi0-FAST may write, and the normalised actions that they stand for."""
    with np.load(FOLDER / FAST_CHECKPOINT / "cases.npz") as stored:
        return [(stored[f"fast|{i}|tokens"], stored[f"fast|{i}|actions"]) for i in range(4)]


def _case(arrays: dict[str, Array], checkpoint: str, index: str) -> Case:
    image = f"{index}|model_input|image|"
    mask = f"{index}|model_input|image_mask|"
    prompt = f"{index}|model_input|tokenized_prompt"
    # Their names sort into the model's order.
    cameras = sorted(key.removeprefix(mask) for key in arrays if key.startswith(mask))
    return Case(
        name=f"{checkpoint}/{index}",
        observation=_observation(arrays, f"{index}|obs|"),
        noise=arrays.get(f"{index}|noise"),
        images={c: arrays[image + c] for c in cameras if image + c in arrays},
        image_mask={c: bool(arrays[mask + c]) for c in cameras},
        state=arrays[f"{index}|model_input|state"],
        tokens=arrays[prompt][arrays[prompt + "_mask"]],
        raw_actions=arrays[f"{index}|raw_actions"],
        actions=arrays[f"{index}|actions"],
    )


def _rtc_case(
    arrays: dict[str, Array], checkpoint: str, index: str, observations: list[dict[str, Any]]
) -> RtcCase:
    sent = dict(observations[int(arrays[f"{index}|observation"])])
    for field in RTC_FIELDS:
        value = arrays[f"{index}|{field}"]
        sent[field] = value if value.ndim else value.item()
    return RtcCase(
        name=f"{checkpoint}/rtc {index} {sent['mode']}",
        observation=sent,
        previous=arrays[f"{index}|model_prev_actions"],
        weights=arrays[f"{index}|weights"],
        raw_actions=arrays[f"{index}|raw_actions"],
        actions=arrays[f"{index}|actions"],
    )


def _observation(arrays: dict[str, Array], prefix: str) -> dict[str, Any]:
    observation: dict[str, Any] = {}
    for key, value in arrays.items():
        if key.startswith(prefix):
            *parents, leaf = key.removeprefix(prefix).split("|")
            branch = observation
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[leaf] = str(value) if value.dtype.kind == "U" else value
    return observation
