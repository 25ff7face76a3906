"""Compressed images at the worker: decoded into their places, or refused by name."""

from __future__ import annotations

import io
import queue
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.body import decode_body, encode_body
from client.errors import BadObservation
from client.image_codecs import ImageEncoder
from worker.images import MAX_PIXELS, ImageDecoder, decode_image

RAMP = np.add.outer(np.arange(48), np.arange(64))[..., None] + np.array([0, 50, 100])
PICTURE = RAMP.astype(np.uint8)  # (48, 64, 3)
WAIT_S = 60.0


def file_of(pixels: Any, form: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class Decoding:
    """A decoder, and what it says at last."""

    def __init__(self) -> None:
        layouts = {("image",): "hwc", ("images", "high"): "chw"}
        self.decoder = ImageDecoder(layouts)

    def __call__(self, observation: dict[str, Any]) -> Any:
        said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        assert self.decoder.decode(observation, said.put)
        result = said.get(timeout=WAIT_S)
        assert said.empty()
        return result


@pytest.fixture(scope="module")
def decode() -> Iterator[Decoding]:
    decoding = Decoding()
    yield decoding
    decoding.decoder.close()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_lossless_files_give_their_pixels(form: str) -> None:
    data = file_of(PICTURE, form, lossless=True)
    np.testing.assert_array_equal(decode_image(data, "image"), PICTURE)


def test_jpeg_gives_nearly_its_pixels() -> None:
    pixels = decode_image(file_of(PICTURE, "JPEG", quality=95), "image")
    assert pixels.dtype == np.uint8
    assert pixels.shape == PICTURE.shape
    assert np.abs(pixels.astype(int) - PICTURE).mean() < 2.0


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_in_any_form(kind: Any) -> None:
    np.testing.assert_array_equal(decode_image(kind(file_of(PICTURE)), "image"), PICTURE)


def test_bytes_as_ros_has_them() -> None:
    data = np.frombuffer(file_of(PICTURE), np.uint8)
    np.testing.assert_array_equal(decode_image(data, "image"), PICTURE)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_other_kinds_of_colour_become_rgb(mode: str) -> None:
    data = file_of(PICTURE, mode=mode)
    expected = np.asarray(Image.fromarray(PICTURE).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, "image"), expected)


def test_pixels_may_be_written() -> None:
    decode_image(file_of(PICTURE), "image")[0, 0] = 0


