"""Images are resized as the public client does it.

`tests/e2e/test_openpi.py` compares with that client itself; here the reference is written out
from its description, and the public system's own results are in `tests/golden`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from client.image_tools import convert_to_uint8, resize_with_pad

Picture = npt.NDArray[np.uint8]
SIZES = [(480, 640), (640, 480), (224, 224), (100, 50), (225, 224), (7, 300), (1, 1), (720, 1280)]


def random_picture(*shape: int) -> Picture:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def reference(picture: Picture, height: int, width: int) -> Picture:
    """Shrink or grow to fit, bilinear, pasted into the middle of a black picture."""
    image = Image.fromarray(picture)
    ratio = max(image.width / width, image.height / height)
    fitted = image.resize(
        (int(image.width / ratio), int(image.height / ratio)), Image.Resampling.BILINEAR
    )
    canvas = Image.new("RGB", (width, height))
    canvas.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    return np.asarray(canvas)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(224, 224), (180, 320)])
def test_resize(size: tuple[int, int], target: tuple[int, int]) -> None:
    picture = random_picture(*size, 3)
    resized = resize_with_pad(picture, *target)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, reference(picture, *target))


def test_leading_axes_stay() -> None:
    pictures = random_picture(2, 3, 48, 64, 3)
    resized = resize_with_pad(pictures, 32, 32)
    assert resized.shape == (2, 3, 32, 32, 3)
    np.testing.assert_array_equal(resized[1, 2], reference(pictures[1, 2], 32, 32))


def test_the_right_size_is_returned_as_it_came() -> None:
    picture = random_picture(224, 224, 3)
    assert resize_with_pad(picture, 224, 224) is picture


def test_a_side_that_would_vanish() -> None:
    with pytest.raises(ValueError, match="0"):
        resize_with_pad(random_picture(1, 1000, 3), 224, 224)


def test_floats_become_bytes_by_truncation() -> None:
    image = np.array([0.0, 0.5, 0.999, 1.0], np.float32)
    converted = convert_to_uint8(image)
    assert converted.dtype == np.uint8
    assert converted.tolist() == [0, 127, 254, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.bool_])
def test_anything_but_floats_is_returned_as_it_came(dtype: type[np.generic]) -> None:
    image = np.zeros((2, 2, 3), dtype)
    assert convert_to_uint8(image) is image
