"""A policy of the pi0 family takes images as cameras compress them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from benchmarks.codecs import with_images
from client.body import decode_body, encode_body
from client.errors import BadObservation
from tests.golden import cases, overrides
from tests.worker.composition import make_policy
from worker.robots.observations import Image

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def png(picture: Any) -> bytes:
    file = io.BytesIO()
    pixels = picture.transpose(1, 2, 0) if picture.shape[0] == 3 else picture
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("kind", [bytes, lambda data: np.frombuffer(data, np.uint8)])
def test_a_file_is_understood_where_an_array_is(channels_last: bool, kind: Any) -> None:
    image = Image(("wrist",), "base_0_rgb", channels_last=channels_last)
    np.testing.assert_array_equal(image.parse(kind(png(PICTURE))), PICTURE)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (b"", "images/wrist: expected a JPEG, PNG or WebP image, got 0 bytes"),
        (png(PICTURE)[:200], "images/wrist: a damaged PNG image"),
        (png(np.zeros((1, 1000, 3), np.uint8)), "images/wrist: expected an image of shape"),
        ("text", "images/wrist: expected an image of shape"),
    ],
)
def test_what_is_no_image_is_refused_by_its_key(value: Any, complaint: str) -> None:
    with pytest.raises(BadObservation, match=complaint):
        Image(("images", "wrist"), "base_0_rgb").parse(value)


@pytest.mark.parametrize("checkpoint", ["pi0_aloha", "pi05_libero"])
def test_lossless_files_give_the_same_actions_to_the_bit(checkpoint: str) -> None:
    policy = make_policy(*overrides(checkpoint))
    policy.load()
    case = cases(checkpoint)[0]
    sent = {**case.observation, "noise": case.noise}
    expected = policy.infer(sent)["actions"]
    as_files = with_images(sent, png)
    np.testing.assert_array_equal(policy.infer(as_files)["actions"], expected)


def test_the_policy_says_where_it_takes_images() -> None:
    aloha = make_policy(*overrides("pi0_aloha"))
    assert aloha.image_layouts["images", "cam_high"] == "chw"
    libero = make_policy(*overrides("pi05_libero"))
    assert libero.image_layouts["observation/wrist_image",] == "hwc"


def test_a_policy_leaves_its_observation_alone() -> None:
    policy = make_policy(*overrides("pi0_aloha"))
    policy.load()
    case = cases("pi0_aloha")[0]
    body = encode_body({**case.observation, "noise": case.noise})
    read_only = decode_body([memoryview(bytes(frame)) for frame in body])
    assert not read_only["images"]["cam_high"].flags.writeable
    np.testing.assert_array_equal(
        policy.infer(read_only)["actions"],
        policy.infer({**case.observation, "noise": case.noise})["actions"],
    )
