from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.errors import BadObservation
from client.image_codecs import LAYOUT, MARK
from scripts.recording.observation_parts import chunk_of, split
from scripts.simple_client.examples import EXAMPLES, make_example
from tests.scripts.recording.exchanges import picture


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


@pytest.mark.parametrize("env", EXAMPLES)
def test_every_robots_observation_has_its_pictures_and_vectors(env: str) -> None:
    observation = make_example(env, 1)
    parts = split(observation)
    cameras = len(observation.get("images", ())) or sum("image" in key for key in observation)
    assert len(parts.pictures) == cameras
    assert {each.size() for each in parts.pictures.values()} == {(224, 224)}
    assert parts.vectors
    assert parts.prompt == observation.get("prompt", "")


def test_names_lose_the_folders_around_them_unless_two_would_be_the_same() -> None:
    parts = split(
        {
            "observation/wrist_image": picture(1),
            "images": {"top": picture(2), "state": picture(3)},
            "observation": {"state": np.zeros(2)},
        }
    )
    assert parts.pictures.keys() == {"wrist_image", "top", "images.state"}
    assert parts.vectors.keys() == {"observation.state"}


@pytest.mark.parametrize(
    "value",
    [
        png(picture(3)),
        np.frombuffer(png(picture(3)), np.uint8),
        {MARK: png(picture(3)), LAYOUT: "chw"},
        picture(3),
        np.moveaxis(picture(3), -1, 0),
        picture(3).astype(np.float32) / 255.0,
    ],
    ids=["file", "file in an array", "marked", "array", "colours first", "floats"],
)
def test_a_picture_is_the_same_in_every_form(value: Any) -> None:
    found = split({"top": value}).pictures["top"]
    assert found.size() == (24, 32)
    assert np.abs(found.pixels().astype(int) - picture(3)).max() <= 1


@pytest.mark.parametrize(
    "value",
    ["a text", None, b"no image", np.zeros((4, 4)), np.zeros((8, 8, 3), np.uint16), [], ["a"], {}],
)
def test_what_is_no_picture_and_no_vector_is_left_out(value: Any) -> None:
    parts = split({"it": value})
    assert not parts.pictures
    assert not parts.vectors


def test_settings_of_the_answer_are_no_state() -> None:
    sent = {"seed": 3, "noise": np.zeros((5, 3)), "prev_actions": np.zeros((5, 3))}
    assert not split({**sent, "inference_delay": 2}).vectors


def test_numbers_become_vectors() -> None:
    vectors = split({"list": [1, 2.5], "number": 3, "array": np.array([1, 2], np.int64)}).vectors
    assert {name: vector.tolist() for name, vector in vectors.items()} == {
        "list": [1.0, 2.5],
        "number": [3.0],
        "array": [1.0, 2.0],
    }
    assert {vector.dtype for vector in vectors.values()} == {np.dtype(np.float32)}


def test_a_damaged_picture_is_named() -> None:
    found = split({"images": {"top": png(picture(3))[:30]}}).pictures["top"]
    with pytest.raises(BadObservation, match="images/top"):
        found.pixels()


@pytest.mark.parametrize(
    ("result", "shape"),
    [
        (None, None),
        ({}, None),
        ({"actions": "none"}, None),
        ({"actions": np.zeros((0, 3))}, None),
        ({"actions": np.zeros((2, 5, 3))}, None),
        ({"actions": np.zeros(3)}, (1, 3)),
        ({"actions": np.zeros((5, 3))}, (5, 3)),
    ],
)
def test_only_rows_of_numbers_are_a_chunk(result: Any, shape: tuple[int, int] | None) -> None:
    chunk = chunk_of(result)
    assert (None if chunk is None else chunk.shape) == shape
