"""What all policies of the pi0 family share: a model between two transforms.

Made cheaply, so that a worker can say what it is before torch is imported; `load` does the rest.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from client.errors import BadObservation, PolicyFailed
from worker.checkpoints import files as checkpoints
from worker.checkpoints import shipped
from worker.checkpoints.download import Cache, fetch
from worker.checkpoints.folders import system_errors
from worker.checkpoints.saved_config import served_model
from worker.config import Architecture, DownloadConfig, Dtype, EnvConfig, ModelConfig, RuntimeConfig
from worker.device_name import Device
from worker.errors import CheckpointError, SettingsError
from worker.policies.assembly import prompt_form, scales_and_cameras
from worker.policies.warm_up import blank_observation, camera_sets
from worker.robots import find_robot
from worker.robots.observations import Array, Image, describe
from worker.robots.tokenizers import PromptTokenizer
from worker.robots.transforms import ModelInput, NoActions, Transforms, check_fit
from worker.runtime.threads import set_threads

logger = logging.getLogger(__name__)

Raw = npt.NDArray[Any]
"""What a model answers: normalised actions, or tokens that stand for them."""
_NO_CHUNK = (
    "the model wrote no chunk of actions for this observation, so there is nothing to execute:"
    " ask again with a new observation"
)
RunnerOf = TypeVar("RunnerOf", bound=Callable[[Sequence[ModelInput]], Sequence[Raw]])


class ChunkPolicy(ABC, Generic[RunnerOf]):
    """`infer` turns one observation of `env`'s robot into one chunk of its actions."""

    architectures: ClassVar[tuple[Architecture, ...]]
    """The architectures that this policy can serve."""
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
        given: Sequence[str] = (),
    ) -> None:
        """Check settings and files; nothing heavy is imported, read or downloaded.

        Where files are still to be downloaded, `load` does that, and `digest` is None until then.

        Args:
            given: the keys of the settings that the user gave. A checkpoint's own `config.json`
                decides where the user did not, and must not contradict where they did.

        Raises:
            SettingsError: settings can't go together, or contradict the checkpoint.
            CheckpointError: files are missing or don't fit.
        """
        if model.architecture not in self.architectures:
            raise SettingsError(
                f"policy._target_={type(self).__name__} cannot serve"
                f" model.architecture={model.architecture}; leave policy= to model="
            )
        self._env, self._model, self._runtime = env, model, runtime
        self._given = frozenset(given)
        self._device, self._dtype = Device(device), Dtype(dtype)
        self._num_steps, self._seed = num_steps, seed
        self._default_prompt = default_prompt
        by_default = model.embedded and checkpoint is None
        self._mismatch = shipped.mismatch(model, env.asset_id) if by_default else None
        trained = shipped.FOLDER if by_default and self._mismatch is None else None
        self._sources = checkpoints.Sources(checkpoint, tokenizer, model.embedded, trained)
        self._download = download or DownloadConfig()
        self._cache = Cache(self._download)
        self._runner: RunnerOf | None = None
        self.digest: str | None = None
        check_fit(env, model)
        self.image_layouts = {spec.path: spec.layout for spec in find_robot(env.robot).images}
        with system_errors():
            complete = self._sources.missing(self._cache) is None
        if complete:
            self._open()
        self.metadata = self._describe()

    def _open(self) -> None:
        """Read the small files.

        Raises:
            CheckpointError: one is missing or doesn't fit.
            SettingsError: they contradict the settings.
        """
        with system_errors():
            self._files = self._sources.find(self._env.asset_id, self._cache)
            self._model = served_model(self._model, self._files.saved, self._given)
            check_fit(self._env, self._model)
            self.transforms = self._make_transforms()
            self.digest = checkpoints.digest(self._files, self._deciding_settings())

    @abstractmethod
    def _make_runner(self) -> RunnerOf:
        """Load the model; torch is imported here and not before."""

    @property
    def runner(self) -> RunnerOf:
        """The loaded model.

        Raises:
            RuntimeError: `load` was not called.
        """
        if self._runner is None:
            raise RuntimeError("the policy was not loaded: call load() before infer()")
        return self._runner

    def load(self) -> None:
        """Download what is missing, import torch and read the weights.

        Raises:
            CheckpointError: files cannot be had or don't fit.
            SettingsError: they contradict the settings, or the device has no room.
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
        if self._sources.untrained:
            logger.warning(
                "model=%s is UNTRAINED: its weights are made up from a fixed seed, so the robot"
                " trembles around its resting pose (%s); checkpoint= serves a trained model",
                self._model.name,
                self._mismatch,
            )

    def warm_up(self) -> float:
        """Infer once for every number of cameras that the robot may send.

        Returns the milliseconds that an inference with all of them takes afterwards.
        """
        for images in camera_sets(self.transforms.cameras):
            self._try(images)
        started = time.perf_counter()
        self._try(camera_sets(self.transforms.cameras)[-1])
        return 1e3 * (time.perf_counter() - started)

    def _try(self, images: Sequence[Image]) -> None:
        """Infer on a blank observation. The answer must be finite, but need not be a chunk."""
        for answer in self._answers([self._blank(images)])[0]:
            if isinstance(answer, Exception):
                raise answer

    def _blank(self, images: Sequence[Image]) -> dict[str, Any]:
        return blank_observation(self.transforms.robot, images, self._default_prompt)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Actions, float64 (horizon, robot's action dim), and milliseconds by stage.

        If the model had no room for the robot's whole text, `prompt_shortened_to` is the part that
        it read.

        Raises:
            BadObservation: it is not what the robot sends.
            PolicyFailed: the model's answer is not finite, or no chunk of actions.
        """
        answer = self.infer_batch([observation])[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def infer_batch(
        self, observations: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any] | BadObservation | PolicyFailed]:
        """Answers to several observations at once; one that fails fails alone."""
        answers, timing = self._answers(observations)
        return [
            PolicyFailed(_NO_CHUNK)
            if answer is None
            else {**answer, "policy_timing": dict(timing)}
            if isinstance(answer, dict)
            else answer
            for answer in answers
        ]

    def _answers(
        self, observations: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any] | BadObservation | PolicyFailed | None], dict[str, float]]:
        """Answers, None where one is not a chunk, and the milliseconds that they took."""
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
        return answers, {
            "infer_ms": 1e3 * (ended - started),
            "transform_ms": 1e3 * (transformed - started + ended - computed),
            "model_ms": 1e3 * (computed - transformed),
        }

    def _check(self, observation: dict[str, Any]) -> ModelInput | BadObservation:
        try:
            given = self.transforms.inputs(observation)
        except BadObservation as error:
            return error
        if given.guidance is not None and given.guidance.mode not in self._runtime.rtc:
            served = ", ".join(self._runtime.rtc) or "none"
            return BadObservation(
                f"mode: this worker serves no {given.guidance.mode}; of real-time chunking it"
                f" serves {served} (its runtime.rtc=)"
            )
        return given

    def _answer(self, raw: Raw, given: ModelInput) -> dict[str, Any] | PolicyFailed | None:
        try:
            actions = self.transforms.outputs(raw, given)
        except NoActions:
            return None
        if not np.isfinite(actions).all():
            return PolicyFailed("the model's actions are not finite; is dtype= or the state sane?")
        if given.shortened_to is None:
            return {"actions": actions}
        return {"actions": actions, "prompt_shortened_to": given.shortened_to}

    def _make_transforms(self) -> Transforms:
        stats, cameras = scales_and_cameras(self._env, self._model, self._files)
        tokenizer, decode = self._make_tokenizer()
        if tokenizer.vocab_size != self._model.vocab_size:
            raise CheckpointError(
                f"{self._files.tokenizer} has {tokenizer.vocab_size} tokens, the model"
                f" {self._model.vocab_size}: tokenizer= or model.vocab_size= is wrong"
            )
        return Transforms(
            self._env, self._model, stats, tokenizer, self._default_prompt, decode, cameras
        )

    def _make_tokenizer(self) -> tuple[PromptTokenizer, Callable[[Raw], Array | None] | None]:
        """Prompts to tokens; and what the model answers to normalised actions, if it isn't them."""
        path = self._files.tokenizer
        return PromptTokenizer(
            path, self._model.max_token_len, prompt_form(self._model, self._files)
        ), None

    def _deciding_settings(self) -> dict[str, Any]:
        env = asdict(self._env)
        if self._env.guards.on_breach is None:
            del env["guards"]  # rules that nobody applies decide nothing
        return {
            "policy": type(self).__name__,
            "env": env,
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
            "untrained": self._sources.untrained,
        }
        if self._env.reset_pose is not None:
            metadata["reset_pose"] = list(self._env.reset_pose)
        return metadata
