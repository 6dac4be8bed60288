"""Per-example quantities against the rows of `jax.vmap(jax.grad)`, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from strategies import random_params

import nnjax
from nnjax import contractions, per_example
from nnjax.layers import Layer

TOLERANCE = 1e-11


@dataclasses.dataclass(frozen=True)
class Gate(Layer):
    """A layer with parameters that is not affine: z = p tanh(q a), whose cache depends on q."""

    def out_shape(self, in_shape):
        return in_shape

    def init(self, key, in_shape, dtype=float):
        return {"p": jax.random.normal(key, in_shape, dtype), "q": jnp.full(in_shape, 0.7, dtype)}

    def forward(self, params, a, key):
        t = jnp.tanh(params["q"] * a)
        return params["p"] * t, (params, a, t)

    def pull_back(self, params, cache, delta):
        _, _, t = cache
        return delta * params["p"] * params["q"] * (1 - t**2)

    def gradients(self, cache, delta):
        params, a, t = cache
        grads = {"p": delta * t, "q": delta * params["p"] * a * (1 - t**2)}
        batched = delta.ndim > 1
        return jax.tree.map(lambda g: jnp.sum(g, axis=0), grads) if batched else grads


def conv_net(shape, *layers):
    layers = (*layers, nnjax.Flatten(), nnjax.Dense(3, nnjax.softmax))
    return nnjax.Network(shape, layers, nnjax.log_likelihood)


NETS = {
    "dense": nnjax.mlp([5, 7, 4, 3], activation=nnjax.tanh, loss=nnjax.log_likelihood),
    "dense, one layer": nnjax.mlp([5, 3], loss=nnjax.quadratic),
    "dense, ReLU, dropout": nnjax.Network(
        5,
        [nnjax.Dropout(0.3), nnjax.Dense(8, nnjax.relu), nnjax.Dropout(0.5), nnjax.Dense(3)],
        nnjax.cross_entropy,
    ),
    "not affine": nnjax.Network(
        5,
        [
            nnjax.Residual(nnjax.LayerNorm(), nnjax.Dense(5, nnjax.tanh)),
            nnjax.Residual(Gate()),
            nnjax.Dense(3),
        ],
        nnjax.cross_entropy,
    ),
    # 2T² = 32 of 60 weights: by the patches' Gram matrix
    "conv, few positions": conv_net((4, 3, 2), nnjax.Conv(5, (3, 2), activation=nnjax.tanh)),
    "conv, groups, dilation": conv_net(
        (4, 3, 2), nnjax.Conv(4, 2, dilation=(2, 1), groups=2, activation=nnjax.tanh)
    ),
    # T = 1
    "conv, one position": conv_net((3, 2, 2), nnjax.Conv(4, (3, 2), activation=nnjax.tanh)),
    # T = 30, then T = 6 behind a pool: by instantiating
    "conv, many positions": conv_net(
        (6, 5, 1),
        nnjax.Conv(3, (3, 2), padding="same", activation=nnjax.relu),
        nnjax.MaxPool(2),
        nnjax.Conv(2, 2, padding=(1, 0), activation=nnjax.sigmoid),
    ),
}
SLOW = (
    "dense",
    "dense, one layer",
    "conv, groups, dilation",
    "conv, one position",
    "conv, few positions",
)
CASES = [
    *(pytest.param((name, 5), marks=[pytest.mark.slow] * (name in SLOW)) for name in NETS),
    ("dense, one layer", 1),
    pytest.param(("conv, many positions", 1), marks=pytest.mark.slow),
]


class Setup:
    """A network with parameters, a batch and its backward pass."""

    def __init__(self, name, n, seed=0):
        self.net, self.n = NETS[name], n
        rng = np.random.default_rng(seed)
        self.params = jax.tree.map(lambda p: p + 0.1, random_params(self.net, seed, jnp.float64))
        self.x = jax.device_put(rng.normal(size=(n, *self.net.input_shape)))
        self.y = jax.device_put(rng.integers(3, size=n))
        self.key = jax.random.key(7) if "dropout" in name else None
        self.bp = nnjax.backprop(self.net, self.params, self.x, self.y, self.key)
        self.args = (self.net, self.params, self.bp)

    def rows(self):
        """Return ∂C_n/∂θ by `jax.jacrev` of the n losses, which knows nothing of layers."""

        @jax.jit
        def by_autodiff(params, x, y):
            def losses(params):
                passed = nnjax.network.forward(self.net, params, x, self.key)
                z, a = passed.weighted_inputs[-1], passed.activations[-1]
                return self.net.loss.at(self.net.layers[-1].activation, z, a, y)

            return jax.jacrev(losses)(params)

        return by_autodiff(self.params, self.x, self.y)


def everything(net, params, bp, weights, bound):
    """Return all that depends on the way a layer's gradients are contracted, in one program."""
    args = (net, params, bp)
    return {
        "rows": per_example.gradients(*args),
        "norms": per_example.squared_norms(*args),
        "norms by layer": per_example.squared_norms_by_layer(*args),
        "squares": per_example.sum_of_squares(*args),
        "variance": per_example.variance(*args),
        "gram": per_example.gram(*args),
        "weighted": per_example.weighted_gradient(*args, weights),
        "one row": per_example.weighted_gradient(*args, jnp.eye(len(weights))[-1]),
        "clipped": per_example.clipped_gradient(*args, bound),
        "input": per_example.input_gradients(*args),
    }


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}, n={case[1]}", scope="module")
def case(request):
    with jax.enable_x64(True):
        case = Setup(*request.param)
        case.expected = jax.device_get(case.rows())  # what follows compiles nothing
        case.matrix = matrix(case.expected, case.n)
        case.weights = np.linspace(-1.0, 2.0, case.n)
        case.norms = np.linalg.norm(case.matrix, axis=1)
        case.bound = 0.9 * np.median(case.norms)
        case.found = jax.jit(everything)(*case.args, case.weights, case.bound)
        yield case


