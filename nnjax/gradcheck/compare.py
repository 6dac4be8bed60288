"""Two gradients side by side, leaf by leaf, and whether they are the same.

The relative error of a leaf is ‖claimed − expected‖ / ‖expected‖: it never grows with the size of
the leaf. A leaf is right when that is at most 1e-10 and every single entry agrees to 1e-9, each up
to the rounding that the calculation itself shows (`nnjax.gradcheck.reference.rounding_noise`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

__all__ = ["Leaf", "Misfit", "TookTooLong", "align", "compare", "named_leaves", "to_numpy"]

LEAF_TOLERANCE = 1e-10
ENTRY_TOLERANCE = 1e-9

NO_REFERENCE = "right where autodiff is finite"
NOT_REACHED = "beyond the reach of differences"


class Misfit(Exception):
    """A claimed gradient that cannot be compared as it stands; the message says why.

    `line` is the line that somebody's function had reached when it raised an error, 0 where it
    raised none; `of_jax` says that the error is about JAX's arrays.
    """

    def __init__(self, message: str, line: int = 0, of_jax: bool = False):
        super().__init__(message)
        self.line, self.of_jax = line, of_jax


class TookTooLong(Misfit):
    """A function that does not return in time, so that nothing can be said about its gradient."""


@dataclass(frozen=True)
class Leaf:
    """One array of the gradient, claimed beside expected, at the point where it is worst.

    Attributes:
        path: where it sits, such as "layer 2 w" or "[0]['w']".
        shape: the shape expected.
        relative_error: ‖claimed − expected‖ / ‖expected‖, the worst of all points.
        index: of the entry with the largest difference; None where shapes differ.
        claimed, expected: the two values there.
        cosine: of the angle between both; 1 when they point the same way.
        ratio: smallest and largest claimed / expected over the entries that are not 0.
        wrong_entries: how many entries differ, of `size`.
        size: the number of entries.
        verdict: "right", "wrong", "convention", "precision", or the trouble in a few words.
        point: the label of that point.
        part: which rows, columns or block are wrong, in words, where it is not the whole array.
    """

    path: str
    shape: tuple[int, ...]
    relative_error: float
    index: tuple[int, ...] | None
    claimed: float
    expected: float
    cosine: float
    ratio: tuple[float, float]
    wrong_entries: int
    size: int
    verdict: str
    point: str
    part: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it: right, or another convention at a kink."""
        return self.verdict in ("right", "convention")


def to_numpy(leaf: Any) -> np.ndarray:
    """Return an array of JAX, NumPy or PyTorch, or a number, as a NumPy array.

    Raises:
        Misfit: if it is none of these.
    """
    if hasattr(leaf, "detach"):  # a PyTorch tensor, perhaps on a GPU or part of a graph
        leaf = leaf.detach().cpu().numpy()
    try:
        array = np.asarray(leaf)
    except Exception as error:
        raise Misfit(f"is a {type(leaf).__name__}, which is not an array") from error
    if array.dtype == object or array.dtype.kind not in "fiubVc":
        raise Misfit(f"is a {type(leaf).__name__}, which is not an array of numbers")
    if array.dtype.kind == "c":
        raise Misfit("is complex; gradients of real losses are real")
    return array


