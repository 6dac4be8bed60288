"""Curvature against J and H written out by autodiff, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strategies import random_params

import nnjax
from nnjax import curvature, per_example

TOLERANCE = 1e-10


def net_of(hidden, output, loss, input_shape=4):
    return nnjax.Network(input_shape, [*hidden, nnjax.Dense(3, output)], loss)


CONV = [
    nnjax.Conv(3, (3, 2), padding="same", activation=nnjax.tanh),
    nnjax.MeanPool(2),
    nnjax.Conv(2, 2, activation=nnjax.sigmoid),
    nnjax.Flatten(),
]
NETS = {
    "softmax": net_of(
        [nnjax.Dense(5, nnjax.tanh), nnjax.Dense(4, nnjax.sigmoid)],
        nnjax.Softmax(1.7),
        nnjax.log_likelihood,
    ),
    "sigmoid": net_of([nnjax.Dense(5, nnjax.relu)], nnjax.sigmoid, nnjax.cross_entropy),
    "quadratic": net_of([nnjax.Dense(5, nnjax.tanh)], nnjax.sigmoid, nnjax.quadratic),
    "softmax, quadratic": net_of([nnjax.Dense(5, nnjax.tanh)], nnjax.softmax, nnjax.quadratic),
    "dropout": net_of(
        [nnjax.Dropout(0.2), nnjax.Dense(6, nnjax.tanh), nnjax.Dropout(0.5)],
        nnjax.softmax,
        nnjax.log_likelihood,
    ),
    "conv": net_of(CONV, nnjax.softmax, nnjax.log_likelihood, (6, 4, 2)),
}


class Setup:
    """A network, a batch, its backward pass; J (n, n_out, P), H (n, n_out, n_out) by autodiff."""

    def __init__(self, net, n=4, key=None, seed=0):
        self.net, self.n, self.key = net, n, key
        rng = np.random.default_rng(seed)
        self.params = random_params(net, seed, jnp.float64)
        self.x = jax.device_put(rng.normal(size=(n, *net.input_shape)))
        y = rng.random((n, net.n_out))
        self.y = jax.device_put(y / y.sum(1, keepdims=True))
        self.bp = nnjax.backprop(net, self.params, self.x, self.y, key)
        self.args = (net, self.params, self.bp)
        self.flat, self.unflatten = jax.flatten_util.ravel_pytree(self.params)

    @functools.cached_property
    def J(self):
        @jax.jit
        @jax.jacrev
        def jacobian(flat):
            return self.forward(self.unflatten(flat)).weighted_inputs[-1]

        return jacobian(self.flat)

    @functools.cached_property
    def H(self):
        net = self.net
        output = net.layers[-1].activation

        def hessian(z, y):
            if isinstance(net.loss, nnjax.losses.Quadratic):  # at a
                da = jax.jacobian(output)(z)
                return da.T @ jax.hessian(lambda a: net.loss(a, y))(output(z)) @ da
            return jax.hessian(lambda z: net.loss.at(output, z, output(z), y))(z)

        return jax.jit(jax.vmap(hessian))(self.bp.weighted_inputs[-1], self.y)

    @functools.cached_property
    def ggn(self):
        return jnp.einsum("nop,noq,nqr->pr", self.J, self.H, self.J) / self.n

    def forward(self, params):
        return nnjax.network.forward(self.net, params, self.x, self.key)


SLOW = ("softmax", "sigmoid", "dropout", "softmax, quadratic")


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NETS],
    scope="module",
)
def case(request):
    with jax.enable_x64(True):
        key = jax.random.key(5) if request.param == "dropout" else None
        yield Setup(NETS[request.param], key=key)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def flatten(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def assert_same(claimed, expected, tolerance=TOLERANCE):
    claimed, expected = np.asarray(claimed), np.asarray(expected)
    assert claimed.shape == expected.shape
    error = np.linalg.norm(np.ravel(claimed - expected))
    assert error <= tolerance * np.linalg.norm(np.ravel(expected))


def test_backward_pulls_any_seed_back_to_every_layer(case):
    rng = np.random.default_rng(1)
    seeds = jnp.asarray(rng.normal(size=(3, case.n, 3)))
    errors = nnjax.backward(*case.args, seeds)
    assert [e.shape for e in errors] == [(3, *z.shape) for z in case.bp.weighted_inputs]

    # ∂z^L/∂z^l by autodiff: shift z^l by 0 and differentiate by the shift
    def outputs(shifts):
        a, key = case.bp.activations[0], case.key
        for l, layer in enumerate(case.net.layers):
            z = nnjax.network.forward_layer(case.net, case.params, l, a, key)[0] + shifts[l]
            a = layer.activation(z)
        return z

    zeros = [np.zeros(z.shape) for z in case.bp.weighted_inputs]
    expected = jax.jit(jax.vmap(lambda seed: jax.vjp(outputs, zeros)[1](seed)[0]))(seeds)
    for ours, theirs in zip(errors, expected, strict=True):
        for ours_of_v, theirs_of_v in zip(np.asarray(ours), np.asarray(theirs), strict=True):
            assert_same(ours_of_v, theirs_of_v)


def test_backward_of_the_output_error_is_backpropagation(case):
    errors = nnjax.backward(*case.args, case.bp.errors[-1][None])
    for ours, theirs in zip(errors, case.bp.errors, strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-12, atol=1e-15)


def test_exact_seeds_are_a_root_of_the_hessian(case):
    s = curvature.exact_seeds(case.net, case.bp)
    assert_same(jnp.einsum("vno,vnq->noq", s, s), case.H)


def test_sampled_seeds_have_that_hessian_in_the_mean(case):
    s = curvature.sampled_seeds(case.net, case.bp, jax.random.key(0), samples=80_000)
    assert_same(jnp.einsum("vno,vnq->noq", s, s), case.H, 0.03)
    mean = jnp.sqrt(80_000) * jnp.mean(s, axis=0)  # the score has mean zero
    assert float(jnp.max(jnp.abs(mean))) < 0.03 * np.sqrt(3) * 1.7


def test_ggn_diagonal(case):
    assert_same(flatten(curvature.ggn_diagonal(*case.args)), jnp.diagonal(case.ggn))
    seeds = curvature.sampled_seeds(case.net, case.bp, jax.random.key(0), samples=3)
    pulled = jnp.einsum("nop,vno->vnp", case.J, seeds)
    sampled = curvature.ggn_diagonal(*case.args, seeds)
    assert_same(flatten(sampled), jnp.sum(pulled**2, axis=(0, 1)) / case.n)


def test_empirical_seeds_give_the_squares_of_the_gradients(case):
    empirical = curvature.ggn_diagonal(*case.args, case.bp.errors[-1][None])
    assert_same(flatten(empirical), flatten(per_example.sum_of_squares(*case.args)) / case.n)


def test_products(case):
    rng = np.random.default_rng(2)
    v = jnp.asarray(rng.normal(size=case.flat.size))
    product = curvature.ggn_vector_product(*case.args, case.unflatten(v))
    assert_same(flatten(product), case.ggn @ v)

    def gradient(flat):
        params = case.unflatten(flat)
        auto = jax.grad(nnjax.loss, argnums=1)(case.net, params, case.x, case.y, case.key)
        return flatten(auto)

    expected = jax.jit(lambda at, v: jax.jvp(gradient, (at,), (v,))[1])(case.flat, v)
    found = curvature.hessian_vector_product(*case.args, case.unflatten(v))
    assert_same(flatten(found), expected)


def test_neural_tangent_kernel(case):
    expected = jnp.einsum("nvp,mup->nmvu", case.J, case.J)
    assert_same(curvature.neural_tangent_kernel(*case.args), expected)
    own = curvature.neural_tangent_kernel(*case.args, case.bp.errors[-1][None])
    assert_same(own[:, :, 0, 0], per_example.gram(*case.args))


def blocks(setup):
    """Return the GGN's block of each layer with parameters, in the order of [w | b] by rows."""
    found, start = [], 0
    for p in filter(None, setup.params):
        size, fan_in = p.w.size + p.b.size, p.w.size // len(p.b)
        rows = np.arange(len(p.b))[:, None]
        order = np.concatenate([rows * fan_in + np.arange(fan_in), p.w.size + rows], axis=1)
        at = start + order.ravel()
        found.append(setup.ggn[at][:, at])
        start += size
    return found


