"""The graph of a function: values, tangents and cotangents as JAX gives them, and lines."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax.gradcheck.graph import TOTAL, trace, trace_at
from nnjax.gradcheck.rules import evaluate, passage


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def graph_of(f, *args, argnums=None, opaque=False):
    argnums = range(len(args)) if argnums is None else argnums
    return trace_at(trace(f, args), args, argnums, opaque)


def nested(x, w):
    def step(carry, row):
        carry = jnp.tanh(carry + jax.nn.relu(row))
        return carry, carry * row

    last, rows = jax.lax.scan(step, w, x)
    chosen = jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, last)
    return jnp.sum(jax.checkpoint(jnp.exp)(chosen)) + jnp.sum(jax.jit(jnp.square)(rows))


def mixed(x, w):
    y = jnp.einsum("bij,jk->bki", x, w)
    z = jnp.concatenate([y[:, ::-1], jnp.pad(y, ((0, 0), (0, 1), (0, 0)))], axis=1)
    z = jnp.where(z > 0.1, z, 0.2 * z)[:, jnp.array([0, 2, 2, 1])]
    a, b = jnp.split(jnp.cumsum(z, axis=1), 2, axis=1)
    return jnp.max(jnp.sort(a.ravel()) * jnp.arange(1.0 * a.size)) + jnp.mean(
        jax.nn.softmax(b) ** 1.5
    )


def example(f):
    rng = np.random.default_rng(0)
    if f is nested:
        return rng.normal(size=(4, 3)), rng.normal(size=3)
    return rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 3))


@pytest.mark.parametrize("f", [nested, pytest.param(mixed, marks=pytest.mark.slow)])
def test_backward_is_the_gradient(f):
    args = example(f)
    graph = graph_of(f, *args)
    cotangents, _ = graph.backward()
    for leaf, right in zip(graph.leaves, jax.grad(f, (0, 1))(*args), strict=True):
        np.testing.assert_allclose(cotangents[leaf][0], right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("f", [nested, mixed])
def test_forward_is_the_derivative_along_directions(f):
    args, rng = example(f), np.random.default_rng(1)
    graph = graph_of(f, *args)
    directions = [rng.normal(size=(2, *np.shape(x))) for x in args]
    found = graph.forward(directions)[graph.output]
    for i in range(2):
        _, right = jax.jvp(f, args, tuple(d[i] for d in directions))
        np.testing.assert_allclose(found[i], right, rtol=1e-10)


def test_a_scan_and_a_cond_are_laid_out():
    names = [equation.name for equation in graph_of(nested, *example(nested)).equations]
    assert names.count("tanh") == 4
    assert not {"scan", "cond", "pjit", "jit", "checkpoint"} & set(names)


def test_a_rule_of_its_own_can_be_left_as_it_is():
    @jax.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, x), lambda x, g: (jnp.clip(g, -0.5, 0.5),))

    def f(x):
        return jnp.sum(clipped(x) * jnp.array([0.1, 3.0]))

    x = np.ones(2)
    for opaque, right in ((False, [0.1, 3.0]), (True, [0.1, 0.5])):
        graph = graph_of(f, x, opaque=opaque)
        np.testing.assert_allclose(graph.backward()[0][graph.leaves[0]][0], right, atol=1e-12)


def test_an_edit_changes_what_flows_along_one_edge():
    def f(x):
        return jnp.sum(x * jnp.tanh(x))

    x = np.array([0.3, -0.7])
    graph = graph_of(f, x)
    edge = next(e for e in graph.edges if graph.equations[e[0]].name == "tanh")
    cotangents, _ = graph.backward({edge: lambda e, g, flow, c: 0 * flow})
    np.testing.assert_allclose(cotangents[graph.leaves[0]][0], np.tanh(x))
    whole = {(TOTAL, graph.leaves[0]): lambda e, g, flow, c: 2 * flow}
    twice, _ = graph.backward(whole, 3)
    assert twice[graph.leaves[0]].shape == (3, 2)
    right = np.tanh(x) + x * (1 - np.tanh(x) ** 2)
    np.testing.assert_allclose(twice[graph.leaves[0]][1], 2 * right)


def test_an_equation_knows_its_line_and_the_name_of_its_variable():
    def f(x):
        spread = jnp.exp(x)
        return jnp.sum(spread / jax.nn.sigmoid(x))

    graph = graph_of(f, np.ones(3))
    lines, first = inspect.getsourcelines(f)
    named = {equation.name: equation for equation in graph.equations}
    for name, text in (("exp", "spread ="), ("logistic", "return"), ("div", "return")):
        place = named[name].place
        assert place.file == __file__
        assert text in lines[place.line - first] == place.source + "\n" or text in place.source
    assert named["exp"].place.target == "spread"
    assert graph.name(named["exp"].outputs[0]) == "spread"
    assert graph.name(named["logistic"].outputs[0]) == "jax.nn.sigmoid(x)"


def test_nothing_is_carried_back_through_constants():
    def f(x):
        return jnp.sum(jnp.exp(x - jnp.max(x)))

    graph = graph_of(f, np.array([1.0, 2.0]))
    largest = next(e.outputs[0] for e in graph.equations if e.name == "reduce_max")
    fixed = type(graph)(
        graph.values, graph.equations, graph.leaves, graph.output, graph.inputs, {largest}
    )
    found = fixed.backward()[0][fixed.leaves[0]][0]
    np.testing.assert_allclose(found, np.exp([-1.0, 0.0]))


@pytest.mark.parametrize(
    ("f", "shapes"),
    [
        (lambda x, y: jax.lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,)))), [(2, 3, 4), (2, 4)]),
        (lambda x: jax.lax.broadcast_in_dim(x, (3, 2, 4), (0, 2)), [(3, 1)]),
        (lambda x: x[jnp.array([[0, 2], [2, 2]])], [(3, 2)]),
        (lambda x, y: jax.lax.concatenate([x, y], 0), [(2, 2), (3, 2)]),
        (lambda x, y: jax.lax.dynamic_update_slice(x, y, (1,)), [(4,), (2,)]),
        (lambda x: jnp.pad(x, 1), [(3,)]),
        (lambda x: jnp.prod(x, axis=0), [(3, 2)]),
        (lambda x, y: jnp.convolve(x, y), [(5,), (2,)]),
    ],
)
@pytest.mark.parametrize("most", [4_000_000, 0], ids=["numpy", "jax"])
@pytest.mark.slow
def test_passages_are_those_of_jax(monkeypatch, f, shapes, most):
    monkeypatch.setattr("nnjax.gradcheck.rules.MOST_NUMBERS", most)
    rng = np.random.default_rng(0)
    args = [rng.normal(size=shape) for shape in shapes]
    weights = rng.normal(size=jax.eval_shape(f, *args).shape)
    graph = graph_of(lambda *xs: jnp.sum(f(*xs) * weights), *args)
    cotangents, _ = graph.backward(count=2)
    _, pull = jax.vjp(f, *args)
    for leaf, right in zip(graph.leaves, pull(jnp.asarray(weights)), strict=True):
        np.testing.assert_allclose(cotangents[leaf][1], right, rtol=1e-10, atol=1e-12)
    tangents = graph.forward([x[None] for x in args])
    right = np.sum(jax.jvp(f, tuple(args), tuple(args))[1] * weights)
    np.testing.assert_allclose(tangents[graph.output][0], right, rtol=1e-10)


def test_numbers_that_are_not_float64_are_left_to_jax():
    assert evaluate("mul", {}, [np.float32(1), np.float32(2)]) is None
    assert evaluate("cumsum", {"axis": 0}, [np.ones(2)]) is None
    through = passage("reduce_sum", np.sum, {"axes": (0,)}, [np.ones((2, 3))], [(3,)], [0], [0])
    assert through.pull({0: np.ones((5, 3))})[0].shape == (5, 2, 3)


def test_numpy_gives_what_jax_gives():
    def f(x, w):
        y = jnp.concatenate([x.T[::-1], jnp.sign(w) * jnp.log1p(x.T**2)], axis=1)[1:, ::2]
        z = jnp.where(jnp.isfinite(y) & (y > 0) | ~(y < -0.5), jnp.abs(y) ** 1.5, -y)
        s = jnp.einsum("bij,bkj->bik", 2.0 * z[None], 1 / z[None])
        return jnp.sum(jnp.maximum(s.max(0, keepdims=True), 0.1) + jnp.cos(s) + jnp.sqrt(s**2 + 1))

    rng = np.random.default_rng(0)
    graph, done = graph_of(f, rng.normal(size=(4, 3)), rng.normal(size=(3, 4))), set()
    for equation in graph.equations:
        inputs = [graph.values[node] for node in equation.inputs]
        results = evaluate(equation.name, equation.params, inputs)
        if results is not None:
            done.add(equation.name)
            for found, right in zip(results, equation.function(*inputs), strict=True):
                assert found.dtype == right.dtype
                np.testing.assert_allclose(found, right, rtol=1e-14)
    few = {"broadcast_in_dim", "concatenate", "dot_general", "reduce_sum", "rev", "slice"}
    assert few | {"and", "select_n", "transpose", "pow", "max", "reduce_max", "integer_pow"} <= done
