"""The worker's settings: the types that `conf/worker.yaml` is checked against.

Torch is not imported here: settings are read and the broker is greeted before torch is loaded.
The meaning of each key is written beside it in `conf/`; here are the types, and the checks that
types alone cannot make. Each class raises `SettingsError` for values that could never work.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from client.names import AT, full_name
from client.wire import MAX_NAME, MAX_SLOTS
from worker.addresses import broker_list
from worker.device_name import Device
from worker.errors import SettingsError
from worker.guard_config import GuardsConfig

LONGEST_WAIT_S = 10.0
"""The longest that a batch may wait for others; most robots have given up by then."""

IMAGE_SIZE = 224
"""Height and width, in pixels, of every image that the vision tower sees."""


RTC_MODES = ("identity", "vjp", "trained")
"""The forms of real-time chunking: `worker.robots.leftover.Mode`."""


class RobotName(StrEnum):
    """The robots that are known by name, as `env.robot`."""

    aloha = "aloha"
    droid = "droid"
    libero = "libero"


class Architecture(StrEnum):
    """`pi0` feeds the state as a token, `pi05` conditions the expert's norms on time.

    `pi0_fast` has no action expert: it writes its actions as tokens, one after the other.
    """

    pi0 = "pi0"
    pi05 = "pi05"
    pi0_fast = "pi0_fast"


class Normalization(StrEnum):
    """Which statistics scale states and actions."""

    zscore = "zscore"
    quantile = "quantile"


class Dtype(StrEnum):
    """What the model computes in; `auto` is bfloat16 where the device is faster in it."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    auto = "auto"


class LogFormat(StrEnum):
    """How log lines look: for people, or one JSON object a line."""

    text = "text"
    json = "json"


@dataclass
class EnvConfig:
    """One robot in one task setting (`conf/env`)."""

    name: str = MISSING
    robot: str = MISSING
    asset_id: str = MISSING
    action_dim: int = MISSING
    adapt_to_pi: bool = MISSING
    delta_mask: list[bool] | None = MISSING
    default_prompt: str | None = MISSING
    control_hz: float = MISSING
    reset_pose: list[float] | None = MISSING
    images: dict[str, str] | None = None
    guards: GuardsConfig = field(default_factory=GuardsConfig)

    def __post_init__(self) -> None:
        """Refuse values that no robot could have."""
        if "." not in self.robot and self.robot not in list(RobotName):
            raise SettingsError(
                f"env.robot={self.robot} is none of {', '.join(RobotName)}, nor package.module.NAME"
                " of a robot of your own (docs/robots.md)"
            )
        _at_least("env.", self, 0.001, "control_hz")
        _at_least("env.", self, 1, "action_dim")
        self.guards.check(self.action_dim)


@dataclass
class ExpertConfig:
    """One Gemma: the prefix's (`model.vlm`) or the actions' (`model.expert`)."""

    width: int = MISSING
    depth: int = MISSING
    mlp_dim: int = MISSING
    num_heads: int = MISSING
    num_kv_heads: int = MISSING
    head_dim: int = MISSING

    def __post_init__(self) -> None:
        """Refuse dimensions that can't be built."""
        _at_least("model.vlm/expert.", self, 1, *vars(self))
        if self.num_heads % self.num_kv_heads or self.head_dim % 2 or self.width % 2:
            raise SettingsError(
                "model.vlm and model.expert: num_heads must be a multiple of num_kv_heads,"
                f" head_dim and width even; got {vars(self)}"
            )


