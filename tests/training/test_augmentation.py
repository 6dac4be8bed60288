"""Augmentation: shifted copies, and distortions that do what their strengths say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax.data import Dataset
from nnjax.training.augmentation import Distortion, shifted

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 2), dtype=np.uint8)


@jax.jit
def distorted(distort, key, x):
    return distort(key, x)


def dataset(x):
    return Dataset((x, np.arange(len(x))), (x, np.arange(len(x))), None)


def blob(n, size=28):
    """A smooth spot, off the centre, so that moving it shows in its moments."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    spot = np.exp(-((rows - 3) ** 2 / 8 + (columns - 5) ** 2 / 18))
    return jnp.asarray(np.tile(spot[None, ..., None], (n, 1, 1, 1)), jnp.float32)


def centres(x):
    """The centre of mass of each image, (n, 2), relative to the middle."""
    x = np.asarray(x, np.float64)[..., 0]
    rows, columns = np.mgrid[: x.shape[1], : x.shape[2]] - (x.shape[1] - 1) / 2
    mass = x.sum((1, 2))
    return np.stack([(x * rows).sum((1, 2)) / mass, (x * columns).sum((1, 2)) / mass], axis=1)


def test_shifted_images_follow_the_originals():
    x, y = shifted(dataset(IMAGES)).train
    n, (h, w) = len(IMAGES), IMAGES.shape[1:3]
    assert x.shape == (5 * n, h, w, 2)
    assert x.dtype == np.uint8
    np.testing.assert_array_equal(y, np.tile(np.arange(n), 5))
    moves = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    for copy, (down, right) in zip(np.split(x, 5), moves, strict=True):
        for i in range(h):
            for j in range(w):
                inside = 0 <= i - down < h and 0 <= j - right < w
                expected = IMAGES[:, i - down, j - right] if inside else 0
                np.testing.assert_array_equal(copy[:, i, j], expected)


def test_shifting_leaves_the_other_parts_alone():
    data = dataset(IMAGES)
    expanded = shifted(data, pixels=2)
    assert expanded.validation is data.validation
    assert expanded.test is None


@pytest.mark.slow
def test_no_strength_changes_nothing():
    unchanged = Distortion()(KEY, jnp.asarray(IMAGES))
    np.testing.assert_allclose(unchanged, np.float32(IMAGES) / 255, rtol=2e-7)


def test_shifts_move_by_whole_pixels_in_every_direction():
    x = np.zeros((500, 9, 9, 1), np.float32)
    x[:, 4, 4] = 1
    moved = np.asarray(distorted(Distortion(shift=2), KEY, jnp.asarray(x)))
    assert set(np.unique(moved)) == {0.0, 1.0}
    assert (moved.sum((1, 2, 3)) == 1).all()
    places = {tuple(place) for place in np.argwhere(moved)[:, 1:3]}
    assert places == {(i, j) for i in range(2, 7) for j in range(2, 7)}


def test_rotations_turn_about_the_middle_up_to_the_angle():
    angle = np.deg2rad(20)
    turned = centres(distorted(Distortion(rotation=20.0), KEY, blob(400)))
    start = centres(blob(1))[0]
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(start), rtol=0.02)
    angles = np.arctan2(*turned.T) - np.arctan2(*start)
    assert np.abs(angles).max() <= angle + 0.01
    assert angles.max() > 0.95 * angle
    assert angles.min() < -0.95 * angle


def test_scalings_stretch_each_axis_by_itself():
    stretched = centres(distorted(Distortion(scaling=0.2), KEY, blob(400))) / centres(blob(1))
    assert 1 / 1.2 - 0.01 <= stretched.min() <= 0.85
    assert 1.22 <= stretched.max() <= 1 / 0.8 + 0.01
    assert abs(np.corrcoef(stretched.T)[0, 1]) < 0.15


def test_skews_move_sideways_in_proportion_to_the_height():
    skewed = centres(distorted(Distortion(skew=0.3), KEY, blob(400))) - centres(blob(1))
    np.testing.assert_allclose(skewed[:, 0], 0, atol=0.01)
    most = 0.3 * centres(blob(1))[0, 0]
    assert 0.95 * most < skewed[:, 1].max() < 1.05 * most
    assert 0.95 * most < -skewed[:, 1].min() < 1.05 * most


