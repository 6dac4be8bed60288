"""Superscripts, as formulas print them."""

import pytest

from nnjax.notation import superscript


def test_a_superscript_of_any_integer():
    assert [superscript(l) for l in (0, 12, -1)] == ["⁰", "¹²", "⁻¹"]


@pytest.mark.parametrize("l", [1.5, "1", None, True])
def test_what_is_not_an_integer_is_refused(l):
    with pytest.raises(TypeError, match="expected the number of a layer, an integer"):
        superscript(l)