def products(factors):
    return [jnp.kron(f.g, f.a) for f in factors if f]


@pytest.mark.slow
def test_kronecker_factors_are_exact_for_one_example():
    setup = Setup(NETS["softmax"], n=1)
    found = products(curvature.kronecker_factors(*setup.args))
    for product, block in zip(found, blocks(setup), strict=True):
        assert_same(product, block)


@pytest.mark.slow
def test_kronecker_factors_are_exact_for_linear_networks_and_not_for_others():
    linear = net_of(
        [nnjax.Dense(5, nnjax.identity), nnjax.Dense(4, nnjax.identity)],
        nnjax.identity,
        nnjax.quadratic,
    )
    setup = Setup(linear, n=6)
    found = products(curvature.kronecker_factors(*setup.args))
    for product, block in zip(found, blocks(setup), strict=True):
        assert_same(product, block)
    setup = Setup(NETS["softmax"], n=6)
    found = products(curvature.kronecker_factors(*setup.args))[0]
    assert float(jnp.linalg.norm(found - blocks(setup)[0]) / jnp.linalg.norm(found)) > 0.01


def test_kronecker_factors_of_convolutions_are_those_of_the_paper():
    setup = Setup(NETS["conv"])
    factors = curvature.kronecker_factors(*setup.args)
    seeds = curvature.exact_seeds(setup.net, setup.bp)
    errors = nnjax.backward(*setup.args, seeds)
    a, g = np.zeros((13, 13)), np.zeros((3, 3))
    padded = np.pad(np.asarray(setup.x), [(0, 0), (1, 1), (0, 1), (0, 0)])
    for n in range(setup.n):
        for i in range(6):
            for j in range(4):
                patch = np.append(padded[n, i : i + 3, j : j + 2], 1.0)
                a += np.outer(patch, patch) / setup.n
                for v in range(3):
                    d = errors[0][v, n, i, j]
                    g += np.outer(d, d) / (setup.n * 24)
    assert_same(factors[0].a, a)
    assert_same(factors[0].g, g)