@pytest.fixture
def setup():
    with jax.enable_x64(True):
        yield Setup("dense", 5)


def assert_same(claimed, expected, tolerance=TOLERANCE):
    """Leaf by leaf, relative error in the norm; equal structure, shapes and dtypes."""
    assert jax.tree.structure(claimed) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(claimed), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.ravel(a), np.ravel(b)
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 1e-30)


def matrix(rows, n):
    return np.concatenate([leaf.reshape(n, -1) for leaf in jax.tree.leaves(rows)], axis=1)


def test_rows_are_those_of_autodiff_and_sum_to_the_batch_gradient(case):
    assert_same(case.found["rows"], case.expected)
    assert_same(jax.tree.map(lambda g: np.mean(g, axis=0), case.found["rows"]), case.bp.grads)
    auto = jax.grad(nnjax.loss, argnums=1)(case.net, case.params, case.x, case.y, case.key)
    assert_same(case.bp.grads, auto)


@pytest.mark.parametrize(
    "chunk", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(9, marks=pytest.mark.slow)]
)
def test_reduced_in_chunks(setup, chunk):
    def signs(g):
        return {"signs": jax.tree.map(jnp.sign, g), "norm": optax.tree.norm(g)}

    expected = jax.vmap(signs)(setup.rows())
    assert_same(per_example.gradients(*setup.args, reduce=signs, chunk=chunk), expected)
    assert_same(per_example.gradients(*setup.args, chunk=chunk), setup.rows())


def test_squared_norms(case):
    by_layer = jax.tree.map(lambda g: np.sum(g.reshape(case.n, -1) ** 2, axis=1), case.expected)
    assert_same(case.found["norms by layer"], by_layer)
    assert_same(case.found["norms"], case.norms**2)


