"""A drawing on a page is prepared as `nnjax predict` prepares a picture of it."""

import numpy as np
import pytest
from javascript import evaluate

from nnjax.data.image_format import ImageFormat
from nnjax.data.images import prepare

SIDE = 128  # of the drawing in the page


def drawings():
    """Lines of several widths, thick and thin, with and without grey edges."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(0)
    for i in range(8):
        picture = Image.new("L", (SIDE, SIDE), 255)
        for _ in range(1 + i % 3):
            steps = rng.normal(0, 14, (rng.integers(2, 10), 2))
            points = np.cumsum(np.vstack([rng.integers(24, 104, 2), steps]), 0).clip(18, 110)
            width = int(rng.integers(4, 14))
            ImageDraw.Draw(picture).line([tuple(p) for p in points], 40 * (i % 2), width, "curve")
        yield np.asarray(picture)


def test_a_drawing_is_prepared_like_a_picture(tmp_path):
    pictures, shapes = list(drawings()), [(28, 28), (8, 8), (12, 20)]
    data = {"pictures": [p.ravel().tolist() for p in pictures], "shapes": shapes}
    expression = "DATA.pictures.map((p) => DATA.shapes.map((s) => Array.from(prepare(p, s))))"
    came = evaluate(["network.js", "picture.js"], expression, data, tmp_path)
    for picture, prepared in zip(pictures, came, strict=True):
        for shape, levels in zip(shapes, prepared, strict=True):
            expected = prepare(picture, shape).ravel().astype(int)
            assert np.abs(np.array(levels) - expected).max() <= 1  # a level, by rounding


def test_nothing_drawn_is_blank(tmp_path):
    data = {"levels": [255] * SIDE**2}
    scripts = ["network.js", "picture.js"]
    assert evaluate(scripts, "prepare(DATA.levels, [28, 28])", data, tmp_path) is None


@pytest.mark.parametrize("form", [ImageFormat("uint8", 250.0, 3.0), ImageFormat("float32", -1, 1)])
def test_levels_are_brought_to_the_form_of_the_training_images(tmp_path, form):
    levels = np.arange(256)
    data = {"levels": levels.tolist(), "form": form._asdict()}
    expression = "Array.from(converted(DATA.levels, DATA.form))"
    came = evaluate(["network.js", "picture.js"], expression, data, tmp_path)
    expected = form.converted(levels.astype(np.uint8))
    scale = 255 if form.dtype == "uint8" else 1  # the network reads grey levels as 0 to 1
    np.testing.assert_allclose(came, expected / scale, rtol=1e-7)