@pytest.mark.slow
def test_kronecker_factors_with_sampled_and_empirical_seeds():
    setup = Setup(NETS["sigmoid"], n=3)
    d = setup.bp.errors[0]
    empirical = curvature.kronecker_factors(*setup.args, setup.bp.errors[-1][None])
    assert_same(empirical[0].g, d.T @ d / 3)
    exact = curvature.kronecker_factors(*setup.args)
    seeds = curvature.sampled_seeds(setup.net, setup.bp, jax.random.key(0), samples=20_000)
    sampled = curvature.kronecker_factors(*setup.args, seeds)
    assert_same(sampled[0].g, exact[0].g, 0.05)
    assert_same(sampled[0].a, exact[0].a)


def test_precondition_solves_the_damped_system():
    setup = Setup(NETS["conv"])
    factors = curvature.kronecker_factors(*setup.args)
    direction = curvature.precondition(factors, setup.bp.grads, damping=0.04)
    f, grad, found = factors[0], setup.bp.grads[0], direction[0]
    pi = jnp.sqrt(jnp.trace(f.a) / len(f.a) / (jnp.trace(f.g) / len(f.g)))
    damped = jnp.kron(f.g + 0.2 / pi * jnp.eye(3), f.a + 0.2 * pi * jnp.eye(13))

    def columns(p):
        return jnp.concatenate([p.w.reshape(3, -1), p.b[:, None]], axis=1).ravel()

    assert_same(damped @ columns(found), columns(grad))
    assert direction[1] == ()


@pytest.mark.slow
def test_precondition_stands_dead_layers():
    net = net_of([nnjax.Dense(5, nnjax.relu)], nnjax.softmax, nnjax.log_likelihood)
    params = random_params(net, 0, jnp.float64)
    params = (nnjax.Affine(params[0].w, params[0].b - 100), params[1])
    bp = nnjax.backprop(net, params, jnp.ones((3, 4)), jnp.array([0, 1, 2]))
    factors = curvature.kronecker_factors(net, params, bp)
    direction = curvature.precondition(factors, bp.grads, 0.01)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(direction))