def test_sum_of_squares_and_variance(case):
    squares = jax.tree.map(lambda g: np.sum(g**2, axis=0), case.expected)
    assert_same(case.found["squares"], squares)
    var = case.found["variance"]
    assert all(bool(np.all(leaf >= 0)) for leaf in jax.tree.leaves(var))
    if case.n > 1:
        assert_same(var, jax.tree.map(lambda g: np.var(g, axis=0), case.expected), 1e-10)


def test_gram(case):
    assert_same(case.found["gram"], case.matrix @ case.matrix.T)


def test_weighted(case):
    expected = jax.tree.map(lambda g: np.tensordot(case.weights, g, axes=1), case.expected)
    assert_same(case.found["weighted"], expected)
    assert_same(case.found["one row"], jax.tree.map(lambda g: g[-1], case.expected))


def test_clipped(case):
    c = np.minimum(1.0, case.bound / case.norms) / case.n
    expected = jax.tree.map(lambda g: np.tensordot(c, g, axes=1), case.expected)
    assert_same(case.found["clipped"], expected)


def test_input_gradients(case):
    def total(x):
        return case.n * nnjax.loss(case.net, case.params, x, case.y, case.key)

    assert_same(case.found["input"], jax.grad(total)(case.x))


def test_a_network_without_parameters_has_gradients_of_length_0():
    net = nnjax.Network((2, 2, 1), [nnjax.MaxPool(2), nnjax.Flatten()], nnjax.quadratic)
    x, params = jnp.arange(12.0).reshape(3, 2, 2, 1), ((), ())
    given = net, params, nnjax.backprop(net, params, x, jnp.zeros((3, 1)))
    assert per_example.squared_norms(*given).tolist() == [0.0] * 3
    assert per_example.gram(*given).tolist() == [[0.0] * 3] * 3
    assert nnjax.curvature.neural_tangent_kernel(*given).shape == (3, 3, 1, 1)
    assert per_example.gradients(*given) == params
    assert per_example.squared_norms_by_layer(*given) == params
    assert per_example.sum_of_squares(*given) == params == per_example.variance(*given)
    assert per_example.weighted_gradient(*given, jnp.ones(3)) == params
    assert per_example.clipped_gradient(*given, 1.0) == params
    noise = per_example.gradient_noise_scale(*given)
    assert (float(noise.trace), float(noise.squared_norm)) == (0.0, 0.0)
    assert np.isnan(noise.scale)


def test_clipping_leaves_zero_gradients_alone():
    net = nnjax.mlp([2, 2], loss=nnjax.quadratic, output=nnjax.relu)
    params = jax.tree.map(lambda p: -jnp.abs(p), random_params(net, 0))
    bp = nnjax.backprop(net, params, jnp.ones((3, 2)), jnp.zeros((3, 2)))
    clipped = per_example.clipped_gradient(net, params, bp, 1.0)
    assert not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(clipped))


@pytest.mark.slow
def test_noise_added_by_optax_is_that_of_optax_on_all_rows(setup):
    bound, noise_multiplier, key = 0.5, 0.8, jax.random.key(3)
    dp = optax.contrib.differentially_private_aggregate
    on_rows = dp(bound, noise_multiplier, key)
    expected, _ = on_rows.update(per_example.gradients(*setup.args), on_rows.init(setup.params))
    on_mean = dp(bound, noise_multiplier / setup.n, key)
    clipped = per_example.clipped_gradient(*setup.args, bound)
    one = jax.tree.map(lambda g: g[None], clipped)
    private, _ = on_mean.update(one, on_mean.init(setup.params))
    assert_same(private, expected)


def test_gradient_noise_scale(setup):
    rows = matrix(setup.rows(), setup.n)
    trace = jnp.sum(jnp.var(rows, axis=0, ddof=1))
    squared_norm = jnp.sum(jnp.mean(rows, axis=0) ** 2) - trace / setup.n
    found = per_example.gradient_noise_scale(*setup.args)
    assert_same(tuple(found), (trace / squared_norm, trace, squared_norm), 1e-10)


