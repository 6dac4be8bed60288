"""Places: which wrong cotangents can explain a residual, and from how many directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax.gradcheck.graph import TOTAL, trace, trace_at
from nnjax.gradcheck.places import Spot, sites


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def f(x, w):
    hidden = jnp.tanh(w @ x)
    return jnp.sum(hidden**2)


def spot_of(change):
    """Return the point for f where the gradient with respect to w @ x is changed."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=3), rng.normal(size=(2, 3))
    h = np.tanh(w @ x)
    d = change(2 * h * (1 - h**2))
    graph = trace_at(trace(f, (x, w)), (x, w), [0, 1])
    return Spot(graph, [w.T @ d, np.outer(d, x)], [np.zeros(3), np.zeros((2, 3))])


def site_at(spot, name, operand=0):
    graph = spot.graph
    return next(
        s
        for s in sites(graph)
        if s.edges[0][0] != TOTAL
        and graph.equations[s.edges[0][0]].name == name
        and s.edges[0][1] == operand
    )


def test_a_right_gradient_leaves_nothing():
    assert not spot_of(lambda d: d).wrong.any()


def test_a_wrong_cotangent_lies_in_the_range_of_its_variable():
    spot = spot_of(lambda d: d + np.array([0.3, -0.1]))
    assert spot.wrong.all()
    fit = spot.fit(site_at(spot, "tanh").nodes)
    assert fit.rank == 2
    assert (fit.residual <= spot.tolerance).all()
    assert spot.fit(site_at(spot, "dot_general").nodes).residual.max() > 1e-3  # w alone, not x


def test_the_effect_of_an_edit_is_that_of_a_backward_pass_with_it():
    spot = spot_of(lambda d: 2 * d)
    (edge,) = site_at(spot, "tanh").edges
    node = spot.graph.equations[edge[0]].inputs[edge[1]]
    flow = spot.flow(edge)
    by_tangents = spot.effect(node, 0.5 * flow)
    by_passing = spot.trial({edge: lambda e, g, flow, c: 1.5 * flow}, 1)[0]
    np.testing.assert_allclose(by_tangents, by_passing, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(spot.effect(node, flow), spot.residual, rtol=1e-10, atol=1e-13)


def test_a_known_mistake_is_taken_off_the_residual():
    spot = spot_of(lambda d: 3 * d)
    (edge,) = site_at(spot, "tanh").edges
    assert not spot.edited({edge: lambda e, g, flow, c: 3 * flow}).wrong.any()
    assert spot.edited({edge: lambda e, g, flow, c: 2 * flow}).wrong.all()


def test_a_loop_is_one_site_with_an_edge_for_every_turn():
    def loop(x):
        for _ in range(3):
            x = jnp.tanh(x)
        return jnp.sum(x)

    point = (np.ones(2),)
    found = sites(trace_at(trace(loop, point), point, [0]))
    assert len(found[0].edges) == 3 == found[0].turns
    assert found[0].serial
    assert [found[0].turn(edge) for edge in found[0].edges] == [0, 1, 2]


def test_what_cancels_whatever_the_values_is_found():
    def shifted(x):
        largest = jnp.max(x)
        return largest + jnp.log(jnp.sum(jnp.exp(x - largest)))

    x = np.array([0.2, 1.5, -0.3])
    graph = trace_at(trace(shifted, (x,)), (x,), [0])
    spot = Spot(graph, [np.zeros(3)], [np.zeros(3)])
    largest = next(e.outputs[0] for e in graph.equations if e.name == "reduce_max")
    assert largest in spot.cancelled
    np.testing.assert_allclose(spot.without(spot.cancelled).gradient[0], spot.gradient[0])


def test_a_large_gradient_is_looked_at_along_some_directions():
    def large(x):
        return jnp.sum(jnp.sin(x))

    x = np.linspace(0, 1, 5000)
    spot = Spot(trace_at(trace(large, (x,)), (x,), [0]), [1.5 * np.cos(x)], [np.zeros(5000)])
    assert not spot.whole
    assert len(spot.residual) <= 320
    assert spot.wrong.all()
