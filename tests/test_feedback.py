"""Learning rules: what replaces wᵀ, held against the formulas written out with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from strategies import random_params

import nnjax
from nnjax import feedback

DENSE = nnjax.mlp([5, 7, 6, 4, 3], activation=nnjax.tanh, loss=nnjax.log_likelihood)
CONV = nnjax.Network(
    (6, 5, 2),
    [
        nnjax.Conv(3, (3, 2), padding="same", activation=nnjax.relu),
        nnjax.MaxPool(2),
        nnjax.Conv(4, 2, activation=nnjax.tanh),
        nnjax.Flatten(),
        nnjax.Dropout(0.2),
        nnjax.Dense(5, nnjax.sigmoid),
        nnjax.Dense(3),
    ],
    nnjax.cross_entropy,
)
RESIDUAL = nnjax.Network(
    5,
    [
        nnjax.Dense(4, nnjax.tanh),
        nnjax.Residual(nnjax.LayerNorm(), nnjax.Dense(4, nnjax.tanh)),
        nnjax.Dense(3),
    ],
    nnjax.cross_entropy,
)
NETS = {"dense": DENSE, "conv": CONV, "residual": RESIDUAL}


def setup(net, n=4):
    params = random_params(net, 0, jnp.float64)
    rng = np.random.default_rng(0)
    x = jax.device_put(rng.normal(size=(n, *net.input_shape)))
    return params, x, jax.device_put(rng.integers(net.n_out, size=n))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def assert_close(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("dense", "conv")), "residual"]
)
def test_with_the_weights_themselves_it_is_backpropagation_bit_for_bit(name):
    net = NETS[name]
    params, x, y = setup(net)
    key = jax.random.key(3)
    bp = nnjax.backprop(net, params, x, y, key)
    fp = nnjax.backprop(net, params, x, y, key, feedback=feedback.FeedbackAlignment(params))
    came, expected = (jax.tree.leaves(tuple(p[:5])) for p in (fp, bp))  # all but y and the key
    for ours, theirs in zip(came, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.slow
def test_sign_symmetry_with_the_sizes_of_the_weights_is_backpropagation(name):
    params, x, y = setup(NETS[name])
    bp = nnjax.backprop(NETS[name], params, x, y)
    turned = jax.tree.map(jnp.negative, params)  # the signs of B have no part in it
    rule = feedback.SignSymmetry(turned)
    assert_close(nnjax.backprop(NETS[name], params, x, y, feedback=rule).updates, bp.grads)


def updates_by_hand(params, fp, y, g):
    """Return the updates of `DENSE` in NumPy; g(l, δ^{l+1}, δ^L) is what comes back to a^l."""
    a = [np.asarray(v) for v in fp.activations]
    delta = a[-1] - np.eye(3)[np.asarray(y)]
    deltas = [delta]
    for l in reversed(range(1, len(params))):
        delta = g(l, delta, deltas[0]) * (1 - a[l] ** 2)
        deltas.append(delta)
    deltas.reverse()
    n = len(y)
    return [(d.T @ a_prev / n, d.sum(0) / n) for d, a_prev in zip(deltas, a[:-1], strict=True)]


@pytest.mark.parametrize("rule", [name for name in feedback.RULES if name != "transpose"])
def test_every_rule_is_its_formula(rule):
    params, x, y = setup(DENSE)
    fb = feedback.init(DENSE, jax.random.key(1), rule, jnp.float64)
    fp = nnjax.backprop(DENSE, params, x, y, feedback=fb)
    w = [np.asarray(p.w) for p in params]
    b = [np.asarray(getattr(p, "w", p)) for p in getattr(fb, "weights", [None] * 4)]
    formulas = {
        "feedback_alignment": lambda l, delta, out: delta @ b[l],
        "kolen_pollack": lambda l, delta, out: delta @ b[l],
        "sign_symmetry": lambda l, delta, out: delta @ (np.sign(w[l]) * np.abs(b[l])),
        "direct_feedback_alignment": lambda l, delta, out: out @ b[l],
        "direct_random_target_projection": lambda l, delta, out: -np.eye(3)[np.asarray(y)] @ b[l],
        "output_only": lambda l, delta, out: np.zeros((len(y), w[l].shape[1])),
    }
    assert_close(fp.updates, updates_by_hand(params, fp, y, formulas[rule]))
    assert_close(fp.loss, nnjax.loss(DENSE, params, x, y))


@pytest.mark.slow
def test_with_one_hidden_layer_direct_feedback_alignment_is_feedback_alignment():
    net = nnjax.mlp([5, 7, 3], activation=nnjax.tanh)
    params, x, y = setup(net)
    rule = feedback.init(net, jax.random.key(1), "feedback_alignment", jnp.float64)
    direct = feedback.DirectFeedbackAlignment(((), rule.weights[1].w))
    ours, theirs = (nnjax.backprop(net, params, x, y, feedback=f) for f in (rule, direct))
    assert_close(ours.updates, theirs.updates)


def test_with_two_hidden_layers_it_is_not():
    params, x, y = setup(DENSE)
    found = [
        nnjax.backprop(
            DENSE, params, x, y, feedback=feedback.init(DENSE, jax.random.key(1), rule, float)
        ).updates
        for rule in ("feedback_alignment", "direct_feedback_alignment")
    ]
    assert float(feedback.alignment(*found)[0]) > 10


@pytest.mark.parametrize("rule", [name for name in feedback.RULES if name != "transpose"])
@pytest.mark.slow
def test_every_rule_serves_convolutions_pools_and_dropout(rule):
    params, x, y = setup(CONV)
    key = jax.random.key(3)
    fb = feedback.init(CONV, jax.random.key(1), rule, jnp.float64)
    fp = nnjax.backprop(CONV, params, x, y, key, feedback=fb)
    bp = nnjax.backprop(CONV, params, x, y, key)
    assert jax.tree.structure(fp.updates) == jax.tree.structure(params)
    assert_close(fp.updates[-1], bp.grads[-1])  # BP1, BP3 and BP4 are untouched
    hidden = [bool(jnp.any(leaf)) for leaf in jax.tree.leaves(fp.updates[:-1])]
    assert all(hidden) if rule != "output_only" else not any(hidden)


@pytest.mark.slow
def test_a_direct_rule_reaches_a_layer_through_the_pool_behind_it():
    """Conv 1 gets B^3 δ^L, which lies at the input of conv 2, through the max-pool and σ'."""
    params, x, y = setup(CONV)
    fb = feedback.init(CONV, jax.random.key(1), "direct_feedback_alignment", jnp.float64)
    assert [b.shape for b in jax.tree.leaves(fb.weights)] == [(3, 3, 2, 3), (3, 8), (3, 5)]
    fp = nnjax.backprop(CONV, params, x, y, feedback=fb)
    g = jnp.tensordot(fp.errors[-1], fb.weights[2], axes=1)
    np.testing.assert_allclose(fp.errors[1], g, rtol=1e-12)  # the pool's z: identity
    cache = jax.vmap(CONV.layers[1].forward, (None, 0, None))((), fp.activations[1], None)[1]
    through_pool = jax.vmap(CONV.layers[1].pull_back, (None, 0, 0))((), cache, g)
    expected = through_pool * (fp.weighted_inputs[0] > 0).astype(float)
    np.testing.assert_allclose(fp.errors[0], expected, rtol=1e-12)