@pytest.mark.parametrize("dtype", [pytest.param(jnp.bfloat16, marks=pytest.mark.slow), jnp.float16])
def test_kfac_in_16_bits(dtype):
    """Its factors are float32: in float16 that of these inputs would be infinite."""
    net = nnjax.mlp([3, 2], loss=nnjax.log_likelihood)
    narrow = random_params(net, 0, dtype)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), narrow)
    x, y, key = 300 * jnp.eye(3), jnp.array([0, 1, 1]), jax.random.key(0)

    def direction(params):
        bp = nnjax.backprop(net, params, x, y)
        factors = curvature.kronecker_factors(net, params, bp, jnp.ones((1, 3, 2)))
        assert {leaf.dtype for leaf in jax.tree.leaves(factors)} == {jnp.dtype(jnp.float32)}
        np.testing.assert_allclose(factors[0].a[:3, :3], 30_000 * np.eye(3), rtol=0.01)
        return curvature.precondition(factors, bp.grads, 0.1)

    for a, b in zip(*map(jax.tree.leaves, (direction(narrow), direction(wide))), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.float32(a), b, rtol=0.03, atol=0.01)
    stepped = curvature.kfac_step(net, narrow, jnp.eye(3), y, 0.5, key, damping=0.1)
    assert {leaf.dtype for leaf in jax.tree.leaves(stepped)} == {jnp.dtype(dtype)}
    assert nnjax.loss(net, stepped, jnp.eye(3), y) < nnjax.loss(net, narrow, jnp.eye(3), y)


@pytest.mark.slow
def test_kfac_trains_in_fewer_steps_than_gradient_descent():
    rng = np.random.default_rng(0)
    net = nnjax.mlp([8, 16, 3], activation=nnjax.tanh, loss=nnjax.log_likelihood)
    params = random_params(net, 0, jnp.float64)
    x = rng.normal(size=(200, 8))
    y = jnp.asarray(np.argmax(x[:, :3], axis=1))
    x = jnp.asarray(x * np.logspace(-1, 0, 8))  # badly conditioned

    @jax.jit
    def by_kfac(params):
        def step(params, key):
            return curvature.kfac_step(net, params, x, y, 0.5, key, damping=1e-3), None

        return jax.lax.scan(step, params, jax.random.split(jax.random.key(1), 30))[0]

    @jax.jit
    def by_gradients(params, eta):
        step = lambda params, _: (nnjax.sgd_step(net, params, x, y, eta), None)  # noqa: E731
        return jax.lax.scan(step, params, length=30)[0]

    best = min(float(nnjax.loss(net, by_gradients(params, eta), x, y)) for eta in (0.1, 0.5, 2.0))
    assert float(nnjax.loss(net, by_kfac(params), x, y)) < 0.3 * best


@pytest.mark.slow
def test_under_jit_and_vmap_over_networks():
    net = NETS["softmax"]
    setup = Setup(net)

    @jax.jit
    def diagonal(params):
        bp = nnjax.backprop(net, params, setup.x, setup.y)
        return curvature.ggn_diagonal(net, params, bp)

    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), setup.params)
    together = jax.vmap(diagonal)(stacked)
    for i in range(2):
        alone = diagonal(jax.tree.map(lambda p, i=i: p[i], stacked))
        assert_same(flatten(jax.tree.map(lambda d, i=i: d[i], together)), flatten(alone))


def test_targets_that_do_not_sum_to_one_weight_their_examples():
    net = NETS["softmax"]
    setup = Setup(net)
    weights = jnp.array([0.5, 2.0, 1.0, 0.0])
    bp = nnjax.backprop(net, setup.params, setup.x, setup.y * weights[:, None])
    ggn = jnp.einsum("n,nop,noq,nqr->pr", weights, setup.J, setup.H, setup.J) / 4
    assert_same(flatten(curvature.ggn_diagonal(net, setup.params, bp)), jnp.diagonal(ggn))
    weighted = nnjax.backprop(net, setup.params, setup.x, setup.y, weights=weights)
    assert_same(flatten(curvature.ggn_diagonal(net, setup.params, weighted)), jnp.diagonal(ggn))
    hard = nnjax.backprop(net, setup.params, setup.x, jnp.array([0, 1, 2, 0]))
    soft, hard = (curvature.exact_seeds(net, b) for b in (setup.bp, hard))
    assert_same(soft, hard)  # sums of 1: soft or one-hot makes no difference


def test_weights_of_examples_weight_their_curvature():
    net = nnjax.mlp([4, 3], loss=nnjax.log_likelihood)  # one layer: the Hessian is G
    params, vector = random_params(net, 0, jnp.float64), random_params(net, 1, jnp.float64)
    x, y = jax.random.normal(jax.random.key(0), (4, 4)), jnp.array([0, 1, 2, 0])
    weights = jnp.array([0.5, 2.0, 1.0, 0.0])
    bp = nnjax.backprop(net, params, x, y, weights=weights)
    gradient = jax.grad(lambda params: nnjax.loss(net, params, x, y, weights=weights))
    expected = flatten(jax.jit(lambda p, v: jax.jvp(gradient, (p,), (v,))[1])(params, vector))
    assert_same(flatten(curvature.hessian_vector_product(net, params, bp, vector)), expected)
    assert_same(flatten(curvature.ggn_vector_product(net, params, bp, vector)), expected)
    s = curvature.sampled_seeds(net, bp, jax.random.key(1), samples=2)
    of_ones = curvature.sampled_seeds(net, bp._replace(weights=None), jax.random.key(1), samples=2)
    assert_same(s, jnp.sqrt(weights)[None, :, None] * of_ones)