@pytest.mark.slow
def test_gradient_noise_estimates_are_unbiased():
    with jax.enable_x64(True):
        net = nnjax.mlp([3, 2], loss=nnjax.quadratic)
        params = random_params(net, 0)
        rng = np.random.default_rng(0)
        x, y = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.integers(2, size=6))
        every = nnjax.backprop(net, params, x, y)
        rows = matrix(per_example.gradients(net, params, every), 6)
        mean = jnp.mean(rows, axis=0)
        pairs = [(i, j) for i in range(6) for j in range(6)]  # all batches of two, with repeats

        def estimates(pair):
            bp = nnjax.backprop(net, params, x[pair], y[pair])
            return per_example.gradient_noise_scale(net, params, bp)

        found = jax.vmap(estimates)(jnp.asarray(pairs))
        assert jnp.mean(found.squared_norm) == pytest.approx(float(mean @ mean), rel=1e-9)
        spread = float(jnp.sum(jnp.var(rows, axis=0)))
        assert jnp.mean(found.trace) == pytest.approx(spread, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["not affine", "conv, many positions"])
def test_chunks_that_leave_a_rest(name, monkeypatch):
    """With room for 40 or 100 numbers at once, chunks of one, of several, and a rest come up."""
    with jax.enable_x64(True):
        setup = Setup(name, 5)
        expected = setup.rows()
        rows = matrix(expected, 5)
        for room in (40, 100):
            monkeypatch.setattr(contractions, "_PIECE", room)

            @jax.jit
            def found(params, bp):
                fs = contractions.factors(setup.net, params, bp, [d[None] for d in bp.errors])
                fs = [f for f in fs if f is not None]
                norms = jax.tree.leaves([contractions.squared_norms(f) for f in fs])
                squares = [contractions.sum_of_squares(f) for f in fs]
                return squares, sum(norms)[0], sum(contractions.gram(f) for f in fs)[0, :, 0]

            squares, norms, gram = found(setup.params, setup.bp)
            wanted = jax.tree.map(lambda g: jnp.sum(g**2, axis=0), expected)
            assert_same(jax.tree.leaves(squares), jax.tree.leaves(wanted))
            assert_same(norms, jnp.sum(rows**2, axis=1))
            assert_same(gram, rows @ rows.T)


@pytest.mark.parametrize("name", ["conv, few positions", "conv, many positions"])
@pytest.mark.slow
def test_norms_of_convolutions_are_not_products_of_norms(name):
    """The positions overlap: ‖δ‖² ‖X‖² is another number, and so is Σ_t ‖δ_t‖² ‖X_t‖²."""
    with jax.enable_x64(True):
        setup = Setup(name, 5)
        f = contractions.factors(*setup.args, [d[None] for d in setup.bp.errors])[0]
        x, d = contractions.inputs_and_errors(f)
        right = per_example.squared_norms_by_layer(*setup.args)[0].w
        product = jnp.sum(x**2, (1, 2)) * jnp.sum(d[0] ** 2, (1, 2))
        by_position = jnp.sum(jnp.sum(x**2, 2) * jnp.sum(d[0] ** 2, 2), 1)
        for wrong in (product, by_position):
            assert float(jnp.linalg.norm(wrong - right) / jnp.linalg.norm(right)) > 0.1


@pytest.mark.slow
def test_the_way_is_chosen_by_the_number_of_positions():
    ways = []
    for name in ("conv, one position", "conv, few positions", "conv, many positions"):
        setup = Setup(name, 2)
        f = contractions.factors(*setup.args, [d[None] for d in setup.bp.errors])[0]
        positions = int(np.prod(f.deltas.shape[2:-1]))
        assert contractions.by_gram(f) == (positions == 1 or 2 * positions**2 <= f.params.w.size)
        ways.append(contractions.by_gram(f))
    assert ways == [True, True, False]