@dataclass
class VisionConfig:
    """The SigLIP tower (`model.vision`)."""

    width: int = MISSING
    depth: int = MISSING
    mlp_dim: int = MISSING
    num_heads: int = MISSING
    patch_size: int = MISSING

    def __post_init__(self) -> None:
        """Refuse dimensions that can't be built."""
        _at_least("model.vision.", self, 1, *vars(self))
        if self.width % self.num_heads or IMAGE_SIZE % self.patch_size:
            raise SettingsError(
                "model.vision: width must be a multiple of num_heads, and patch_size divide"
                f" {IMAGE_SIZE}; got {vars(self)}"
            )

    @property
    def tokens(self) -> int:
        """Tokens that one image becomes: 256 with patches of 14 pixels."""
        return (IMAGE_SIZE // self.patch_size) ** 2


@dataclass
class ModelConfig:
    """One model of the pi0 family (`conf/model`)."""

    name: str = MISSING
    architecture: Architecture = MISSING
    embedded: bool = MISSING
    action_dim: int = MISSING
    action_horizon: int = MISSING
    max_token_len: int = MISSING
    discrete_state_input: bool = MISSING
    normalization: Normalization = MISSING
    vocab_size: int = MISSING
    vlm: ExpertConfig = MISSING
    expert: ExpertConfig | None = MISSING
    vision: VisionConfig = MISSING

    def __post_init__(self) -> None:
        """Refuse two experts that can't share their attention, and empty chunks."""
        _at_least("model.", self, 1, "action_dim", "action_horizon", "max_token_len", "vocab_size")
        if self.architecture is Architecture.pi0_fast:
            if self.expert is not None or not self.discrete_state_input:
                raise SettingsError(
                    "model.architecture=pi0_fast needs model.expert=null, since actions are tokens,"
                    " and model.discrete_state_input=true, since its prompts hold the state"
                )
            return
        for key in ("depth", "num_heads", "num_kv_heads", "head_dim"):
            vlm, expert = getattr(self.vlm, key), getattr(self.action_expert, key)
            if vlm != expert:
                raise SettingsError(
                    f"model.expert.{key}={expert} must equal model.vlm.{key}={vlm}:"
                    " the expert attends to the prefix's keys and values layer by layer"
                )

    @property
    def action_expert(self) -> ExpertConfig:
        """The expert of a flow model.

        Raises:
            SettingsError: there is none.
        """
        if self.expert is None:
            raise SettingsError(
                f"model.expert=null: model.architecture={self.architecture} needs it"
            )
        return self.expert


@dataclass
class RuntimeConfig:
    """How the worker's process runs (`conf/runtime`)."""

    threads: int | None = MISSING
    slots: int = MISSING
    batch_wait_s: float = MISSING
    graphs: bool | None = MISSING
    prompt_buckets: int = MISSING
    compile: bool = MISSING
    rtc: list[str] = MISSING

    def __post_init__(self) -> None:
        """Refuse a worker that could never take a request."""
        _at_least("runtime.", self, 1, "slots", "prompt_buckets")
        _at_least("runtime.", self, 0, "batch_wait_s")
        if self.slots > MAX_SLOTS or self.batch_wait_s > LONGEST_WAIT_S:
            raise SettingsError(
                f"runtime.slots may be {MAX_SLOTS} at most and runtime.batch_wait_s"
                f" {LONGEST_WAIT_S:g}, got {self.slots} and {self.batch_wait_s:g}"
            )
        if self.threads is not None:
            _at_least("runtime.", self, 1, "threads")
        unknown = sorted(set(self.rtc) - set(RTC_MODES))
        if unknown:
            raise SettingsError(
                f"runtime.rtc has {', '.join(unknown)}: forms of real-time chunking are"
                f" {', '.join(RTC_MODES)}"
            )
        if self.compile and self.graphs is False:
            raise SettingsError(
                "runtime.compile=true needs fixed shapes: leave runtime.graphs=null or set it true"
            )


@dataclass
class DownloadConfig:
    """Where checkpoints in object storage are downloaded from, and where they are kept."""

    cache_dir: str | None = None
    s3_endpoint: str | None = None
    gs_endpoint: str = "https://storage.googleapis.com"
    connections: int = 8

    def __post_init__(self) -> None:
        """Refuse a download that could never begin."""
        _at_least("download.", self, 1, "connections")


@dataclass
class WorkerConfig:
    """All settings of `python -m worker`. The keys of `policy` are those of its own class."""

    env: EnvConfig = MISSING
    model: ModelConfig = MISSING
    runtime: RuntimeConfig = MISSING
    policy: dict[str, Any] = MISSING
    broker: Any = MISSING
    name: str = MISSING
    version: str | None = None
    checkpoint: str | None = MISSING
    tokenizer: str | None = MISSING
    fast_tokenizer: str | None = MISSING
    download: DownloadConfig = MISSING
    device: str = MISSING
    dtype: Dtype = MISSING
    num_steps: int = MISSING
    seed: int = MISSING
    default_prompt: str | None = MISSING
    key: str | None = None
    log_format: LogFormat = LogFormat.text
    given: list[str] = field(default_factory=list)
    """The settings of the command line, by their keys: filled in, not to be set."""

    def __post_init__(self) -> None:
        """Refuse values of the right type that no worker could have.

        Raises:
            SettingsError: the message names the key.
        """
        Device(self.device)
        broker_list(self.broker)
        _at_least("", self, 1, "num_steps")
        _at_least("", self, 0, "seed")
        for key, text, asked in (
            ("name", self.name, self.name),
            ("version", self.version, self.full_name),
        ):
            if text is not None and (not text or AT in text or len(asked) > MAX_NAME):
                raise SettingsError(
                    f"{key}={text} must not be empty nor have an {AT}, and what robots ask for,"
                    f" {asked!r}, has {MAX_NAME} characters at most"
                )

    @property
    def full_name(self) -> str:
        """What this worker serves: its name, with its version if it has one."""
        return full_name(self.name, self.version)


def _at_least(where: str, config: object, least: float, *keys: str) -> None:
    for key in keys:
        value = getattr(config, key)
        if not value >= least:
            raise SettingsError(f"{where}{key} must be at least {least}, got {value}")
