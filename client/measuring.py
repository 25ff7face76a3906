"""How long a robot waits on its own link, by the ways in which its images may travel.

`python -m client HOST --measure` asks the served policy with observations of its own form, in
turns: images as bytes, through shared memory where that works, as PNG and as JPEG files. The images
are made up, about as compressible as photographs: real ones may be larger or smaller as files.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Callable

import numpy as np

from client.body import encode_body
from client.errors import BadObservation
from client.image_codecs import ImageEncoder
from client.policy_client import ZmqPolicyClient

MEMORY = "memory"
WAYS = ("raw", "png", "jpeg")
SIDE = 224  # pixels of an image where the policy takes any size
_FEWEST = 3  # requests of each way, however slow
_PINGS = 20
_DISCS = 12
_GRAIN = 4.0  # standard deviation of a sensor's noise, in steps of 255
_WORTH = 0.9  # another way is advised if it takes at most this share of the usual one's time
_POLICYS = 0.7  # share of the time from which the policy is what a robot waits for
_TELLING_MS = 0.5  # a difference from which the link's rate can be told

Progress = Callable[[float], None]


@dataclass
class Way:
    """One way in which images travel: bytes of an observation, and milliseconds."""

    name: str
    bytes: int
    p50_ms: float
    p95_ms: float
    stages_ms: dict[str, float]
    """Medians on the robot (encode, decode), of the network with the broker, and behind it."""
    requests: int


@dataclass
class Measurement:
    """What a robot's link and policy are like."""

    policy: str
    ping_ms: float
    ways: list[Way] = field(default_factory=list)
    link_mbit_per_s: float | None = None
    """None where the link is too fast to tell."""
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(
    connect: Callable[..., ZmqPolicyClient], seconds: float, progress: Progress
) -> Measurement:
    """Ask in all ways, in turns, for so many seconds together.

    Args:
        connect: makes a client with these further arguments (`image_codec`, `shared_memory`).
        seconds: how long, about.
        progress: is told the share that is done, 0 to 1.

    Returns:
        What was measured; where Ctrl-C came, with what there was until then.

    Raises:
        errors.PolicyError: what `infer` raises; the policy may not be there, or may go.
    """
    with ExitStack() as stack:
        near = stack.enter_context(connect())
        about = near.get_server_metadata()
        observation = make_observation(about.get("observation"))
        near.infer(observation)  # an answer tells whether memory can be shared
        clients = {MEMORY: near} if near.uses_shared_memory else {}
        for codec in WAYS:
            client = connect(image_codec=codec, shared_memory=False)
            clients[codec] = stack.enter_context(client)
        pings = [_milliseconds(near.ping) for _ in range(_PINGS)]
        answers = _ask_in_turns(clients, observation, seconds, progress)
    ways = [
        _summary(name, answers[name], _bytes(observation, name))
        for name in clients
        if answers[name]
    ]
    found = Measurement(
        str(about.get("env", about.get("robot", ""))), statistics.median(pings), ways
    )
    found.link_mbit_per_s = _rate(ways)
    found.advice = advice(ways)
    return found


def _ask_in_turns(
    clients: dict[str, ZmqPolicyClient],
    observation: dict[str, Any],
    seconds: float,
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in clients}
    started, turn = time.monotonic(), 0
    try:
        for client in clients.values():
            client.infer(observation)  # a connection's first request says little
        while turn < _FEWEST or time.monotonic() - started < seconds:
            for name, client in clients.items():
                answers[name].append(client.infer(observation))
                progress(min(1.0, (time.monotonic() - started) / seconds))
            turn += 1
    except KeyboardInterrupt:
        pass  # what was measured until now is shown
    return answers


def _summary(name: str, answers: list[dict[str, Any]], size: int) -> Way:
    totals = sorted(answer["client_timing"]["total_ms"] for answer in answers)
    stages = [
        {
            "encode": answer["client_timing"]["encode_ms"],
            "network": answer["client_timing"]["network_ms"],
            "queue": answer["server_timing"].get("queue_ms", 0.0),
            "worker": answer["server_timing"].get("worker_ms", 0.0),
            "decode": answer["client_timing"]["decode_ms"],
        }
        for answer in answers
    ]
    medians = {stage: statistics.median([each[stage] for each in stages]) for stage in stages[0]}
    p95 = totals[min(len(totals) - 1, int(0.95 * len(totals)))]
    return Way(name, size, statistics.median(totals), p95, medians, len(totals))


