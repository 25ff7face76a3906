"""What the page shows of a robot: pictures made small, numbers that JSON has, never an error."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.gateway.view import view


def encoded(pixels: np.ndarray[Any, Any], kind: str) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()


def shown(picture: Any) -> Image.Image:
    (image,) = view({"images": {"cam": picture}}, None)["images"]
    assert image["name"] == "images/cam"
    return Image.open(io.BytesIO(base64.b64decode(image["source"].partition(",")[2])))


RED = np.zeros((480, 640, 3), np.uint8)
RED[..., 0] = 255


@pytest.mark.parametrize(
    "picture",
    [
        RED,
        np.moveaxis(RED, -1, 0),
        (RED / 255.0).astype(np.float32),
        encoded(RED, "JPEG"),
        encoded(RED, "PNG"),
        np.frombuffer(encoded(RED, "PNG"), np.uint8),
        {"__image__": encoded(RED, "PNG"), "layout": "hwc"},
    ],
    ids=["hwc", "chw", "floats", "jpeg", "png", "png as an array", "declared"],
)
def test_a_picture_of_any_form_is_shown(picture: Any) -> None:
    image = shown(picture).convert("RGB")
    red, green, blue = image.getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
    assert red > 240
    assert green < 20
    assert blue < 20


def test_a_large_picture_is_made_small() -> None:
    assert shown(np.zeros((1080, 1920, 3), np.uint8)).width == 320


def test_numbers_are_what_json_has() -> None:
    told = view(
        {"state": np.array([1.0, np.nan]), "grip": [0.5, 1], "prompt": "fold", "n": 3},
        np.array([[0.1, np.inf], [0.2, 0.3]], np.float32),
    )
    assert told["states"] == [
        {"name": "state", "values": [1.0, None]},
        {"name": "grip", "values": [0.5, 1.0]},
    ]
    assert told["texts"] == [{"name": "prompt", "text": "fold"}]
    assert told["actions"] == [[0.1, None], [0.2, 0.3]]
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(
    "odd",
    [
        np.zeros((2, 2, 3), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((100, 100, 4), np.uint8),
        np.zeros((3, 3, 3, 3), np.uint8),
        np.zeros((20, 20, 3), "U1"),
        np.full((20, 20, 3), np.nan),
        np.zeros((20, 20, 3), bool),
        b"not a picture",
        np.zeros(5000, np.uint8),
        {"__image__": 5},
        None,
        ["a", 1],
        np.array("text"),
    ],
)
def test_whatever_else_there_is_makes_no_error(odd: Any) -> None:
    told = view({"odd": odd}, np.zeros((0, 14)))
    assert told["actions"] == []
    json.dumps(told, allow_nan=False)


def test_there_is_never_too_much_of_it() -> None:
    many = {f"cam{number}": RED for number in range(50)}
    told = view({**many, "state": np.zeros(10_000)}, np.zeros((5000, 500)))
    assert len(told["images"]) == 8
    assert len(told["states"][-1]["values"]) == 64
    assert (len(told["actions"]), len(told["actions"][0])) == (200, 64)