@pytest.mark.slow
def test_kolen_pollack_weights_become_the_transpose():
    net = nnjax.mlp([5, 8, 6, 3], activation=nnjax.tanh)
    params, x, y = setup(net, n=20)
    rule = feedback.KolenPollack(
        feedback.init(net, jax.random.key(1), "kolen_pollack", jnp.float64).weights, 0.01
    )
    steps = 500

    def step(carry, _):
        params, rule = carry
        updates = nnjax.backprop(net, params, x, y, feedback=rule).updates
        stepped = jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)
        return rule.follow(params, stepped), None

    (after, learned), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))((params, rule))
    for w, b, w0, b0 in zip(after, learned.weights, params, rule.weights, strict=True):
        np.testing.assert_allclose(b.w - w.w, (b0.w - w0.w) * 0.99**steps, rtol=1e-9, atol=1e-15)
    angles = feedback.alignment([p.w for p in after], [p.w for p in learned.weights])
    assert float(jnp.max(angles[1:])) < 3
    assert float(nnjax.loss(net, after, x, y)) < float(nnjax.loss(net, params, x, y))


def test_kolen_pollack_decays_weights_alone_and_both_alike():
    params, _, _ = setup(DENSE)
    rule = feedback.KolenPollack(jax.tree.map(lambda p: 2 * p, params), 0.25)
    moved = jax.tree.map(lambda p: p + 1.0, params)
    after, learned = rule.follow(params, moved)
    for p, new, b in zip(params, after, learned.weights, strict=True):
        np.testing.assert_allclose(new.w, 0.75 * p.w + 1, rtol=1e-13)
        np.testing.assert_allclose(new.b, p.b + 1, rtol=1e-13)
        np.testing.assert_allclose(b.w, 0.75 * 2 * p.w + 1, rtol=1e-13)