def _bytes(observation: dict[str, Any], way: str) -> int:
    if way == MEMORY:
        return len(encode_body(observation)[0])
    return sum(len(frame) for frame in encode_body(ImageEncoder(way).encode(observation)))


def _rate(ways: list[Way]) -> float | None:
    """Megabits a second, by what more bytes take longer in the network."""
    found = {way.name: way for way in ways}
    if "raw" not in found or "jpeg" not in found:
        return None
    raw, jpeg = found["raw"], found["jpeg"]
    longer_ms = raw.stages_ms["network"] - jpeg.stages_ms["network"]
    if longer_ms < _TELLING_MS:
        return None
    return (raw.bytes - jpeg.bytes) * 8 / longer_ms / 1e3


def advice(ways: list[Way]) -> str:
    """One sentence on what to set."""
    found = {way.name: way for way in ways}
    usual = found.get(MEMORY) or found.get("raw")
    if usual is None:
        return "Nothing was measured: let it run longer."
    best = min(ways, key=lambda way: way.p50_ms)
    if best is not usual and best.p50_ms < _WORTH * usual.p50_ms:
        setting = "shared_memory=False" if best.name == "raw" else f'image_codec="{best.name}"'
        return (
            f"Use ZmqPolicyClient(..., {setting}): an answer then takes {best.p50_ms:.1f} ms "
            f"instead of {usual.p50_ms:.1f}."
        )
    if usual.stages_ms["worker"] > _POLICYS * usual.p50_ms:
        return "Leave everything as it is: what the robot waits for is the policy, not the link."
    if usual.name == MEMORY:
        return "Leave everything as it is: images stay in memory that the worker reads."
    return "Leave images as they are: on this link no codec saves a tenth of the time."


def make_observation(form: Any) -> dict[str, Any]:
    """An observation as the policy's metadata describe it; three images where they do not.

    Raises:
        BadObservation: the metadata describe a field of which nothing is known.
    """
    rng = np.random.default_rng(0)
    if not isinstance(form, dict):
        images = {f"image_{number}": _picture((SIDE, SIDE), rng) for number in range(3)}
        return {**images, "state": np.zeros(8, np.float32), "prompt": "pick up the cube"}
    return {key: _value(key, about, rng) for key, about in form.items()}


def _value(key: str, about: Any, rng: np.random.Generator) -> Any:
    if not isinstance(about, dict):
        raise BadObservation(f"the policy's metadata describe {key} as {about!r}, not as a field")
    if "shape" not in about:
        return {inner: _value(f"{key}/{inner}", each, rng) for inner, each in about.items()}
    shape = about["shape"]
    if about.get("dtype") == "str":
        return "pick up the cube"
    if len(shape) == 3:
        picture = _picture((SIDE, SIDE), rng)
        return np.ascontiguousarray(picture.transpose(2, 0, 1)) if shape[0] == 3 else picture
    return np.zeros(shape, np.float32)


def _picture(size: Any, rng: np.random.Generator) -> Any:
    """A table in slanting light with coloured discs on it, uint8 (H, W, 3), with some noise."""
    height, width = size
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    light = 90.0 + 70.0 * across + 30.0 * down
    picture = light[..., np.newaxis] * np.array([1.0, 0.9, 0.75])
    for _ in range(_DISCS):
        x, y, radius = rng.random(), rng.random(), rng.uniform(0.03, 0.12)
        inside = (across - x) ** 2 + (down - y) ** 2 < radius**2
        picture[inside] = 0.5 * picture[inside] + rng.uniform(0.0, 128.0, 3)
    picture += rng.normal(0.0, _GRAIN, picture.shape)
    return np.clip(picture, 0.0, 255.0).astype(np.uint8)


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3
