"""The policy that this project is about: a pi0 or pi0.5 between a robot's two transforms.

Made cheaply, so that a worker can say what it is before torch is imported; `load` does the rest.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from client.errors import BadObservation, PolicyFailed
from worker import checkpoints
from worker.config import Device, Dtype, EnvConfig, ModelConfig, RuntimeConfig
from worker.errors import CheckpointError
from worker.norm_stats import read_norm_stats
from worker.observations import Image, describe
from worker.robots import ROBOTS
from worker.tokenizers import PromptTokenizer
from worker.transforms import ModelInput, Transforms

if TYPE_CHECKING:
    from worker.models.runner import Actions, Runner

log = logging.getLogger(__name__)


class Pi0Policy:
    """`infer` turns one observation of `env`'s robot into one chunk of its actions."""

    def __init__(
        self,
        env: EnvConfig,
        model: ModelConfig,
        runtime: RuntimeConfig,
        checkpoint: str | None = None,
        tokenizer: str | None = None,
        device: Device = Device.auto,
        dtype: Dtype = Dtype.auto,
        num_steps: int = 10,
        seed: int = 0,
        default_prompt: str | None = None,
    ) -> None:
        """Check settings and files; nothing heavy is imported or read.

        Raises `ConfigError` for settings that can't go together and `CheckpointError` for files
        that are missing or don't fit.
        """
        self._env, self._model, self._runtime = env, model, runtime
        self._device, self._dtype = Device(device), Dtype(dtype)
        self._num_steps, self._seed = num_steps, seed
        self._default_prompt = default_prompt
        self._files = checkpoints.find(checkpoint, tokenizer, env.asset_id, model.embedded)
        self.transforms = self._make_transforms()
        self.digest = checkpoints.digest(self._files, self._decisive())
        self.metadata = self._describe()
        self._runner: Runner | None = None

    @property
    def runner(self) -> "Runner":
        """The loaded model. Raises `RuntimeError` before `load`."""
        if self._runner is None:
            raise RuntimeError("the policy was not loaded: call load() before infer()")
        return self._runner

    def load(self) -> None:
        """Import torch and read the weights. Raises `CheckpointError` where they don't fit."""
        import torch

        from worker.models.runner import Runner

        if self._runtime.threads is not None:
            torch.set_num_threads(self._runtime.threads)
        self._runner = Runner(
            self._model,
            self._files.weights,
            self._device,
            self._dtype,
            self._num_steps,
            self._seed,
        )
        if self._files.weights is None:
            log.warning(
                "model=%s is UNTRAINED: its weights are made up from a fixed seed, so the robot"
                " trembles around its resting pose; checkpoint= serves a trained model",
                self._model.name,
            )

    def warm_up(self) -> float:
        """Infer once for every number of cameras that the robot may send.

        Returns the milliseconds that an inference with all of them takes afterwards.
        """
        images = [spec for spec in self.transforms.robot.images if spec.camera is not None]
        required = [spec for spec in images if not spec.optional]
        optional = [spec for spec in images if spec.optional]
        for count in range(len(optional) + 1):
            self.infer(self._blank([*required, *optional[:count]]))
        return float(self.infer(self._blank(images))["policy_timing"]["infer_ms"])

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Actions, float64 (horizon, robot's action dim), and milliseconds by stage.

        Raises `BadObservation` for an observation that is not the robot's, `PolicyFailed` where
        the model's answer is not finite.
        """
        answer = self.infer_batch([observation])[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def infer_batch(
        self, observations: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any] | BadObservation | PolicyFailed]:
        """Answers to several observations at once; one that fails fails alone."""
        started = time.perf_counter()
        checked = [self._check(observation) for observation in observations]
        good = [item for item in checked if isinstance(item, ModelInput)]
        transformed = time.perf_counter()
        raw = iter(self.runner(good))
        computed = time.perf_counter()
        answers = [
            self._answer(next(raw), item) if isinstance(item, ModelInput) else item
            for item in checked
        ]
        ended = time.perf_counter()
        timing = {
            "infer_ms": 1e3 * (ended - started),
            "transform_ms": 1e3 * (transformed - started + ended - computed),
            "model_ms": 1e3 * (computed - transformed),
        }
        for answer in answers:
            if isinstance(answer, dict):
                answer["policy_timing"] = dict(timing)
        return answers

    def _check(self, observation: dict[str, Any]) -> ModelInput | BadObservation:
        try:
            return self.transforms.inputs(observation)
        except BadObservation as error:
            return error

    def _answer(self, raw: "Actions", given: ModelInput) -> dict[str, Any] | PolicyFailed:
        actions = self.transforms.outputs(raw, given)
        if not np.isfinite(actions).all():
            return PolicyFailed("the model's actions are not finite; is dtype= or the state sane?")
        return {"actions": actions}

    def _make_transforms(self) -> Transforms:
        robot = ROBOTS[self._env.robot]
        stats = read_norm_stats(
            self._files.norm_stats, self._model.normalization, robot.state_dim, robot.action_dim
        )
        tokenizer = PromptTokenizer(self._files.tokenizer, self._model.max_token_len)
        if tokenizer.vocab_size > self._model.vocab_size:
            raise CheckpointError(
                f"{self._files.tokenizer} has {tokenizer.vocab_size} tokens, the model"
                f" {self._model.vocab_size}: tokenizer= or model.vocab_size= is wrong"
            )
        return Transforms(self._env, self._model, stats, tokenizer, self._default_prompt)

    def _decisive(self) -> dict[str, Any]:
        return {
            "policy": type(self).__name__,
            "env": asdict(self._env),
            "model": asdict(self._model),
            "num_steps": self._num_steps,
            "seed": self._seed,
            "default_prompt": self._default_prompt,
        }

    def _describe(self) -> dict[str, Any]:
        robot = self.transforms.robot
        metadata: dict[str, Any] = {
            "robot": str(self._env.robot),
            "env": self._env.name,
            "model": self._model.name,
            "action_horizon": self._model.action_horizon,
            "action_dim": robot.action_dim,
            "model_action_dim": self._model.action_dim,
            "control_hz": self._env.control_hz,
            "num_steps": self._num_steps,
            "observation": describe(robot.vectors, robot.images, self._default_prompt),
            "default_prompt": self._default_prompt,
            "digest": self.digest,
            "untrained": self._files.weights is None,
        }
        if self._env.reset_pose is not None:
            metadata["reset_pose"] = list(self._env.reset_pose)
        return metadata

    def _blank(self, images: Sequence[Image]) -> dict[str, Any]:
        observation: dict[str, Any] = {"prompt": self._default_prompt or "warm up"}
        for vector in self.transforms.robot.vectors:
            observation[vector.path[0]] = np.zeros(vector.size, np.float32)
        for spec in images:
            branch = observation
            for part in spec.path[:-1]:
                branch = branch.setdefault(part, {})
            branch[spec.path[-1]] = np.zeros((3, 224, 224), np.uint8)
        return observation