def test_sixteen_bits_a_channel_are_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(file, "PNG")
    with pytest.raises(BadObservation, match=r"^depth: expected 8 bits a channel, got a PNG"):
        decode_image(file.getvalue(), "depth")


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 100, b"GIF89a" + bytes(50), b"BM" + bytes(50), b"RIFF1234WAVE", b"%PDF"]
)
def test_other_files_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(BadObservation, match=r"^wrist: expected a JPEG, PNG or WebP image, got"):
        decode_image(data, "wrist")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_file_cut_short_is_refused_by_name(form: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    data = file_of(noise, form)
    with pytest.raises(BadObservation, match=f"^wrist: a damaged {form} image"):
        decode_image(data[: int(part * len(data))], "wrist")


@pytest.mark.parametrize("size", [(5_000, 5_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_file_that_promises_too_much_is_not_decoded(size: tuple[int, int]) -> None:
    data = bomb(*size)
    assert len(data) < 1000
    with pytest.raises(BadObservation, match="^wrist: "):
        decode_image(data, "wrist")


def test_the_largest_image_is_taken() -> None:
    pixels = np.zeros((1000, MAX_PIXELS // 1000, 3), np.uint8)
    assert decode_image(file_of(pixels), "image").shape == pixels.shape


def test_raw_files_are_decoded_where_the_policy_takes_images(decode: Decoding) -> None:
    observation = {"image": file_of(PICTURE), "images": {"high": file_of(PICTURE)}, "prompt": "go"}
    decoded = decode(observation)
    np.testing.assert_array_equal(decoded["image"], PICTURE)
    np.testing.assert_array_equal(decoded["images"]["high"], PICTURE.transpose(2, 0, 1))
    assert decoded["prompt"] == "go"


def test_bytes_elsewhere_are_the_policys_own(decode: Decoding) -> None:
    observation = {"image": file_of(PICTURE), "blob": file_of(PICTURE), "more": {"image": b"x"}}
    decoded = decode(observation)
    assert decoded["blob"] is observation["blob"]
    assert decoded["more"] is observation["more"]


def test_marked_images_are_decoded_anywhere_in_the_shape_they_had(decode: Decoding) -> None:
    sent = {
        "anything": PICTURE,
        "deep": {"er": {"image": PICTURE.transpose(2, 0, 1), "state": np.zeros(3)}},
    }
    encoder = ImageEncoder("png")
    decoded = decode(decode_body(encode_body(encoder.encode(sent))))
    encoder.close()
    np.testing.assert_array_equal(decoded["anything"], sent["anything"])
    np.testing.assert_array_equal(decoded["deep"]["er"]["image"], PICTURE.transpose(2, 0, 1))
    np.testing.assert_array_equal(decoded["deep"]["er"]["state"], np.zeros(3))


def test_the_observation_that_came_is_not_changed(decode: Decoding) -> None:
    data = file_of(PICTURE)
    inner = {"high": data}
    observation = {"images": inner}
    decode(observation)
    assert observation == {"images": inner}
    assert inner["high"] is data


def test_nothing_is_done_where_nothing_is_encoded(decode: Decoding) -> None:
    observation = {"image": PICTURE, "images": {"high": PICTURE}, "prompt": "go", "blob": b"x"}
    assert not decode.decoder.decode(observation, lambda result: pytest.fail("called"))


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"images": {"high": b"broken"}}, "images/high: expected a JPEG"),
        ({"image": file_of(PICTURE), "images": {"high": b"broken"}}, "images/high: expected"),
        ({"image": file_of(PICTURE)[:60]}, "image: a damaged PNG image"),
        ({"x": {"__image__": None}}, "x: expected a JPEG"),
        ({"x": {"__image__": [1], "layout": "hwc"}}, "x: expected a JPEG"),
        ({"x": {"__image__": file_of(PICTURE), "layout": "whc"}}, "x: expected an image's layout"),
        ({"x": {"__image__": file_of(PICTURE), "layout": 7}}, "x: expected an image's layout"),
        ({1: {2: {"__image__": b""}}}, "1/2: expected a JPEG"),
    ],
)
def test_the_faulty_one_is_named(observation: Any, message: str, decode: Decoding) -> None:
    error = decode(observation)
    assert isinstance(error, BadObservation)
    assert str(error).startswith(message)


def test_many_bombs_together_are_refused_before_any_is_decoded(decode: Decoding) -> None:
    one = bomb(3000, 3000)  # 9 million pixels, each within the limit
    error = decode({"all": {str(i): {"__image__": one} for i in range(200)}})
    assert isinstance(error, BadObservation)
    assert "together" in str(error)


def test_several_faulty_images_are_one_error(decode: Decoding) -> None:
    data = file_of(PICTURE)[:-30]
    for _ in range(20):
        error = decode({str(i): {"__image__": data} for i in range(8)})
        assert isinstance(error, BadObservation)


def test_decoding_is_not_done_by_the_thread_that_asks(decode: Decoding) -> None:
    threads: queue.SimpleQueue[str] = queue.SimpleQueue()
    decode.decoder.decode(
        {"image": file_of(PICTURE)}, lambda _: threads.put(threading.current_thread().name)
    )
    assert threads.get(timeout=WAIT_S).startswith("image decoder")


FILES = [
    file_of(PICTURE),
    file_of(PICTURE, "JPEG"),
    file_of(PICTURE, "JPEG", progressive=True),
    file_of(PICTURE, "WEBP"),
]


@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(8, 2000), st.binary(min_size=1, max_size=8)), max_size=5),
)
def test_damage_of_any_kind_ends_in_an_image_or_in_its_name(
    data: bytes, damage: list[tuple[int, bytes]]
) -> None:
    for position, bytes_ in damage:
        data = data[:position] + bytes_ + data[position + len(bytes_) :]
    try:
        pixels = decode_image(data, "wrist")
    except BadObservation as error:
        is_named = str(error).startswith("wrist: ")
        assert is_named
    else:
        assert pixels.dtype == np.uint8
        assert (pixels.ndim, pixels.shape[2]) == (3, 3)
