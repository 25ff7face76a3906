"""The policies that this project is about: a model of the pi0 family between two transforms.

Made cheaply, so that a worker can say what it is before torch is imported; `load` does the rest.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from client.errors import BadObservation, PolicyFailed
from worker.checkpoints import files as checkpoints
from worker.checkpoints.download import Cache, fetch
from worker.config import (
    Architecture,
    Device,
    DownloadConfig,
    Dtype,
    EnvConfig,
    ModelConfig,
    RuntimeConfig,
)
from worker.errors import CheckpointError, SettingsError
from worker.robots import find_robot
from worker.robots.norm_stats import read_norm_stats
from worker.robots.observations import Array, Image, describe
from worker.robots.tokenizers import PromptTokenizer
from worker.robots.transforms import ModelInput, Transforms, check_fit
from worker.runtime.threads import set_threads

if TYPE_CHECKING:
    from worker.runtime.runner import Runner

log = logging.getLogger(__name__)

Raw = npt.NDArray[Any]
"""What a model answers: normalised actions, or tokens that stand for them."""
RunnerOf = TypeVar("RunnerOf", bound=Callable[[Sequence[ModelInput]], Sequence[Raw]])


class ChunkPolicy(ABC, Generic[RunnerOf]):
    """`infer` turns one observation of `env`'s robot into one chunk of its actions."""

    architectures: ClassVar[tuple[Architecture, ...]]
    """Those that this policy can serve."""
    reads_only = True

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
        download: DownloadConfig | None = None,
    ) -> None:
        """Check settings and files; nothing heavy is imported, read or downloaded.

        Where files are still to be downloaded, `load` does that, and `digest` is None until then.
        Raises `SettingsError` for settings that can't go together and `CheckpointError` for files
        that are missing or don't fit.
        """
        if model.architecture not in self.architectures:
            raise SettingsError(
                f"policy._target_={type(self).__name__} cannot serve"
                f" model.architecture={model.architecture}; leave policy= to model="
            )
        self._env, self._model, self._runtime = env, model, runtime
        self._device, self._dtype = Device(device), Dtype(dtype)
        self._num_steps, self._seed = num_steps, seed
        self._default_prompt = default_prompt
        self._sources = checkpoints.Sources(checkpoint, tokenizer, model.embedded)
        self._download = download or DownloadConfig()
        self._cache = Cache(self._download)
        self._runner: RunnerOf | None = None
        self.digest: str | None = None
        check_fit(env, model)
        self.image_layouts = {spec.path: spec.layout for spec in find_robot(env.robot).images}
        with checkpoints.readable():
            complete = self._sources.missing(self._cache) is None
        if complete:
            self._open()
        self.metadata = self._describe()

    def _open(self) -> None:
        """Read the small files. Raises `CheckpointError` where one is missing or doesn't fit."""
        with checkpoints.readable():
            self._files = self._sources.find(self._env.asset_id, self._cache)
            self.transforms = self._make_transforms()
            self.digest = checkpoints.digest(self._files, self._decisive())

    @abstractmethod
    def _make_runner(self) -> RunnerOf:
        """Load the model; torch is imported here and not before."""

    @property
    def runner(self) -> RunnerOf:
        """The loaded model. Raises `RuntimeError` before `load`."""
        if self._runner is None:
            raise RuntimeError("the policy was not loaded: call load() before infer()")
        return self._runner

    def load(self) -> None:
        """Download what is missing, import torch and read the weights.

        Raises `CheckpointError` where files cannot be had or don't fit.
        """
        fetched = None
        while (location := self._sources.missing(self._cache)) not in (None, fetched):
            fetched = location
            fetch(location, self._download)
        if self.digest is None:
            self._open()
            self.metadata = self._describe()
        set_threads(self._runtime.threads, self._model.embedded)
        self._runner = self._make_runner()
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
        for images in self._camera_sets():
            self.infer(self._blank(images))
        return float(self.infer(self._blank(images))["policy_timing"]["infer_ms"])

    def _camera_sets(self) -> list[list[Image]]:
        """One for every number of cameras that the robot may send, all of them last."""
        images = [spec for spec in self.transforms.robot.images if spec.camera is not None]
        required = [spec for spec in images if not spec.optional]
        optional = [spec for spec in images if spec.optional]
        return [[*required, *optional[:count]] for count in range(len(optional) + 1)]

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

    def _answer(self, raw: Raw, given: ModelInput) -> dict[str, Any] | PolicyFailed:
        actions = self.transforms.outputs(raw, given)
        if not np.isfinite(actions).all():
            return PolicyFailed("the model's actions are not finite; is dtype= or the state sane?")
        return {"actions": actions}

    def _make_transforms(self) -> Transforms:
        robot = find_robot(self._env.robot)
        stats = read_norm_stats(
            self._files.norm_stats, self._model.normalization, robot.state_dim, robot.action_dim
        )
        tokenizer, decode = self._make_tokenizer()
        if tokenizer.vocab_size != self._model.vocab_size:
            raise CheckpointError(
                f"{self._files.tokenizer} has {tokenizer.vocab_size} tokens, the model"
                f" {self._model.vocab_size}: tokenizer= or model.vocab_size= is wrong"
            )
        return Transforms(self._env, self._model, stats, tokenizer, self._default_prompt, decode)

    def _make_tokenizer(self) -> tuple[PromptTokenizer, Callable[[Raw], Array] | None]:
        """Prompts to tokens; and what the model answers to normalised actions, if it isn't them."""
        return PromptTokenizer(self._files.tokenizer, self._model.max_token_len), None

    def _decisive(self) -> dict[str, Any]:
        return {
            "policy": type(self).__name__,
            "env": asdict(self._env),
            "model": asdict(self._model),
            "default_prompt": self._default_prompt,
        }

    def _describe(self) -> dict[str, Any]:
        robot = find_robot(self._env.robot)
        metadata: dict[str, Any] = {
            "robot": str(self._env.robot),
            "env": self._env.name,
            "model": self._model.name,
            "action_horizon": self._model.action_horizon,
            "action_dim": robot.action_dim,
            "model_action_dim": self._model.action_dim,
            "control_hz": self._env.control_hz,
            "observation": describe(robot.vectors, robot.images, self._default_prompt),
            "default_prompt": self._default_prompt,
            "digest": self.digest,
            "untrained": self._model.embedded and self._sources.checkpoint is None,
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


class Pi0Policy(ChunkPolicy["Runner"]):
    """pi0 and pi0.5."""

    architectures = (Architecture.pi0, Architecture.pi05)

    def warm_up(self) -> float:
        """Also makes ready for every batch and prompt that may come."""
        sets = self._camera_sets()
        given = [self.transforms.inputs(self._blank(images)) for images in sets]
        # A prompt that holds the state has no usual length.
        usual = None if self._model.discrete_state_input else len(given[-1].tokens)
        self.runner.prepare(self._runtime.slots, [len(g.images) for g in given], usual)
        return super().warm_up()

    def _make_runner(self) -> "Runner":
        from worker.runtime.runner import Runner

        return Runner(
            self._model,
            self._files.weights,
            self._device,
            self._dtype,
            self._runtime,
            self._num_steps,
            self._seed,
        )

    def _decisive(self) -> dict[str, Any]:
        return {**super()._decisive(), "num_steps": self._num_steps, "seed": self._seed}

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "num_steps": self._num_steps}
