"""What training images are is measured, and pictures are brought to their form."""

import numpy as np
import pytest

from nnjax.data import load
from nnjax.data.image_format import ImageFormat, require_scale


@pytest.fixture(scope="module")
def digits():
    return load("digits").train[0]


FORMS = {
    "grey levels": (lambda x: np.rint(255 * x).astype(np.uint8), ("uint8", 0, 255)),
    "0 to 1": (lambda x: x, ("float32", 0, 1)),
    "0 to 16": (lambda x: 16 * x, ("float32", 0, 16)),
    "dark on light": (lambda x: 1 - x, ("float32", 1, 0)),
    "dark on light, whole": (lambda x: np.rint(255 - 255 * x).astype(np.uint8), ("uint8", 255, 0)),
    "-1 to 1": (lambda x: 2 * x - 1, ("float32", -1, 1)),
    "standardised": (lambda x: (x - 0.3) / 0.4, ("float32", -0.75, 1.75)),
    "with noise": (
        lambda x: x + np.random.default_rng(0).normal(0, 0.02, x.shape).astype(np.float32),
        ("float32", 0, 1),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_recognised_and_restored(digits, name):
    change, (dtype, paper, ink) = FORMS[name]
    x = change(digits)
    found = ImageFormat.of(x)
    assert found.dtype == dtype
    np.testing.assert_allclose((found.paper, found.ink), (paper, ink), atol=0.1)
    back = found.converted(np.rint(255 * digits).astype(np.uint8))
    assert back.dtype == x.dtype
    span = abs(ink - paper)
    np.testing.assert_allclose(back.astype(float), x.astype(float), atol=0.12 * span)


def test_grey_levels_as_in_mnist_stay_as_they_are():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(ImageFormat("uint8", 0.0, 255.0).converted(levels), levels)


@pytest.mark.parametrize("name", ["by pixel", "photographs", "constant", "grey background"])
def test_forms_that_a_picture_cannot_be_brought_to(digits, name):
    x = {
        "by pixel": (digits - digits.mean(0)) / (digits.std(0) + 1e-6),
        "photographs": np.random.default_rng(0).random((50, 8, 8, 3), np.float32),
        "constant": np.ones((5, 8, 8, 1), np.float32),
        "grey background": digits * np.where(np.arange(8) % 2, 1, -1)[:, None].astype(np.float32),
    }[name]
    with pytest.raises(ValueError, match="cannot be brought to the form of the training images"):
        ImageFormat.of(x).converted(np.zeros((8, 8, 1), np.uint8))


@pytest.mark.parametrize(
    ("scale", "dtype", "message"),
    [
        (255, np.float32, "real numbers should lie between about 0 and 1, and these reach 255"),
        (16, np.uint8, "grey levels 0 to 255, and these reach only 16; store x / 16 as float32"),
        (1, np.uint8, "these reach only 1"),
    ],
)
def test_scales_that_cannot_be_meant(digits, scale, dtype, message):
    with pytest.raises(ValueError, match=f"^here: .*{message}"):
        require_scale(np.rint(scale * digits).astype(dtype), "here")


@pytest.mark.parametrize("name", FORMS)
def test_scales_that_can_be_meant(digits, name):
    require_scale(FORMS[name][0](digits), "here")
    by_pixel = (digits - digits.mean(0)) / (digits.std(0) + 1e-3)  # has values far from 0
    require_scale(by_pixel, "here")
