"""From a robot's observation to the model's inputs, and from the model's actions to the robot's.

In the order of the public system, which the weights were trained behind: robot inputs, normalise,
resize, tokenise, pad; and back: (decode tokens), unnormalise, absolute actions, robot outputs.
Absent cameras and prompt padding are left out here, not masked later.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client.errors import BadObservation
from client.image_tools import resize_with_pad
from worker.config import IMAGE_SIZE, Architecture, EnvConfig, ModelConfig
from worker.errors import SettingsError
from worker.robots import find_robot
from worker.robots.leftover import Guidance, parse_leftover
from worker.robots.norm_stats import NormStats
from worker.robots.observations import Array, Picture, key_name, parse
from worker.robots.robot import Cameras
from worker.robots.tokenizers import PromptTokenizer, Tokens


@dataclass(frozen=True)
class ModelInput:
    """One request as the model takes it, and what its answer will need."""

    images: dict[str, Picture]
    """uint8 (224, 224, 3) of each present camera, in the model's order."""
    tokens: Tokens
    """The prompt, int64 (length,), without padding."""
    state: Array
    """Normalised, padded to the model's action dim (pi0-FAST: not padded), float64."""
    robot_state: Array
    """In the model's convention, not normalised, float64 (state dim,)."""
    noise: npt.NDArray[np.float32] | None
    """Where the flow starts, (horizon, action dim), if the request brought it."""
    seed: int | None
    """Where it comes from, if it did not."""
    shortened_to: str | None = None
    """The part of the robot's text that the model reads, if there was no room for all of it."""
    guidance: Guidance | None = None
    """The previous chunk, if the new one is to continue it."""


class NoActions(Exception):
    """A model that writes tokens wrote none that stand for a chunk of actions."""


class Transforms:
    """Everything that happens between one robot and one model, on the CPU, in numpy."""

    def __init__(
        self,
        env: EnvConfig,
        model: ModelConfig,
        stats: NormStats,
        tokenizer: PromptTokenizer,
        default_prompt: str | None,
        decode: Callable[[npt.NDArray[Any]], Array | None] | None = None,
        cameras: Cameras | None = None,
    ) -> None:
        """Put together what the settings and the checkpoint say.

        Args:
            decode: makes normalised actions of what the model wrote, if it writes tokens; None
                where that is no chunk.
            cameras: those of a model that names them in its own way; None: openpi's.

        Raises:
            SettingsError: `env` and `model` can't go together.
        """
        self.robot = find_robot(env.robot)
        self.cameras = self.robot.cameras() if cameras is None else cameras
        self._has_black_images = cameras is None and model.architecture is Architecture.pi0_fast
        self._model = model
        self._stats = stats
        self._tokenizer = tokenizer
        self._default_prompt = default_prompt
        self._decode = decode
        self._fast = model.architecture is Architecture.pi0_fast
        self._adaptation = self.robot.adaptation if env.adapt_to_pi else None
        self._delta = delta_dims(env, self.robot.action_dim)
        check_fit(env, model)

    def inputs(self, sent: Any) -> ModelInput:
        """The model's inputs, made from the observation `sent`.

        Raises:
            BadObservation: it is not an observation of this robot.
        """
        noise_shape = (self._model.action_horizon, self._model.action_dim)
        observation = parse(
            sent,
            self.robot.vectors,
            self.robot.images,
            None if self._fast else noise_shape,
            self._default_prompt,
        )
        state = self.robot.state(observation)
        if self._adaptation is not None:
            state = self._adaptation.state(state)
        normalised = self._stats.state.normalize(state)
        images = self._resized(observation.images)
        prompt = self._tokenizer.encode(observation.prompt, normalised)
        padding = 0 if self._fast else self._model.action_dim - len(normalised)
        return ModelInput(
            images=self.robot.fast_pictures(images) if self._has_black_images else images,
            tokens=prompt.tokens,
            state=np.pad(normalised, (0, padding)),
            robot_state=state,
            noise=observation.noise,
            seed=observation.seed,
            shortened_to=prompt.shortened_to,
            guidance=self._guidance(sent, state),
        )

    def _resized(self, pictures: Mapping[str, Picture]) -> dict[str, Picture]:
        """The images that came and are used, by the model's names, in its order."""
        return {
            camera: resize_with_pad(pictures[key_name(image.path)], IMAGE_SIZE, IMAGE_SIZE)
            for camera, image in self.cameras.items()
            if key_name(image.path) in pictures
        }

    def _guidance(self, sent: Mapping[str, Any], state: Array) -> Guidance | None:
        """What the flow follows of `sent`; `state`: the robot's now, in the model's convention.

        The leftover goes the way of training actions, so relative ones begin at the new state.
        """
        horizon = None if self._fast else self._model.action_horizon
        leftover = parse_leftover(sent, horizon, self.robot.action_dim)
        if leftover is None:
            return None
        actions = leftover.actions
        if self._adaptation is not None:
            if self._adaptation.given_actions is None:
                raise BadObservation(
                    "prev_actions: this robot's adaptation has no given_actions, which brings"
                    " actions into the model's convention"
                )
            actions = self._adaptation.given_actions(actions)
        actions[:, self._delta] -= state[self._delta]
        shape = (self._model.action_horizon, self._model.action_dim)
        return leftover.guidance(self._stats.actions.normalize(actions), shape)

    def outputs(self, raw: npt.NDArray[np.float32] | Tokens, given: ModelInput) -> Array:
        """The robot's actions, float64 (horizon, robot's dims), of the model's answer.

        `raw`: float32 (horizon, model's dims), or int64 (length,) where the model writes tokens.

        Raises:
            NoActions: it wrote tokens that stand for no chunk of actions.
        """
        normalised = raw.astype(np.float64) if self._decode is None else self._decode(raw)
        if normalised is None:
            raise NoActions
        actions = self._stats.actions.unnormalize(normalised)
        actions = np.ascontiguousarray(actions[:, : self.robot.action_dim])
        actions[:, self._delta] += given.robot_state[self._delta]
        return actions if self._adaptation is None else self._adaptation.actions(actions)


def check_fit(env: EnvConfig, model: ModelConfig) -> None:
    """Make sure that `env` and `model` can go together; no file is read.

    Raises:
        SettingsError: they can't.
    """
    robot = find_robot(env.robot)
    delta_dims(env, robot.action_dim)
    if env.adapt_to_pi and robot.adaptation is None:
        raise SettingsError(f"env.adapt_to_pi=true: {env.robot} has no convention of its own")
    if env.action_dim != robot.action_dim:
        raise SettingsError(
            f"env.action_dim={env.action_dim}, but env.robot={env.robot} has"
            f" {robot.action_dim} actions"
        )
    pads_state = model.architecture is not Architecture.pi0_fast
    largest = max(robot.action_dim, robot.state_dim if pads_state else 0)
    if model.action_dim < largest:
        raise SettingsError(
            f"model.action_dim={model.action_dim} is too small for env.robot={env.robot},"
            f" which has {largest} values"
        )


def delta_dims(env: EnvConfig, action_dim: int) -> npt.NDArray[np.intp]:
    """Which actions are relative to the state.

    Raises:
        SettingsError: the mask is too long.
    """
    mask = env.delta_mask or []
    if len(mask) > action_dim:
        raise SettingsError(
            f"env.delta_mask has {len(mask)} entries, but {env.robot} has {action_dim} actions"
        )
    return np.flatnonzero(np.asarray(mask, dtype=bool))
