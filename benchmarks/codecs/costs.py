"""Bytes and time of each codec, for pictures of three kinds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.codecs import CODECS, Picture
from tests.golden import cases
from worker.images import decode_image

SIZES = {"224 x 224": (224, 224), "640 x 480": (480, 640)}
_TIMES = 30


@dataclass(frozen=True)
class Cost:
    """One codec on one picture: bytes of one image, and the medians of one core's microseconds."""

    picture: str
    size: str
    codec: str
    bytes: int
    encode_us: float
    decode_us: float


def costs() -> Iterator[Cost]:
    """A row for each picture, size and codec, and one for the array itself."""
    for name, make in PICTURES.items():
        for size, (height, width) in SIZES.items():
            picture = make(height, width)
            yield Cost(name, size, "raw", picture.nbytes, 0.0, 0.0)
            for codec in CODECS:
                data = codec.encode(picture)
                encode_us = _median_us(partial(codec.encode, picture))
                decode_us = _median_us(partial(decode_image, data, "image"))
                yield Cost(name, size, codec.name, len(data), encode_us, decode_us)


def _median_us(run: Callable[[], object]) -> float:
    spent = []
    for _ in range(_TIMES):
        # Of this thread alone: other processes on the machine do not count.
        started = time.thread_time()
        run()
        spent.append((time.thread_time() - started) * 1e6)
    return statistics.median(spent)


def _simulator(height: int, width: int) -> Picture:
    """The ALOHA simulator's table, as its top camera sees it."""
    import gym_aloha  # noqa: F401 - registers its environments
    import gymnasium

    environment = gymnasium.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")
    observation, _ = environment.reset(seed=0)
    environment.close()
    return _resized(observation["pixels"]["top"], height, width)


def _photograph(height: int, width: int) -> Picture:
    """A portrait that matplotlib brings: it has been a JPEG before, with grain and fine texture."""
    import matplotlib
    from PIL import Image

    folder = Path(matplotlib.get_data_path()) / "sample_data"
    with Image.open(folder / "grace_hopper.jpg") as file:
        return _resized(np.array(file.convert("RGB")), height, width)


def _golden(height: int, width: int) -> Picture:
    """A golden observation's image: strong colours, without fine texture."""
    return _resized(cases("pi05_libero")[0].observation["observation/image"], height, width)


def _resized(picture: Picture, height: int, width: int) -> Picture:
    from PIL import Image

    return np.array(Image.fromarray(picture).resize((width, height)))


PICTURES: dict[str, Callable[[int, int], Picture]] = {
    "simulator": _simulator,
    "photograph": _photograph,
    "golden": _golden,
}