@pytest.mark.parametrize("sigma", [2.0, 4.0])
@pytest.mark.slow
def test_elastic_fields_have_the_strength_and_the_smoothness_of_simard(sigma):
    n, size, alpha = 2000, 40, 34.0
    field = np.asarray(Distortion(elastic=alpha, sigma=sigma)._sources(KEY, n, size, size))
    field = (field - np.mgrid[:size, :size])[:, :, 14:26, 14:26]  # away from the border
    expected = alpha / np.sqrt(3) / (2 * np.sqrt(np.pi) * sigma)
    np.testing.assert_allclose(field.std(), expected, rtol=0.03)
    for distance in (2, 6):
        near = np.mean(field[..., distance:] * field[..., :-distance]) / field.var()
        np.testing.assert_allclose(near, np.exp(-(distance**2) / (4 * sigma**2)), atol=0.03)
    assert abs(np.mean(field[:, 0] * field[:, 1]) / field.var()) < 0.03


def test_every_image_gets_its_own_distortion_and_the_same_key_the_same_ones():
    distort = Distortion(1, 10.0, 0.1, 0.1, 34.0)
    first, again, other = (
        distorted(distort, key, blob(3)) for key in (KEY, KEY, jax.random.key(1))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_channels_are_distorted_alike():
    x = jnp.concatenate([blob(4), blob(4)], axis=-1)
    moved = distorted(Distortion(rotation=30.0, elastic=20.0), KEY, x)
    np.testing.assert_array_equal(moved[..., 0], moved[..., 1])


@pytest.mark.slow
def test_it_works_in_a_scan_and_over_many_networks_at_once():
    distort = Distortion(rotation=30.0, elastic=20.0)
    keys = jax.random.split(KEY, 3)
    one_by_one = jnp.stack([distorted(distort, key, blob(3)) for key in keys])
    at_once = jax.jit(jax.vmap(distort, in_axes=(0, None)))(keys, blob(3))
    scanned = jax.lax.scan(lambda c, key: (c, distort(key, blob(3))), None, keys)[1]
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-5)
    np.testing.assert_allclose(scanned, one_by_one, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_dtype_of_floats_is_kept(dtype):
    distort = Distortion(1, 10.0, 0.1, 0.1, 34.0)
    assert jax.eval_shape(distort, KEY, blob(2).astype(dtype)).dtype == dtype


def test_descriptions_are_static_and_equal_by_value():
    calls = []

    @jax.jit
    def counted(distort):
        calls.append(distort)

    counted(Distortion(rotation=5.0))
    counted(Distortion(rotation=5.0))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("strength", "value"),
    [
        ("shift", -1),
        ("shift", 0.5),
        ("rotation", -1.0),
        ("rotation", 181.0),
        ("scaling", 1.0),
        ("skew", -0.1),
        ("elastic", float("nan")),
        ("elastic", "strong"),
        ("sigma", 0.0),
    ],
)
def test_a_strength_out_of_range_is_refused(strength, value):
    with pytest.raises(ValueError, match=f"{strength} of Distortion is {value!r}; expected"):
        Distortion(**{strength: value})


def test_what_is_no_image_is_refused():
    rows = jnp.zeros((5, 784))
    with pytest.raises(ValueError, match=r"takes images \(n, h, w, channels\); x has shape \(5, 7"):
        Distortion()(KEY, rows)
    with pytest.raises(ValueError, match="augmentation takes images"):
        shifted(dataset(np.zeros((5, 784))))


@pytest.mark.parametrize("pixels", [0, 8, 1.5])
def test_a_wrong_number_of_pixels_is_refused(pixels):
    with pytest.raises(ValueError, match=f"pixels is {pixels}"):
        shifted(dataset(IMAGES), pixels)


def test_whole_numbers_other_than_grey_levels_are_refused():
    with pytest.raises(TypeError, match="x is int32; expected uint8 grey levels or floating-point"):
        Distortion(shift=1)(KEY, jnp.ones((1, 8, 8, 1), jnp.int32))


def test_images_cannot_be_shifted_out_of_sight():
    with pytest.raises(
        ValueError, match="shift of Distortion is 5; expected less than the 5 pixels"
    ):
        Distortion(shift=5)(jax.random.key(0), jnp.ones((2, 6, 5, 1)))


@pytest.mark.slow
def test_coordinates_of_bfloat16_images_are_those_of_float32():
    """In bfloat16 itself pixel 100.3 would be at 100.5."""
    x = jax.random.uniform(jax.random.key(1), (2, 120, 120, 1)).astype(jnp.bfloat16)
    distort = Distortion(rotation=10.0, scaling=0.1)
    low = distort(jax.random.key(0), x)
    high = distort(jax.random.key(0), x.astype(jnp.float32))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, high.astype(jnp.bfloat16))
