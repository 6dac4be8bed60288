"""Examples in pieces: the numbers of the whole, for every size of piece."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax.pieces import at_least_float32, equal_size, map_in_pieces, sum_in_pieces


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("unroll", [1, 2])
def test_mapping_and_summing_in_pieces(size, unroll):
    x, y = jnp.arange(14.0).reshape(7, 2), jnp.arange(7.0)

    def rows(batch):
        x, y = batch
        return {"r": x * y[:, None]}

    def total(batch):
        return jax.tree.map(lambda r: jnp.sum(r, axis=0), rows(batch))

    chex.assert_trees_all_close(map_in_pieces(rows, (x, y), size, unroll), rows((x, y)))
    chex.assert_trees_all_close(sum_in_pieces(total, (x, y), size, unroll), total((x, y)))


@pytest.mark.parametrize(("pieces", "unrolled"), [(2, 1), (3, 1), (4, 2), (5, 1), (6, 2)], ids=str)
def test_no_piece_is_worked_through_outside_of_the_loop(pieces, unrolled):
    """XLA takes up to twice as long for what stands outside."""
    x = jnp.ones((3 * pieces, 2))
    for way in (map_in_pieces, sum_in_pieces):
        program = jax.make_jaxpr(lambda x, way=way: way(jnp.sin, x, 3, unroll=2))(x)
        (loop,) = (line for line in program.eqns if line.primitive.name == "scan")
        assert (loop.params["length"], loop.params["unroll"]) == (pieces, unrolled)


def test_sums_of_narrow_numbers_keep_their_digits():
    """In bfloat16 itself the sum would stop at 256, where adding 1 changes nothing."""
    for dtype in (jnp.bfloat16, jnp.float16):
        total = sum_in_pieces(jnp.sum, jnp.ones(2000, dtype), size=1)
        assert total.dtype == dtype
        assert float(total) == 2000.0
    assert at_least_float32(jnp.float32) == np.float32


def test_sizes_divide_the_number_if_they_can():
    assert [equal_size(n, 32) for n in (10, 100, 101, 4096)] == [10, 25, 26, 32]