def test_fixed_rules_do_not_follow():
    params, _, _ = setup(DENSE)
    rule = feedback.init(DENSE, jax.random.key(1), "feedback_alignment", jnp.float64)
    after, same = rule.follow(params, jax.tree.map(lambda p: p + 1, params))
    assert same is rule
    assert_close(after, jax.tree.map(lambda p: p + 1, params))


def test_rules_are_pytrees_that_jit_stack_and_vmap_without_retracing():
    params, x, y = setup(DENSE)
    traces = []

    @jax.jit
    def updates(rule):
        traces.append(1)
        return nnjax.backprop(DENSE, params, x, y, feedback=rule).updates

    name = "direct_feedback_alignment"
    drawn = [feedback.init(DENSE, jax.random.key(i), name, jnp.float64) for i in range(2)]
    alone = [updates(rule) for rule in drawn]
    assert len(traces) == 1
    together = jax.vmap(updates)(jax.tree.map(lambda *b: jnp.stack(b), *drawn))
    for i in range(2):
        assert_close(jax.tree.map(lambda u, i=i: u[i], together), alone[i])


def test_feedback_weights_are_random_even_where_the_layer_starts_at_zero():
    net = nnjax.mlp([4, 300, 200], initializer=nnjax.initializers.zeros)
    for rule in ("feedback_alignment", "direct_feedback_alignment"):
        entry = feedback.init(net, jax.random.key(0), rule).weights[1]
        std = float(jnp.std(getattr(entry, "w", entry)))
        assert std == pytest.approx(1 / np.sqrt(300), rel=0.02)


def test_alignment_is_the_angle_by_layer_and_exact_where_it_is_small():
    tiny = 1e-9
    pairs = [
        (jnp.array([1.0, 0.0]), jnp.array([np.cos(tiny), np.sin(tiny)])),
        (jnp.array([1.0, 1.0]), jnp.array([3.0, 0.0])),
        (nnjax.Affine(jnp.eye(2), jnp.zeros(2)), nnjax.Affine(-jnp.eye(2), jnp.zeros(2))),
        ((), ()),
        (jnp.zeros(3), jnp.ones(3)),
    ]
    angles = feedback.alignment(*zip(*pairs, strict=True))
    expected = [np.degrees(tiny), 45.0, 180.0, np.nan, np.nan]
    np.testing.assert_allclose(angles, expected, rtol=1e-7)


@pytest.mark.slow
def test_it_learns_by_aligning():
    """Feedback alignment trains, and its updates turn towards the gradient below 90 degrees."""
    net = nnjax.mlp([6, 20, 3], activation=nnjax.tanh)
    params, x, _ = setup(net, n=60)
    y = jnp.argmax(x[:, :3] * x[:, 3:], axis=1)
    rule = feedback.init(net, jax.random.key(1), "feedback_alignment", jnp.float64)

    def step(params, _):
        fp = nnjax.backprop(net, params, x, y, feedback=rule)
        grads = nnjax.backprop(net, params, x, y).grads
        stepped = jax.tree.map(lambda p, u: p - 0.5 * u, params, fp.updates)
        return stepped, (fp.loss, feedback.alignment(fp.updates, grads)[0])

    _, (losses, angles) = jax.jit(lambda p: jax.lax.scan(step, p, length=400))(params)
    assert float(losses[-1]) < 0.5 * float(losses[0])
    assert float(jnp.mean(angles[-50:])) < 75


