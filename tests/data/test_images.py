"""Pictures that are drawn here, from digits that are known, must come back as those digits."""

import sys

import numpy as np
import pytest
from PIL import Image

from nnjax.data import load
from nnjax.data.images import prepare


@pytest.fixture(scope="module")
def digits():
    """Digits made as those of MNIST were, from scikit-learn's: black or white, then scaled to
    20x20, which turns the edges of the strokes grey, and centred by mass in 28x28."""
    x, y = load("digits").test
    digits = []
    for digit in x[:30]:
        levels = Image.fromarray(np.rint(255 * digit[..., 0]).astype(np.uint8))
        levels = levels.resize((240, 240), Image.Resampling.BICUBIC)
        levels = Image.eval(levels, lambda level: 255 * (level > 127))
        levels = levels.crop(levels.getbbox())
        scale = 20 / max(levels.size)
        size = (round(levels.width * scale), round(levels.height * scale))
        levels = np.asarray(levels.resize(size, Image.Resampling.BOX))
        frame = np.zeros((28, 28), np.uint8)
        corner = [
            round(14 - levels.sum(1 - axis, dtype=float) @ np.arange(n) / levels.sum())
            for axis, n in enumerate(levels.shape)
        ]
        frame[corner[0] :, corner[1] :][: levels.shape[0], : levels.shape[1]] = levels
        digits.append(frame)
    return digits, y[:30]


def draw(digit, size, rng):
    """The digit `size` pixels high, white on black, anywhere on a large canvas."""
    picture = Image.fromarray(digit)
    picture = picture.crop(picture.getbbox())
    scale = size / max(picture.size)
    picture = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
    )
    height, width = rng.integers(size + 40, 3 * size + 60, 2)
    canvas = Image.new("L", (int(width), int(height)))
    corner = rng.integers(0, (width - picture.width, height - picture.height))
    canvas.paste(picture, tuple(int(c) for c in corner))
    return np.asarray(canvas)


def distance(prepared, digit):
    """Relative to the digit; one pixel of shift, for a centre of mass on the edge, is free."""
    prepared = prepared[..., 0].astype(float)
    return min(
        np.linalg.norm(np.roll(prepared, (i, j), (0, 1)) - digit)
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ) / np.linalg.norm(digit.astype(float))


def assert_come_back(digits, pictures, bound=0.25, share=0.95):
    prepared = [prepare(picture) for picture in pictures]
    assert all(p.shape == (28, 28, 1) and p.dtype == np.uint8 for p in prepared)
    distances = [distance(p, digit) for p, digit in zip(prepared, digits, strict=True)]
    assert np.median(distances) < bound
    # Each is nearest to the digit that it was, among all of them.
    nearest = [int(np.argmin([distance(p, digit) for digit in digits])) for p in prepared]
    assert np.mean(np.array(nearest) == np.arange(len(digits))) >= share


@pytest.mark.parametrize(
    ("size", "dark_on_light"),
    [
        (40, True),
        (133, False),
        (500, True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((40, False), (133, True))),
        pytest.param(500, False, marks=pytest.mark.slow),
    ],
)
def test_digits_of_any_size_come_back(digits, size, dark_on_light):
    rng = np.random.default_rng(size)
    pictures = [draw(digit, size, rng) for digit in digits[0]]
    assert_come_back(digits[0], [255 - p if dark_on_light else p for p in pictures], 0.15)


def test_prepared_digits_stay_as_they_are(digits):
    assert_come_back(digits[0], digits[0], 0.05)


def test_what_is_prepared_is_centred_and_fills_the_box(digits):
    rng = np.random.default_rng(0)
    for digit in digits[0]:
        prepared = prepare(draw(digit, 200, rng))[..., 0].astype(float)
        for axis in (0, 1):
            mass = prepared.sum(1 - axis)
            assert abs(mass @ np.arange(28) / mass.sum() - 14) <= 0.6
        rows, columns = np.nonzero(prepared)
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
        assert prepared.max() == 255


@pytest.mark.parametrize("margin", [0, 2, 8])
def test_a_thin_frame_is_not_ink(digits, margin):
    pictures = []
    for digit in digits[0]:
        picture = Image.fromarray(digit)
        picture = picture.crop(picture.getbbox())
        picture = picture.resize((5 * picture.width, 5 * picture.height), Image.Resampling.BICUBIC)
        inside = np.pad(255 - np.asarray(picture), margin, constant_values=255)
        pictures.append(np.pad(inside, 3))  # the digit touches the frame where there is no margin
    assert_come_back(digits[0], pictures, 0.15, share=0.95 if margin else 0.9)


@pytest.mark.parametrize("light_on_dark", [False, True])
@pytest.mark.slow
def test_uneven_light_and_noise_are_not_ink(digits, light_on_dark):
    rng = np.random.default_rng(1)
    pictures = []
    for digit in digits[0]:
        ink = draw(digit, 300, rng) / 255
        y, x = np.mgrid[: ink.shape[0], : ink.shape[1]] / max(ink.shape)
        paper = 0.9 - 0.25 * x - 0.15 * y**2
        picture = np.clip(paper * (1 - 0.7 * ink) + 0.02 * rng.normal(size=ink.shape), 0, 1)
        pictures.append(1 - picture if light_on_dark else picture)
    assert_come_back(digits[0], pictures, 0.3)