def named_leaves(tree: Any) -> tuple[list[str], list[Any]]:
    """Return paths and leaves of a pytree; None counts as a leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is None)
    return [jax.tree_util.keystr(path) for path, _ in flat], [leaf for _, leaf in flat]


def align(expected: Any, claimed: Any) -> list[Any]:
    """Return the leaves of `claimed` in the order of those of `expected`.

    Lists, tuples and NamedTuples stand for each other as long as their lengths agree: a gradient
    kept in a list is not a wrong gradient.

    Raises:
        Misfit: if the structures differ; the message says where.
    """
    leaves: list[Any] = []
    _align(expected, claimed, "", leaves)
    return leaves


def _align(expected, claimed, path, leaves):
    where = f"at {path}" if path else "at the top"
    if isinstance(expected, (tuple, list)):
        if not isinstance(claimed, (tuple, list)):
            if len(expected) == 1:  # a gradient of one argument needs no tuple around it
                return _align(expected[0], claimed, path, leaves)
            if not expected and claimed is None:
                return None
            numbers = jax.tree_util.all_leaves(expected) and not any(map(np.ndim, expected))
            if numbers and getattr(claimed, "shape", ()) == (len(expected),):
                # A list of numbers is one array to whoever computes with NumPy.
                return _align(expected, list(claimed), path, leaves)
            raise Misfit(
                f"has another structure {where}: {_describe(claimed)} for a "
                f"{type(expected).__name__} of {len(expected)}"
            )
        if len(claimed) != len(expected):
            raise Misfit(
                f"has another structure {where}: {len(claimed)} entries for {len(expected)}"
            )
        names = getattr(expected, "_fields", range(len(expected)))
        for name, one, other in zip(names, expected, claimed, strict=True):
            step = f".{name}" if isinstance(name, str) else f"[{name}]"
            _align(one, other, path + step, leaves)
    elif isinstance(expected, dict):
        if not isinstance(claimed, dict) or set(claimed) != set(expected):
            found = f"keys {sorted(map(str, claimed))}" if isinstance(claimed, dict) else None
            raise Misfit(
                f"has another structure {where}: {found or _describe(claimed)} for "
                f"keys {sorted(map(str, expected))}"
            )
        for name in sorted(expected, key=str):
            _align(expected[name], claimed[name], f"{path}[{name!r}]", leaves)
    elif jax.tree_util.all_leaves([expected]):
        if isinstance(claimed, (tuple, list)) and _stacks_to(claimed, np.shape(expected)):
            claimed = np.stack([np.asarray(to_numpy(one)) for one in claimed])
        if isinstance(claimed, (tuple, list, dict)) and not _numbers(claimed):
            raise Misfit(
                f"has another structure {where}: {_describe(claimed)} for an array of shape "
                f"{np.shape(expected)}"
            )
        leaves.append(claimed)
    else:  # a registered class: JAX must see the same tree
        one = jax.tree.structure(expected)
        found = jax.tree.structure(claimed)
        if one != found:
            raise Misfit(f"has another structure {where}: {found} for {one}")
        leaves.extend(jax.tree.leaves(claimed))
    return None


def _numbers(tree):
    """Whether nested lists hold plain numbers only, so that they stand for one array."""
    return all(isinstance(leaf, (int, float, np.generic)) for leaf in jax.tree.leaves(tree))


def _stacks_to(rows, shape):
    """Whether a list of arrays is the rows of one array of this shape."""
    same = all(getattr(row, "shape", None) == shape[1:] for row in rows)
    return same and shape[:1] == (len(rows),)


def _describe(node):
    if isinstance(node, (tuple, list, dict)):
        return f"a {type(node).__name__} of {len(node)}"
    if hasattr(node, "shape"):
        return f"an array of shape {tuple(node.shape)}"
    return "None" if node is None else f"a {type(node).__name__}"


def compare(
    path: str,
    claimed: Any,
    expected: np.ndarray,
    noise: np.ndarray | float = 0.0,
    point: str = "",
) -> Leaf:
    """Return the row for one leaf: how far `claimed` is from `expected`, and the verdict.

    Args:
        path: what to call it.
        claimed: the leaf as the caller's function returned it.
        expected: the reference, float64.
        noise: the rounding to allow for, entry by entry, of the shape of `expected`.
        point: what to call the point where both were evaluated.

    Example:
        >>> import numpy as np
        >>> row = compare("w", np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        >>> row.verdict, row.index, row.claimed, row.expected
        ('wrong', (1,), 2.0, 4.0)
    """
    shape = tuple(expected.shape)

    def row(verdict, **values):
        blank = {
            "relative_error": np.inf,
            "index": None,
            "claimed": np.nan,
            "expected": np.nan,
            "cosine": np.nan,
            "ratio": (np.nan, np.nan),
            "wrong_entries": int(expected.size),
        }
        return Leaf(
            path=path,
            shape=shape,
            size=int(expected.size),
            verdict=verdict,
            point=point,
            **(blank | values),
        )

    if claimed is None:
        return row("None")
    try:
        claimed = to_numpy(claimed)
    except Misfit as misfit:
        return row(str(misfit))
    if claimed.shape != shape:
        return row(f"shape {claimed.shape}")
    if claimed.dtype.kind in "iub" and not (claimed == expected).all():
        return row(f"dtype {claimed.dtype}")
    claimed = claimed.astype(np.float64)
    finite = np.isfinite(claimed)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        what = "NaN" if np.isnan(claimed[index]) else "infinite"
        return row(
            what,
            index=index,
            claimed=float(claimed[index]),
            expected=float(expected[index]),
            wrong_entries=int((~finite).sum()),
        )
    known = np.isfinite(expected)
    if not known.all():
        among = noise if np.ndim(noise) == 0 else np.asarray(noise)[known]
        rest = compare(path, claimed[known], expected[known], among, point)
        if not rest.ok:
            where = tuple(int(i) for i in np.argwhere(known)[rest.index])
            return replace(rest, shape=shape, size=int(expected.size), index=where, part="")
        where = tuple(int(i) for i in np.argwhere(~known)[0])
        return row(
            NO_REFERENCE,
            index=where,
            claimed=float(claimed[where]),
            expected=float(expected[where]),
            wrong_entries=0,
        )
    if not expected.size:
        return row("right", relative_error=0.0, cosine=1.0, ratio=(1.0, 1.0), wrong_entries=0)
    difference = np.abs(claimed - expected)
    excess = difference - ENTRY_TOLERANCE * np.abs(expected) - noise
    wrong = excess > 0
    index = np.unravel_index(int(np.argmax(difference)), shape)
    if wrong.any() and not wrong[index]:
        index = np.unravel_index(int(np.argmax(excess)), shape)
    error = relative_error(claimed, expected)
    allowed = LEAF_TOLERANCE * norm(expected) + norm(np.broadcast_to(noise, shape))
    return row(
        "wrong" if wrong.any() or norm(difference) > allowed else "right",
        relative_error=error,
        index=tuple(int(i) for i in index),
        claimed=float(claimed[index]),
        expected=float(expected[index]),
        cosine=cosine(claimed, expected),
        ratio=_ratio(claimed, expected),
        wrong_entries=int(wrong.sum()),
        part=_part(wrong, claimed, expected),
    )


def _part(wrong, claimed, expected) -> str:
    """Return which rows, columns or block are wrong, and what they are of what they should be."""
    if not wrong.any() or wrong.all():
        return ""
    along = [
        np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
        for axis in range(wrong.ndim)
    ]
    if not wrong[np.ix_(*along)].all():
        return f"{int(wrong.sum())} of {wrong.size} entries"
    names = {1: ["entries"], 2: ["rows", "columns"]}.get(
        wrong.ndim, [f"axis {axis}:" for axis in range(wrong.ndim)]
    )
    said = [
        f"{name} {_indices(indices)} of {size}"
        for name, indices, size in zip(names, along, wrong.shape, strict=True)
        if len(indices) < size
    ]
    low, high = _ratio(claimed[wrong], expected[wrong])
    if np.isnan(low):
        return ", ".join(said)
    span = f"{low:.4g}" if np.isclose(low, high, rtol=1e-9) else f"{low:.4g} to {high:.4g}"
    return f"{', '.join(said)}: {span} times what it should be"


def _indices(indices):
    if len(indices) > 1 and np.ptp(indices) == len(indices) - 1:
        return f"{indices[0]} to {indices[-1]}"
    shown = [str(i) for i in indices[:5]] + ["…"] * (len(indices) > 5)
    return ", ".join(shown)


def norm(array: np.ndarray) -> float:
    """Return ‖array‖, safe from overflow and underflow."""
    largest = float(np.max(np.abs(array), initial=0.0))
    if not 0 < largest < np.inf:
        return largest
    return largest * float(np.linalg.norm((array / largest).ravel()))


def relative_error(claimed: np.ndarray, expected: np.ndarray) -> float:
    """Return ‖claimed − expected‖ / ‖expected‖; against an expected 0, 0 or infinity."""
    difference, size = norm(claimed - expected), norm(expected)
    if difference == 0:
        return 0.0
    return difference / size if size > 0 else np.inf


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the cosine of the angle between two arrays; 0 where one of them is 0."""
    a, b = norm(one), norm(other)
    if a == 0 or b == 0:
        return 1.0 if a == b else 0.0
    return float(np.clip(np.vdot(one / a, other / b), -1.0, 1.0))


def _ratio(claimed, expected):
    # Entries far below the rest are rounding: their ratio says nothing.
    counted = np.abs(expected) > 1e-12 * np.max(np.abs(expected), initial=0.0)
    if not counted.any():
        return (np.nan, np.nan)
    with np.errstate(over="ignore"):
        ratio = claimed[counted] / expected[counted]
    return float(ratio.min()), float(ratio.max())