def test_vectors_of_another_dtype_are_taken():
    net = nnjax.mlp([4, 3], loss=nnjax.log_likelihood)
    params = random_params(net, 0, jnp.float32)
    bp = nnjax.backprop(net, params, jnp.ones((2, 4)), jnp.array([0, 1]))
    for product in (curvature.hessian_vector_product, curvature.ggn_vector_product):
        wide = product(net, params, bp, random_params(net, 1, jnp.float64))
        assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype("float32")}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_same_numbers_as_backpack():
    torch = pytest.importorskip("torch")
    backpack = pytest.importorskip("backpack")
    from backpack import extensions

    setup = Setup(net_of([nnjax.Dense(5, nnjax.tanh)], nnjax.softmax, nnjax.log_likelihood))
    labels = np.array([0, 2, 1, 1])
    bp = nnjax.backprop(setup.net, setup.params, setup.x, labels)
    linear = [torch.nn.Linear(4, 5).double(), torch.nn.Linear(5, 3).double()]
    for module, p in zip(linear, setup.params, strict=True):
        module.weight.data = torch.tensor(np.asarray(p.w))
        module.bias.data = torch.tensor(np.asarray(p.b))
    model = backpack.extend(torch.nn.Sequential(linear[0], torch.nn.Tanh(), linear[1]))
    loss = backpack.extend(torch.nn.CrossEntropyLoss())
    value = loss(model(torch.tensor(np.asarray(setup.x))), torch.tensor(labels))
    with backpack.backpack(extensions.DiagGGNExact(), extensions.KFLR()):
        value.backward()
    diagonal = curvature.ggn_diagonal(setup.net, setup.params, bp)
    factors = curvature.kronecker_factors(setup.net, setup.params, bp)
    for module, d, f in zip(linear, diagonal, factors, strict=True):
        assert_same(d.w, module.weight.diag_ggn_exact.numpy())
        assert_same(d.b, module.bias.diag_ggn_exact.numpy())
        g, a = (factor.numpy() for factor in module.weight.kflr)
        assert_same(jnp.kron(f.g, f.a[:-1, :-1]), np.kron(g, a))


def test_bad_input():
    setup = Setup(NETS["softmax"])
    net, params, bp = setup.args
    other = nnjax.mlp([4, 6, 3], loss=nnjax.log_likelihood)
    with pytest.raises(ValueError, match="bp is of another network"):
        curvature.ggn_diagonal(other, random_params(other, 0), bp)
    small = nnjax.init(nnjax.mlp([3, 5, 4, 3]), jax.random.key(0))
    with pytest.raises(ValueError, match=r"params\[0\]\.w has shape"):
        curvature.ggn_diagonal(net, small, bp)
    with pytest.raises(ValueError, match=r"seeds has shape \(4, 3\); expected \(V, 4, 3\)"):
        nnjax.backward(net, params, bp, jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"seeds has shape \(1, 4, 2\); expected \(V, 4, 3\)"):
        curvature.kronecker_factors(net, params, bp, jnp.ones((1, 4, 2)))
    with pytest.raises(TypeError, match="bp is a tuple; backward needs the bp of"):
        nnjax.backward(net, params, (), jnp.ones((1, 4, 3)))
    with pytest.raises(ValueError, match="samples is 0; expected an integer of at least 1"):
        curvature.sampled_seeds(net, bp, jax.random.key(0), samples=0)
    with pytest.raises(TypeError, match="key is 0; expected a random key"):
        curvature.sampled_seeds(net, bp, 0)
    with pytest.raises(
        ValueError, match=r"damping is 1e-50; expected a number of at least 1\.2e-38"
    ):
        curvature.precondition((), (), 1e-50)  # 0 in float32
    factors = curvature.kronecker_factors(net, params, bp)
    for grads in (bp.grads[:1], bp.grads[::-1], None):
        with pytest.raises(TypeError, match="that the factors do not fit; expected the gradient"):
            curvature.precondition(factors, grads, 0.1)
    with pytest.raises(ValueError, match=r"eta is -1\.0; expected a learning rate"):
        curvature.kfac_step(net, params, setup.x, setup.y, -1.0, jax.random.key(0))
    with pytest.raises(ValueError, match="vector has the structure"):
        curvature.hessian_vector_product(net, params, bp, params[:1])
    negative = nnjax.backprop(net, params, setup.x, -setup.y)
    with pytest.raises(ValueError, match="targets sum to -1 in an example; the curvature of softm"):
        curvature.exact_seeds(net, negative)