def test_thin_strokes_come_out_bright():
    canvas = np.full((600, 400), 255, np.uint8)
    canvas[100:500, 200:203] = 0
    prepared = prepare(canvas)[..., 0]
    assert prepared.max() == 255
    assert np.count_nonzero(prepared.max(axis=1)) == 20


@pytest.fixture(scope="module")
def picture(digits):
    """A digit without symmetry, dark on light, and how it is prepared."""
    digit = digits[0][int(np.flatnonzero(digits[1] == 7)[0])]
    picture = Image.fromarray(255 - draw(digit, 200, np.random.default_rng(3)))
    return picture, prepare(np.asarray(picture))


def assert_close(prepared, expected, bound=0.05):
    difference = np.linalg.norm(prepared.astype(float) - expected)
    assert difference < bound * np.linalg.norm(expected.astype(float))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "I", "I;16", "F"])
def test_every_mode(tmp_path, picture, mode):
    path = tmp_path / "picture.tiff"
    if mode == "I;16":
        Image.fromarray(np.asarray(picture[0]).astype(np.uint16) * 257).save(path)
    else:
        picture[0].convert(mode).save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
    assert_close(prepare(path), picture[1])
    assert_close(prepare(str(path)), picture[1])


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "webp"])
def test_every_kind_of_file(tmp_path, picture, ending):
    picture[0].save(tmp_path / f"picture.{ending}")
    assert distance(prepare(tmp_path / f"picture.{ending}"), picture[1][..., 0]) < 0.1


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (40, 60, 200)])
def test_ink_on_nothing(tmp_path, picture, colour):
    ink = Image.new("RGBA", picture[0].size, (*colour, 0))
    ink.putalpha(Image.eval(picture[0], lambda level: 255 - level))
    ink.save(tmp_path / "ink.png")
    assert_close(prepare(tmp_path / "ink.png"), picture[1])
    assert_close(prepare(np.asarray(ink)), picture[1])


TURNED = {  # how a camera that notes this orientation has stored the upright picture
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNED)
def test_a_turned_photo_is_turned_back(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = picture[0].transpose(TURNED[orientation])
    turned.save(tmp_path / "photo.png", exif=exif)
    assert_close(prepare(tmp_path / "photo.png"), picture[1], 0.01)


def test_arrays_of_every_kind(picture):
    levels = np.asarray(picture[0])
    for array in (
        levels.astype(np.int64),
        levels[..., None],
        np.repeat(levels[..., None], 3, axis=2),
        levels / 255,
        (levels / 255).astype(np.float32),
    ):
        np.testing.assert_array_equal(prepare(array), picture[1])
    assert prepare(levels < 128).shape == (28, 28, 1)


def test_the_form_of_scikit_learns_digits():
    x, _ = load("digits").test
    rng = np.random.default_rng(0)
    distances = []
    for digit in x[:60, ..., 0]:
        prepared = prepare(draw(np.rint(255 * digit).astype(np.uint8), 160, rng), (8, 8))
        assert prepared.shape == (8, 8, 1)
        distances.append(np.linalg.norm(prepared[..., 0] / 255 - digit) / np.linalg.norm(digit))
    assert np.median(distances) < 0.3


@pytest.mark.parametrize("level", [0, 90, 255])
def test_blank(tmp_path, level):
    with pytest.raises(ValueError, match="the array: a blank picture"):
        prepare(np.full((50, 70), level, np.uint8))
    noisy = level + 3 * np.random.default_rng(0).normal(size=(300, 400))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "blank.png")
    with pytest.raises(ValueError, match=r"blank\.png: a blank picture: nothing stands out"):
        prepare(tmp_path / "blank.png")


def test_nothing_but_transparency():
    with pytest.raises(ValueError, match="a blank picture"):
        prepare(np.zeros((20, 20, 4), np.uint8))


def test_files_that_are_no_pictures(tmp_path, picture):
    with pytest.raises(FileNotFoundError, match=r"seven\.png: file not found"):
        prepare(tmp_path / "seven.png")
    (tmp_path / "text.png").write_text("seven")
    with pytest.raises(ValueError, match=r"text\.png: not an image, or in a format"):
        prepare(tmp_path / "text.png")
    picture[0].save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cut\.png: cannot be read as an image"):
        prepare(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"must be \(h, w\).*got shape \(5,\)"),
        (np.zeros((4, 4, 2)), r"got shape \(4, 4, 2\)"),
        (np.zeros((0, 4)), r"got shape \(0, 4\)"),
        (np.full((9, 9), np.nan), "float64 must hold values from 0 to 1, got nan to nan"),
        (np.full((9, 9), 255.0), "float64 must hold values from 0 to 1, got 255.0 to 255.0"),
        (np.full((9, 9), 256), "int64 must hold values from 0 to 255, got 256 to 256"),
        (np.zeros((9, 9), complex), "must hold real numbers, got dtype complex128"),
        (np.zeros((9, 9), "U1"), "must hold real numbers, got dtype <U1"),
    ],
)
def test_arrays_that_are_no_pictures(array, message):
    with pytest.raises(ValueError, match=message):
        prepare(array)


@pytest.mark.parametrize(
    "shape", [None, 28, (28,), (3, 28), (28, 28, 1), (28.0, 28.0), (28, 10**9)]
)
def test_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match="shape must be a height and a width of 4 to 512 pixels"):
        prepare(np.eye(30), shape)


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "nnjax\[images\]"'):
        prepare(np.eye(30))
