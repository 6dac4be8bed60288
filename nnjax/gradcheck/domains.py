"""Sets that arguments lie in, and gradients that are right by another convention.

A covariance matrix is symmetric, a distribution sums to 1, a rotation is orthogonal: off these sets
a right gradient need not agree with autodiff, and on them only what lies along the set counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnjax.gradcheck.compare import LEAF_TOLERANCE, norm
from nnjax.gradcheck.finding import Finding

__all__ = ["DOMAINS", "Domain", "convention", "domains_of", "noticed"]


class Domain(NamedTuple):
    """A set of arrays.

    Attributes:
        name: as people call it.
        nearest: an array ↦ one that lies in the set, near it.
        along: (gradient, value) ↦ the part of the gradient along the set.
        fits: whether an array may lie in such a set at all.
    """

    name: str
    nearest: Callable[[np.ndarray], np.ndarray]
    along: Callable[[np.ndarray, np.ndarray], np.ndarray]
    fits: Callable[[np.ndarray], bool]


def _square(a):
    return a.ndim >= 2 and a.shape[-1] == a.shape[-2]


def _equals_its_transpose(a, within=1e-6):
    return _square(a) and norm(a - _transpose(a)) <= within * norm(a)


def _has_unit_rows(a):
    return _square(a) and bool(np.all(np.abs((a**2).sum(-1) - 1) <= 1e-6))


def _transpose(a):
    return np.swapaxes(a, -1, -2)


def _symmetric(a, value=None):
    return (a + _transpose(a)) / 2


def _positive_definite(a):
    values, vectors = np.linalg.eigh(_symmetric(a))
    low = 1e-3 * np.max(np.abs(values), axis=-1, keepdims=True)
    return (vectors * np.maximum(values, low)[..., None, :]) @ _transpose(vectors)


def _on_simplex(a):
    if (a < 0).any() or not a.any(-1).all():
        a = np.abs(a) + 1e-300
    return np.abs(a) / np.abs(a).sum(-1, keepdims=True)


def _orthogonal(a):
    u, _, v = np.linalg.svd(a)
    return u @ v


def _skew_part(gradient, value):
    turned = _transpose(value) @ gradient
    return value @ (turned - _transpose(turned)) / 2


DOMAINS = {
    domain.name: domain
    for domain in (
        Domain("positive definite", _positive_definite, _symmetric, _equals_its_transpose),
        Domain("symmetric", _symmetric, _symmetric, _equals_its_transpose),
        Domain(
            "simplex", _on_simplex, lambda g, x: g - g.mean(-1, keepdims=True), lambda a: a.ndim > 0
        ),
        Domain("orthogonal", _orthogonal, _skew_part, _has_unit_rows),
    )
}


def domains_of(said: Any, values: Sequence[np.ndarray], names: Sequence[str]) -> dict[int, Domain]:
    """Return the domain of every leaf that has one.

    Args:
        said: None, a name in `DOMAINS` for every leaf, or a dict of names by the names of leaves.
        values: the leaves.
        names: what they are called.

    Raises:
        ValueError: if a name is not known, a leaf does not have the shape for its domain or does
            not lie in it.
    """
    if said is None:
        return {}
    by_name: dict[str, str] = said if isinstance(said, dict) else dict.fromkeys(names, str(said))
    if unknown := set(by_name) - set(names):
        raise ValueError(
            f"domain is given for {sorted(map(str, unknown))[0]!r}; the arguments are "
            f"{', '.join(names)}"
        )
    found = {}
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        if name not in by_name:
            continue
        domain = DOMAINS.get(by_name[name])
        if domain is None:
            raise ValueError(f"domain is {by_name[name]!r}; expected one of {', '.join(DOMAINS)}")
        if not domain.fits(value) or not _lies_in(domain, value):
            raise ValueError(
                f"{name}, of shape {value.shape}, does not lie in its domain ({domain.name}); give "
                "example arguments that do"
            )
        found[i] = domain
    return found


def noticed(values: Sequence[np.ndarray]) -> dict[int, Domain]:
    """Return the domains in which leaves lie that are hardly there by chance."""
    found = {}
    for i, value in enumerate(values):
        for domain in DOMAINS.values():
            if not _trivial(value) and domain.fits(value) and _lies_in(domain, value):
                found[i] = domain
                break
    return found


def _lies_in(domain, value):
    if not np.isfinite(value).all():
        return False
    return norm(domain.nearest(value) - value) <= 1e-9 * norm(value)


def _trivial(value):
    """Whether an array is so plain that it lies in many sets by chance: all entries equal, a
    diagonal matrix, a single number."""
    if value.size < 2 or value.shape[-1] < 2 or np.ptp(value) == 0:
        return True
    return _square(value) and not np.any(value * (1 - np.eye(value.shape[-1])))


# Right, but with respect to something else.


def _is_symmetric(p):
    return _equals_its_transpose(p, 1e-12)


def _off_diagonal_twice(g, p):
    return g + _transpose(g) - g * np.eye(g.shape[-1])


CONVENTIONS: tuple[tuple[str, str, str, Callable, Callable], ...] = (
    (
        "with respect to the logarithm",
        "right for log {p}: the derivative of a function of {p} = exp(θ) with respect to θ; with "
        "respect to {p} it is {p} times too large, as when a power is not lowered",
        "{p} ⊙ ∂f/∂{p}",
        lambda g, p: g * p,
        lambda p: bool((p > 0).all()),
    ),
    (
        "in degrees",
        "right for {p} in degrees: π/180 of the derivative for radians",
        "π/180 · ∂f/∂{p}",
        lambda g, p: g * np.pi / 180,
        lambda p: True,
    ),
    (
        "in degrees",
        "right for a derivative per radian where {p} is in degrees: 180/π of what it is",
        "180/π · ∂f/∂{p}",
        lambda g, p: g * 180 / np.pi,
        lambda p: True,
    ),
    (
        "symmetric, off-diagonal entries twice",
        "right for the independent entries of a symmetric {p}: off the diagonal each stands twice",
        "G + Gᵀ − diag(G), G = ∂f/∂{p}",
        _off_diagonal_twice,
        _is_symmetric,
    ),
    *(
        (
            f"symmetric, {name} triangle",
            f"right for a symmetric {{p}} of which the {name} triangle is stored",
            f"{name} triangle of G + Gᵀ − diag(G), G = ∂f/∂{{p}}",
            lambda g, p, cut=cut: cut(_off_diagonal_twice(g, p)),
            _is_symmetric,
        )
        for name, cut in (("lower", np.tril), ("upper", np.triu))
    ),
    (
        "symmetric part",
        "right for a symmetric {p}, for which only the symmetric part of a gradient counts",
        "(G + Gᵀ) / 2, G = ∂f/∂{p}",
        _symmetric,
        _is_symmetric,
    ),
)


def convention(points: Iterable[Any]) -> Finding | None:
    """Return the convention by which every leaf of a claim is right that is not so as it stands.

    Args:
        points: points, with .parameters, .expected, .claimed_arrays, .noise, .wrong and .names.
    """
    points = list(points)
    leaves = sorted({i for point in points for i in point.wrong})
    # One number beside arrays that are right may as well have a power left out.
    single = 1 == sum(np.size(points[0].expected[i]) for i in leaves) < len(points[0].names)
    for name, sentence, have, change, meant in CONVENTIONS[single:]:
        worst = 0.0
        for point, i in ((point, i) for point in points for i in leaves):
            g, p, claimed = point.expected[i], point.parameters[i], point.claimed_arrays[i]
            if claimed is None or claimed.shape != g.shape or not meant(p):
                break
            predicted = change(g, p)
            off, size = norm(claimed - predicted), norm(predicted)
            near = off <= LEAF_TOLERANCE * size
            if not near and not (off <= 1e-2 * size and off <= norm(point.noise[i])):
                break
            worst = max(worst, off / size if size else 0.0)
        else:
            if leaves:
                named = ", ".join(points[0].names[i] for i in leaves)
                return Finding(
                    name=name,
                    sentence=sentence.format(p=named),
                    have=have.format(p=named),
                    expected=f"∂f/∂{named}",
                    residual=worst,
                    leaves=tuple(points[0].names[i] for i in leaves),
                )
    return None