def test_under_vmap_over_networks(setup):
    stacked = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), setup.params)

    @jax.jit
    def norms(params):
        bp = nnjax.backprop(setup.net, params, setup.x, setup.y)
        return per_example.squared_norms(setup.net, params, bp)

    together = jax.vmap(norms)(stacked)
    for i in range(2):
        assert_same(together[i], norms(jax.tree.map(lambda p, i=i: p[i], stacked)))


def test_rows_of_updates_are_taken_from_a_feedback_pass(setup):
    rule = nnjax.feedback.init(setup.net, jax.random.key(1), "direct_feedback_alignment")
    fp = nnjax.backprop(setup.net, setup.params, setup.x, setup.y, feedback=rule)
    rows = per_example.gradients(setup.net, setup.params, fp)
    assert_same(jax.tree.map(lambda g: jnp.mean(g, axis=0), rows), fp.updates)
    var = per_example.variance(setup.net, setup.params, fp)
    assert_same(var, jax.tree.map(lambda g: jnp.var(g, axis=0), rows), 1e-10)
    with pytest.raises(TypeError, match="updates of a feedback rule, which are not gradients"):
        per_example.input_gradients(setup.net, setup.params, fp)


@pytest.mark.parametrize("dtype", [jnp.bfloat16])
def test_dtypes_are_those_of_the_parameters(dtype):
    net = NETS["conv, many positions"]
    like = random_params(net, 0, dtype)

    def results(params, x):
        bp = nnjax.backprop(net, params, x, jnp.array([0, 1, 2]))
        return everything(net, params, bp, jnp.ones(3), 1.0)

    results = jax.eval_shape(results, like, jnp.ones((3, *net.input_shape), dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(dtype)}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_same_numbers_as_backpack():
    torch = pytest.importorskip("torch")
    backpack = pytest.importorskip("backpack")
    from backpack import extensions

    with jax.enable_x64(True):
        net = conv_net(
            (6, 5, 2),
            nnjax.Conv(3, (3, 2), activation=nnjax.tanh),
            nnjax.MaxPool(2),
        )
        params = random_params(net, 0, jnp.float64)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(4, 6, 5, 2)), rng.integers(3, size=4)
        bp = nnjax.backprop(net, params, x, y)

        t = lambda array: torch.tensor(np.asarray(array))  # noqa: E731
        conv = torch.nn.Conv2d(2, 3, (3, 2)).double()
        dense = torch.nn.Linear(12, 3).double()
        conv.weight.data = t(params[0].w).permute(0, 3, 1, 2).contiguous()
        conv.bias.data = t(params[0].b)
        # torch flattens (c, h, w), nnjax (h, w, c)
        dense.weight.data = t(params[3].w).reshape(3, 2, 2, 3).permute(0, 3, 1, 2).reshape(3, 12)
        dense.bias.data = t(params[3].b)
        layers = [conv, torch.nn.Tanh(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), dense]
        model = backpack.extend(torch.nn.Sequential(*layers))
        loss = backpack.extend(torch.nn.CrossEntropyLoss())(model(t(x).permute(0, 3, 1, 2)), t(y))
        with backpack.backpack(
            extensions.BatchGrad(), extensions.BatchL2Grad(), extensions.SumGradSquared()
        ):
            loss.backward()

        rows = per_example.gradients(net, params, bp)
        theirs = conv.weight.grad_batch.permute(0, 1, 3, 4, 2) * 4  # of the mean: divided by n
        assert_same(rows[0].w, jnp.asarray(theirs.numpy()))
        norms = per_example.squared_norms_by_layer(net, params, bp)
        assert_same(norms[0].w, jnp.asarray(conv.weight.batch_l2.numpy()) * 16)
        assert_same(norms[3].b, jnp.asarray(dense.bias.batch_l2.numpy()) * 16)
        squares = per_example.sum_of_squares(net, params, bp)
        theirs = conv.weight.sum_grad_squared.permute(0, 2, 3, 1) * 16
        assert_same(squares[0].w, jnp.asarray(theirs.numpy()))