def test_bad_input():
    params, x, y = setup(DENSE)
    other = nnjax.mlp([5, 6, 3])
    with pytest.raises(ValueError, match="rule is 'dfa'; expected one of transpose, feedback_"):
        feedback.init(DENSE, jax.random.key(0), "dfa")
    with pytest.raises(TypeError, match="key is 0; expected a random key"):
        feedback.init(DENSE, 0, "feedback_alignment")
    with pytest.raises(TypeError, match="feedback is 'dfa'; expected None or a rule with its wei"):
        nnjax.backprop(DENSE, params, x, y, feedback="dfa")
    fa, dfa = (
        feedback.init(other, jax.random.key(0), rule, jnp.float64)
        for rule in ("feedback_alignment", "direct_feedback_alignment")
    )
    with pytest.raises(ValueError, match=r"feedback\.weights has the structure"):
        nnjax.backprop(DENSE, params, x, y, feedback=fa)
    with pytest.raises(ValueError, match=r"feedback\.weights have the shapes .* this network"):
        nnjax.backprop(DENSE, params, x, y, feedback=dfa)
    with pytest.raises(ValueError, match=r"decay of KolenPollack is 1\.5; expected the fraction"):
        nnjax.backprop(DENSE, params, x, y, feedback=feedback.KolenPollack(params, 1.5))
    with pytest.raises(ValueError, match="alignment compares two of the same shapes, but these"):
        feedback.alignment(params, params[:1])


def test_transpose_needs_no_feedback_weights():
    assert feedback.init(DENSE, jax.random.key(0), "transpose") is None


def digits(n=200):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(n, 6)))
    part = (x, jnp.argmax(x[:, :3] * x[:, 3:], axis=1))
    return nnjax.data.Dataset(part, None, part)


@pytest.mark.slow
def test_train_takes_a_feedback():
    """Gradients lead, feedback alignment follows, random features come last."""
    net, data, key = nnjax.mlp([6, 16, 3], activation=nnjax.tanh), digits(), jax.random.key(0)
    setting = {"optimizer": optax.sgd(0.3), "epochs": 30, "batch_size": 10, "key": key}
    setting |= {"evaluate_on": ["test"]}
    losses = {}
    for rule in ("transpose", "feedback_alignment", "output_only"):
        fb = feedback.init(net, jax.random.key(1), rule, jnp.float64)
        state, history = nnjax.train(net, data, feedback=fb, **setting)
        losses[rule] = history["test_loss"][-1]
        assert_close(state.feedback, fb)  # these stay as they are
    assert losses["transpose"] < losses["feedback_alignment"] < losses["output_only"]


@pytest.mark.slow
def test_train_goes_on_with_feedback_weights_that_learn():
    net, data = nnjax.mlp([6, 8, 3], activation=nnjax.tanh), digits(60)
    rule = feedback.init(net, jax.random.key(1), "kolen_pollack", jnp.float64)
    setting = {"optimizer": optax.sgd(0.3), "batch_size": 10, "key": jax.random.key(0)}
    setting |= {"feedback": rule, "evaluate_on": []}
    whole, _ = nnjax.train(net, data, epochs=4, **setting)
    assert float(jnp.max(jnp.abs(whole.feedback.weights[1].w - rule.weights[1].w))) > 0.01
    half, _ = nnjax.train(net, data, epochs=2, **setting)
    rest, _ = nnjax.train(net, data, epochs=4, state=half, **setting)
    for a, b in zip(*(jax.tree.leaves((s.params, s.feedback)) for s in (whole, rest)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"state\.feedback is of another run: of another feedback"):
        nnjax.train(net, data, epochs=5, state=half, **(setting | {"feedback": None}))
    with pytest.raises(TypeError, match="feedback is 'dfa'; expected None or a rule"):
        nnjax.train(net, data, epochs=1, **(setting | {"feedback": "dfa"}))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [name for name in feedback.RULES if name != "transpose"])
def test_feedback_weights_of_another_dtype_leave_the_updates_theirs(rule):
    params, x, y = setup(DENSE)
    narrow = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    weights = feedback.init(DENSE, jax.random.key(1), rule, jnp.float32)
    wide = jax.tree.map(lambda b: jnp.asarray(b, jnp.float64), weights)
    same, other = (nnjax.backprop(DENSE, params, x, y, feedback=f) for f in (wide, weights))
    for p, a, b in zip(*map(jax.tree.leaves, (params, same.updates, other.updates)), strict=True):
        assert b.dtype == p.dtype
        np.testing.assert_array_equal(a, b)
    low = nnjax.backprop(DENSE, narrow, x, y, feedback=wide)
    assert {u.dtype for u in jax.tree.leaves((low.updates, low.errors))} == {np.dtype("float32")}
    stepped, followed = wide.follow(narrow, jax.tree.map(lambda p, u: p - u, narrow, low.updates))
    assert {p.dtype for p in jax.tree.leaves(stepped)} == {np.dtype("float32")}
    assert {b.dtype for b in jax.tree.leaves(followed)} <= {np.dtype("float64")}