def test_updates_of_a_feedback_rule_are_refused():
    setup = Setup(NETS["softmax"])
    rule = nnjax.feedback.FeedbackAlignment(setup.params)
    fp = nnjax.backprop(setup.net, setup.params, setup.x, setup.y, feedback=rule)
    args = (setup.net, setup.params, fp)
    calls = {
        "backward": lambda: nnjax.backward(*args, fp.errors[-1][None]),
        "curvature": lambda: curvature.exact_seeds(setup.net, fp),
        "ggn_diagonal": lambda: curvature.ggn_diagonal(*args),
        "kronecker_factors": lambda: curvature.kronecker_factors(*args),
        "ggn_vector_product": lambda: curvature.ggn_vector_product(*args, setup.params),
        "hessian_vector_product": lambda: curvature.hessian_vector_product(*args, setup.params),
        "neural_tangent_kernel": lambda: curvature.neural_tangent_kernel(*args),
    }
    for name, call in calls.items():
        message = f"bp holds the updates of a feedback rule, which are not gradients; {name} needs"
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize(
    ("output", "loss"),
    [(nnjax.softmax, nnjax.cross_entropy), (nnjax.sigmoid, nnjax.log_likelihood)],
)
def test_pairings_without_a_gauss_newton_matrix_are_refused(output, loss):
    setup = net_of([], output, loss), (jnp.ones((2, 4)), jnp.array([0, 1]))
    net, batch = setup
    params = random_params(net, 0)
    bp = nnjax.backprop(net, params, *batch)
    with pytest.raises(ValueError, match="has no Gauss-Newton matrix that all agree on"):
        curvature.ggn_diagonal(net, params, bp)
    curvature.hessian_vector_product(net, params, bp, params)


def test_a_missing_dropout_key_is_noticed():
    setup = Setup(NETS["dropout"], key=jax.random.key(5))
    lost = setup.bp._replace(key=None)
    with pytest.raises(ValueError, match=r"bp\.key is None, but layers\[0\], Dropout\(rate=0\.2\)"):
        curvature.ggn_diagonal(setup.net, setup.params, lost)
    at_inference = nnjax.backprop(setup.net, setup.params, setup.x, setup.y)
    curvature.ggn_diagonal(setup.net, setup.params, at_inference)


@pytest.mark.slow
def test_layers_that_are_not_affine_have_no_kronecker_factors():
    class Gate(nnjax.Layer):
        def out_shape(self, in_shape):
            return in_shape

        def init(self, key, in_shape, dtype=float):
            return jnp.ones(in_shape, dtype)

        def forward(self, params, a, key):
            return params * a, a

        def pull_back(self, params, cache, delta):
            return params * delta

        def gradients(self, cache, delta):
            g = cache * delta
            return jnp.sum(g, axis=0) if g.ndim > 1 else g

    block = nnjax.Residual(nnjax.LayerNorm(), nnjax.Dense(4, nnjax.tanh))
    setup = Setup(net_of([Gate(), block], nnjax.softmax, nnjax.log_likelihood))
    assert_same(flatten(curvature.ggn_diagonal(*setup.args)), jnp.diagonal(setup.ggn))
    expected = jnp.einsum("nvp,mup->nmvu", setup.J, setup.J)
    assert_same(curvature.neural_tangent_kernel(*setup.args), expected)
    with pytest.raises(TypeError, match="not an affine layer of one group; Kronecker"):
        curvature.kronecker_factors(*setup.args)
    grouped = [nnjax.Conv(2, 2, groups=2), nnjax.Flatten()]
    setup = Setup(net_of(grouped, nnjax.softmax, nnjax.log_likelihood, (3, 2, 2)))
    assert_same(flatten(curvature.ggn_diagonal(*setup.args)), jnp.diagonal(setup.ggn))
    with pytest.raises(TypeError, match="not an affine layer of one group; Kronecker"):
        curvature.kronecker_factors(*setup.args)
