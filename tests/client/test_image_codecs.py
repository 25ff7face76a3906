"""Which arrays a robot compresses, into what, and what stays untouched."""

from __future__ import annotations

import io
import os
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.body import LARGE, decode_body, encode_body
from client.image_codecs import LAYOUT, MARK, ImageEncoder

RAMP = np.add.outer(np.arange(48), np.arange(64))[..., None] + np.array([0, 50, 100])
PICTURE = RAMP.astype(np.uint8)  # (48, 64, 3)


def decoded(marked: Any) -> Any:
    file = Image.open(io.BytesIO(bytes(marked[MARK])))
    pixels = np.asarray(file)
    return pixels.transpose(2, 0, 1) if marked[LAYOUT] == "chw" else pixels


def encode(observation: Any, codec: str = "png", quality: int = 95) -> Any:
    encoder = ImageEncoder(codec, quality)
    try:
        return encoder.encode(observation)
    finally:
        encoder.close()


@pytest.mark.parametrize("cores", [1, 2])
def test_images_are_encoded_at_once_where_there_are_cores_for_it(cores: int) -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < cores:
        pytest.skip("this machine has one core")
    before = set(threading.enumerate())
    encoder = ImageEncoder("png")
    os.sched_setaffinity(0, sorted(allowed)[:cores])  # of this thread alone
    try:
        marked = encoder.encode({"left": PICTURE, "right": PICTURE[::-1]})
        started = set(threading.enumerate()) - before
    finally:
        os.sched_setaffinity(0, allowed)
        encoder.close()
    assert bool(started) is (cores > 1)
    np.testing.assert_array_equal(decoded(marked["left"]), PICTURE)
    np.testing.assert_array_equal(decoded(marked["right"]), PICTURE[::-1])


def test_raw_leaves_everything_as_it_is() -> None:
    observation = {"image": PICTURE}
    assert encode(observation, "raw") is observation


@pytest.mark.parametrize("pixels", [PICTURE, PICTURE.transpose(2, 0, 1), PICTURE[::2, ::-1]])
def test_png_loses_nothing_in_either_layout(pixels: Any) -> None:
    marked = encode({"image": pixels})["image"]
    assert marked[MARK][:4] == b"\x89PNG"
    np.testing.assert_array_equal(decoded(marked), pixels)


def test_an_image_of_height_three_comes_back_in_its_own_shape() -> None:
    pixels = PICTURE[:3]
    np.testing.assert_array_equal(decoded(encode({"image": pixels})["image"]), pixels)


def test_jpeg_is_close_and_closer_with_more_quality() -> None:
    errors = []
    for quality in (10, 95):
        marked = encode({"image": PICTURE}, "jpeg", quality)["image"]
        assert marked[MARK][:3] == b"\xff\xd8\xff"
        errors.append(np.abs(decoded(marked).astype(int) - PICTURE).mean())
    assert errors[1] < 2.0 < errors[0]


def test_images_are_found_in_nested_dicts_in_their_own_places() -> None:
    observation = {"images": {"high": PICTURE, "low": PICTURE[::-1]}, "wrist": PICTURE[:, ::-1]}
    encoded = encode(observation)
    np.testing.assert_array_equal(decoded(encoded["images"]["high"]), PICTURE)
    np.testing.assert_array_equal(decoded(encoded["images"]["low"]), PICTURE[::-1])
    np.testing.assert_array_equal(decoded(encoded["wrist"]), PICTURE[:, ::-1])


def test_the_robots_own_observation_is_not_changed() -> None:
    inner = {"high": PICTURE}
    observation = {"images": inner, "prompt": "go"}
    encode(observation)
    assert observation == {"images": inner, "prompt": "go"}
    assert inner["high"] is PICTURE


def test_everything_else_stays_the_same_object() -> None:
    others: dict[str, Any] = {
        "state": np.zeros(14, np.float32),
        "depth": np.zeros((48, 64, 3), np.float32),
        "mask": np.zeros((48, 64), np.uint8),
        "clip": np.zeros((2, 48, 64, 3), np.uint8),
        "five channels": np.zeros((48, 64, 5), np.uint8),
        "no pixels": np.zeros((0, 64, 3), np.uint8),
        "too long for a file": np.zeros((1, 70_000, 3), np.uint8),
        "compressed by the camera": b"\xff\xd8\xff...",
        "prompt": "go",
    }
    encoded = encode({**others, "image": PICTURE})
    assert all(encoded[key] is value for key, value in others.items())


def test_what_holds_no_image_or_is_no_observation_is_returned_as_it_came() -> None:
    for given in ({"state": np.zeros(3)}, {}, None, [1], "text"):
        assert encode(given) is given


def test_many_images_keep_their_order() -> None:
    pictures = {f"camera {i}": np.full((32, 32, 3), i, np.uint8) for i in range(20)}
    encoder = ImageEncoder("png")
    for _ in range(3):
        encoded = encoder.encode(pictures)
        for name, pixels in pictures.items():
            np.testing.assert_array_equal(decoded(encoded[name]), pixels)
    encoder.close()


def test_a_large_file_travels_as_a_buffer_of_its_own() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    frames = encode_body(encode({"image": noise, "small": PICTURE}))
    assert len(frames) == 2
    assert len(frames[1]) > LARGE
    body = decode_body(frames)
    np.testing.assert_array_equal(decoded(body["image"]), noise)
    np.testing.assert_array_equal(decoded(body["small"]), PICTURE)


def test_it_can_be_used_after_close() -> None:
    encoder = ImageEncoder("png")
    for _ in range(2):
        assert encoder.encode({"a": PICTURE, "b": PICTURE})["b"][LAYOUT] == "hwc"
        encoder.close()


@pytest.mark.parametrize(
    ("codec", "quality", "complaint"),
    [
        ("webp", 95, "image_codec is 'webp': raw, jpeg, png are known"),
        ("", 95, "image_codec"),
        ("jpeg", 0, "jpeg_quality is 0: 1 to 100"),
        ("jpeg", 101, "jpeg_quality"),
    ],
)
def test_wrong_settings_are_named(codec: str, quality: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ImageEncoder(codec, quality)