def test_bad_input(setup):
    net, params, bp = setup.args
    other = nnjax.mlp([5, 6, 3])
    with pytest.raises(ValueError, match=r"bp is of another network: its activations have the"):
        per_example.squared_norms(other, random_params(other, 0), bp)
    with pytest.raises(ValueError, match=r"params has the structure|params\[0\]"):
        per_example.gram(net, random_params(other, 0), bp)
    with pytest.raises(TypeError, match=r"bp is a tuple; expected what nnjax\.backprop returns"):
        per_example.gradients(net, params, (1, 2))
    with pytest.raises(ValueError, match="chunk is 0; expected an integer of at least 1"):
        per_example.gradients(net, params, bp, chunk=0)
    with pytest.raises(TypeError, match="reduce is 3; expected a function of one example"):
        per_example.gradients(net, params, bp, 3)
    with pytest.raises(ValueError, match=r"weights has shape \(4,\); expected \(5,\)"):
        per_example.weighted_gradient(net, params, bp, jnp.ones(4))
    with pytest.raises(TypeError, match="weights has dtype complex128; expected real numbers"):
        per_example.weighted_gradient(net, params, bp, 1j * np.ones(5))
    with pytest.raises(ValueError, match=r"clip_norm is 0\.0; expected a norm of at least 1"):
        per_example.clipped_gradient(net, params, bp, 0.0)
    single = nnjax.backprop(net, params, setup.x[:1], setup.y[:1])
    with pytest.raises(ValueError, match="bp holds 1 example; a noise scale needs at least 2"):
        per_example.gradient_noise_scale(net, params, single)


def test_clipping_in_float16_where_squares_overflow():
    """In float16 itself the squared norms are infinite, and the clipped gradient was 0."""
    net = nnjax.mlp([3, 2], output=nnjax.identity, loss=nnjax.quadratic)
    params = random_params(net, 0)
    x, y = jnp.array([[200.0, -100.0, 50.0]]), jnp.array([[30.0, -40.0]])
    narrow = jax.tree.map(lambda p: p.astype(jnp.float16), params)
    wide, low = (
        per_example.clipped_gradient(net, p, nnjax.backprop(net, p, x, y), 1.0)
        for p in (params, narrow)
    )
    for a, b in zip(jax.tree.leaves(low), jax.tree.leaves(wide), strict=True):
        assert a.dtype == jnp.float16
        np.testing.assert_allclose(np.float32(a), b, rtol=0.02, atol=1e-3)


def test_clipping_of_many_examples_in_float16():
    """Weights of C / (n ‖g‖) would be rounded to a few multiples of the smallest number."""
    net = nnjax.mlp([3, 2])
    params = random_params(net, 0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4096, 3)), rng.integers(2, size=4096)
    narrow = jax.tree.map(lambda p: p.astype(jnp.float16), params)
    wide, low = (
        per_example.clipped_gradient(net, p, nnjax.backprop(net, p, x, y), 1e-3)
        for p in (params, narrow)
    )
    for a, b in zip(jax.tree.leaves(low), jax.tree.leaves(wide), strict=True):
        assert np.linalg.norm(np.asarray(a, float) - np.asarray(b)) < 0.01 * np.linalg.norm(b)


@pytest.mark.parametrize(
    "clip_norm", [jnp.array(-1.0), 1e-50, np.float32(-1), jnp.inf, 1j, "1", jnp.ones(2)]
)
def test_clip_norms_that_are_not_positive_numbers(clip_norm):
    net = nnjax.mlp([3, 2])
    params = random_params(net, 0)
    bp = nnjax.backprop(net, params, jnp.eye(3), np.array([0, 1, 1]))
    with pytest.raises(
        ValueError, match=r"clip_norm is .*; expected a norm of at least 1\.2e-38 and"
    ):
        per_example.clipped_gradient(net, params, bp, clip_norm)
