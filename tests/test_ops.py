"""The operations: against jax.lax and its gradients, in double precision, and as drop-ins."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax import network, ops
from nnjax.layers.windows import pair

SHAPES = [  # image, filters, kernel, stride, padding
    ((7, 9, 3), 4, (3, 3), 1, "valid"),
    ((7, 9, 3), 4, (3, 2), (2, 1), "same"),
    ((6, 6, 1), 20, (5, 5), 1, 0),
    ((8, 5, 2), 3, (1, 1), 1, 0),
    ((8, 8, 2), 3, (4, 4), 3, (2, 1)),
]


def by_lax(x, w, stride, padding):
    stride = (stride, stride) if isinstance(stride, int) else stride
    if isinstance(padding, str):
        padding = padding.upper()
    else:
        padding = (padding, padding) if isinstance(padding, int) else padding
        padding = [(p, p) for p in padding]
    return jax.lax.conv_general_dilated(
        x, w, stride, padding, dimension_numbers=("NHWC", "OHWI", "NHWC")
    )


def weighted(f):
    """Return a loss that weighs every output differently, so that no mistake cancels."""

    def loss(*args):
        out = f(*args)
        weights = jnp.sin(1.0 + jnp.arange(out.size, dtype=out.dtype))
        return jnp.sum(out * weights.reshape(out.shape))

    return loss


def close(one, two):
    return np.linalg.norm(one - two) <= 1e-11 * np.linalg.norm(two)


@pytest.mark.parametrize(("image", "filters", "kernel", "stride", "padding"), SHAPES)
@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_conv_and_its_gradients_are_those_of_lax(image, filters, kernel, stride, padding, n):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (n, *image))
        w = jax.random.normal(jax.random.key(1), (filters, *kernel, image[-1]))
        ours = weighted(lambda x, w: ops.conv(x, w, stride, padding))
        theirs = weighted(lambda x, w: by_lax(x, w, stride, padding))
        both = (jax.jit(jax.value_and_grad(loss, (0, 1)))(x, w) for loss in (ours, theirs))
        for a, b in zip(*map(jax.tree.leaves, both), strict=True):
            assert close(a, b)


@pytest.mark.parametrize("n", [6, 7])
def test_many_images_are_worked_through_in_pieces(n, monkeypatch):
    """As in a network, so that patches stay in the cache; here two images at a time."""
    monkeypatch.setattr(network, "_PATCH_NUMBERS", 1)
    monkeypatch.setattr(ops, "NUMBERS_FORWARD", 1)
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (n, 7, 9, 3))
        w = jax.random.normal(jax.random.key(1), (4, 3, 2, 3))
        ours = jax.value_and_grad(weighted(lambda x, w: ops.conv(x, w, (2, 1), "same")), (0, 1))
        theirs = jax.value_and_grad(weighted(lambda x, w: by_lax(x, w, (2, 1), "same")), (0, 1))
        program = str(jax.make_jaxpr(ours)(x, w))
        assert program.count(f"length={n // 2}") == 3  # z, BP2 and BP4
        both = (jax.jit(f)(x, w) for f in (ours, theirs))
        for a, b in zip(*map(jax.tree.leaves, both), strict=True):
            assert close(a, b)


@pytest.mark.parametrize(
    ("of_x", "of_w", "of_z"),
    [("bfloat16", "float32", "float32"), ("uint8", "bfloat16", "bfloat16")],
)
def test_unlike_dtypes_are_promoted_as_in_jnp(of_x, of_w, of_z):
    x, w = jnp.ones((2, 4, 4, 16), of_x), jnp.ones((20, 3, 3, 16), of_w)
    with jax.numpy_dtype_promotion("standard"):
        for conv in (ops.conv, jax.jit(ops.conv)):
            z, pull_back = jax.vjp(conv, x, w)
            assert z.dtype == of_z
            np.testing.assert_array_equal(np.float32(z), np.full(z.shape, 9 * 16))
            of_images, of_kernels = pull_back(jnp.ones_like(z))
            assert of_kernels.dtype == of_w
            np.testing.assert_array_equal(np.float32(of_kernels), np.full(w.shape, 8))
            assert of_images.dtype == (of_x if of_x == "bfloat16" else jax.dtypes.float0)


def test_a_gradient_of_no_images_is_zero():
    x, w = jnp.ones((0, 5, 5, 2)), jnp.ones((3, 3, 3, 2))
    of_x, of_w = jax.grad(lambda x, w: ops.conv(x, w).sum(), (0, 1))(x, w)
    assert of_x.shape == x.shape
    np.testing.assert_array_equal(of_w, jnp.zeros(w.shape))


def test_a_convolution_exports_for_any_number_of_images():
    x = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), 5, 5, 2), jnp.float32)
    w = jax.ShapeDtypeStruct((3, 3, 3, 2), jnp.float32)
    grad = jax.jit(jax.grad(lambda x, w: (ops.conv(x, w) ** 2).sum(), (0, 1)))
    exported = jax.export.export(grad)(x, w)
    x, w = jnp.ones((4, 5, 5, 2)), jnp.ones(w.shape)
    for a, b in zip(exported.call(x, w), grad(x, w), strict=True):
        np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=pytest.mark.slow), "float16"])
def test_a_gradient_of_a_gradient_in_16_bits(dtype):
    x, w = jnp.ones((2, 5, 5, 1), dtype), jnp.ones((1, 3, 3, 1), dtype)

    def slope(x, w):
        return jnp.sum(jax.grad(lambda w: jnp.sum(ops.conv(x, w) ** 2))(w))

    for of_one, value in zip(jax.grad(slope, (0, 1))(x, w), (x, w), strict=True):
        assert of_one.dtype == value.dtype
    np.testing.assert_array_equal(of_one, np.full(w.shape, 2 * 2 * 9 * 9))


def test_a_gradient_of_a_gradient():
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, 5, 5, 2))
        w = jax.random.normal(jax.random.key(1), (3, 3, 3, 2))

        def of(conv):
            def slope(x, w):
                return jnp.sum(jax.grad(lambda w: jnp.sum(jnp.tanh(conv(x, w))))(w) ** 2)

            return jax.jit(jax.grad(slope, (0, 1)))(x, w)

        pairs = zip(of(ops.conv), of(lambda x, w: by_lax(x, w, 1, 0)), strict=True)
        assert all(close(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("size", "stride"), [pytest.param(2, None, marks=pytest.mark.slow), ((3, 2), (1, 2)), (3, 2)]
)
def test_max_pool_and_its_gradient_are_those_of_lax(size, stride):
    def by_lax(x):
        window = pair(size, "size")
        steps = window if stride is None else pair(stride, "stride")
        return jax.lax.reduce_window(
            x, np.array(-np.inf, x.dtype), jax.lax.max, (1, *window, 1), (1, *steps, 1), "VALID"
        )

    with jax.enable_x64(True):
        x = jnp.round(jax.random.normal(jax.random.key(0), (3, 8, 7, 2)), 1)  # with ties
        ours, theirs = weighted(lambda x: ops.max_pool(x, size, stride)), weighted(by_lax)
        both = (jax.jit(jax.value_and_grad(loss))(x) for loss in (ours, theirs))
        assert all(close(a, b) for a, b in zip(*both, strict=True))


@pytest.mark.slow
def test_one_image_and_vmap():
    x, w = jnp.ones((2, 3, 6, 6, 1)), jnp.ones((2, 3, 3, 1))
    assert ops.conv(x[0, 0], w).shape == (4, 4, 2)
    assert jax.vmap(ops.conv, in_axes=(0, None))(x, w).shape == (2, 3, 4, 4, 2)
    assert ops.max_pool(x[0, 0], 2).shape == (3, 3, 1)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_padding_in_capitals_is_the_same_padding(padding):
    x, w = jnp.ones((1, 5, 4, 1)), jnp.ones((1, 3, 3, 1))
    z = ops.conv(x, w, padding=padding)
    np.testing.assert_array_equal(z, ops.conv(x, w, padding=padding.lower()))
    assert z.shape[1:3] == {"SAME": (5, 4), "VALID": (3, 2)}[padding]


@pytest.mark.parametrize(
    ("padding", "options"),
    [
        ("SAME", {}),
        ("VALID", {}),
        pytest.param([(1, 1), (2, 2)], {}, marks=pytest.mark.slow),
        ([(0, 1), (2, 2)], {}),  # by lax itself
        ("VALID", {"rhs_dilation": (2, 1)}),
        ("VALID", {"feature_group_count": 2}),
    ],
)
def test_a_drop_in_for_lax(padding, options):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, 7, 7, 4))
        groups = options.get("feature_group_count", 1)
        w = jax.random.normal(jax.random.key(1), (3, 3, 4 // groups, 6))
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
        args = (x, w, (1, 2), padding)
        ours = ops.conv_general_dilated(*args, **options)
        assert close(ours, jax.lax.conv_general_dilated(*args, **options))


def test_what_only_lax_does_is_left_to_it():
    x, w = jnp.ones((2, 7, 4)), jnp.ones((3, 4, 6))
    options: dict = {"dimension_numbers": ("NWC", "WIO", "NWC")}
    assert ops.conv_general_dilated(x, w, (1,), "SAME", **options).shape == (2, 7, 6)
    x, w = jnp.ones((2, 7, 7, 4), jnp.bfloat16), jnp.ones((3, 3, 4, 6), jnp.bfloat16)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": None}
    args = (x, w, (1, 1), "SAME")
    assert ops.conv_general_dilated(*args, **options).dtype == jnp.bfloat16
    wide = ops.conv_general_dilated(*args, **options, preferred_element_type=jnp.float32)
    assert wide.dtype == jnp.float32
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    small = x[:, :2]
    assert ops.conv_general_dilated(small, w, (1, 1), "VALID", **options).shape == (2, 0, 5, 6)
    assert ops.conv_general_dilated(small, w, (1, 1), [(1, 1)] * 2, **options).shape == (2, 2, 7, 6)
    with pytest.raises(TypeError, match="requires arguments to have the same dtypes"):
        ops.conv_general_dilated(x, w.astype(jnp.float32), (1, 1), "SAME", **options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'precison'"):
        ops.conv_general_dilated(*args, **options, precison="highest")


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_max_pool_of_whole_numbers(dtype):
    x = jnp.asarray(np.array([[0, 0, 1, 0], [0, 0, 0, 0]]), dtype)[..., None]
    z = ops.max_pool(x, 2)
    assert (z.dtype, z.ravel().tolist()) == (x.dtype, [0, 1])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ops.conv(jnp.ones((4, 4)), jnp.ones((1, 2, 2, 1))), r"x has shape \(4, 4\)"),
        (lambda: ops.conv(jnp.ones((4, 4, 2)), jnp.ones((1, 2, 2, 1))), "w has shape .*2 channels"),
        (lambda: ops.conv(jnp.ones((2, 2, 1)), jnp.ones((1, 3, 3, 1))), "larger than the image"),
        (lambda: ops.max_pool(jnp.ones((2, 2, 1)), 3), "leaves nothing"),
    ],
)
def test_what_does_not_fit(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
