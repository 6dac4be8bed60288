"""What was done at a place: edits of what flows back there, held against the claim.

A hand-derived gradient is almost always the right backward pass with something done otherwise at
one spot of f, or at one line that is visited many times. Here every spot is edited in the ways in
which people go wrong: the flow left out, scaled, sent through another derivative, multiplied by
another variable, transposed, shifted. An edit is named only where it gives the claimed numbers at
every point. Where none does, the place alone is told.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from nnjax.gradcheck.factors import local, read_factor
from nnjax.gradcheck.finding import Finding
from nnjax.gradcheck.graph import MOVES, TOTAL, Graph, trace, trace_at
from nnjax.gradcheck.operators import Flow, families
from nnjax.gradcheck.places import MOST_NUMBERS, Edge, Site, Spot, sites
from nnjax.gradcheck.slips import FACTOR, Slip, slips

__all__ = ["explain_residual"]

PLACE_ONLY = "place only"
MOST_WORK = 1e9  # for pairs of places that are held against the claim together, multiplications
MOST_READ = 24  # of those that explain it equally well, how many are looked at


class Match(NamedTuple):
    """A term at a site that gives the claimed numbers.

    Attributes:
        leaves: whether each leaf was wrong and is explained.
        spoiled: whether each leaf is changed, and not as claimed.
    """

    site: Site
    slip: Slip
    t: float
    leaves: np.ndarray
    spoiled: np.ndarray
    residual: float
    cost: float


def explain_residual(
    f: Callable,
    points: Sequence[Any],
    argnums: int | Sequence[int],
) -> tuple[Finding, ...]:
    """Return where a claimed gradient of f goes wrong and what was done there.

    Args:
        f: the scalar function, traceable by JAX; for a pull-back ⟨g, f(x)⟩ with g among the
            arguments.
        points: with `args`, `claimed_arrays`, `expected`, `noise` (one array a leaf; a claim
            may be None), and `names` of the leaves; all of the same shapes.
        argnums: the arguments that the gradient is for.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from types import SimpleNamespace
        >>> def f(x):
        ...     return jnp.sum(jnp.tanh(x) ** 2)
        >>> def point(x):
        ...     claim = 2 * np.tanh(x)  # without 1 − tanh²
        ...     right = claim * (1 - np.tanh(x) ** 2)
        ...     zero = np.zeros(3)
        ...     arrays = {"claimed_arrays": [claim], "expected": [right], "noise": [zero]}
        ...     return SimpleNamespace(args=(x,), names=["x"], **arrays)
        >>> points = [point(np.array([0.3, -0.5, 1.0])), point(np.array([0.1, 0.9, -1.2]))]
        >>> explain_residual(f, points, 0)[0].name
        'derivative missing'
    """
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        spots = _spots(f, points, numbers)
        if not spots or not any(spot.wrong.any() for spot in spots):
            return ()
        names = points[0].names
        found, named = Search(spots, names).findings()
        if named and len(found) == 1:
            return found
        cancelled = set.intersection(*(spot.cancelled for spot in spots))
        if cancelled:
            # People do not derive what cancels, such as the path through the maximum of a softmax.
            search = Search([spot.without(cancelled) for spot in spots], names)
            again, also = search.findings(unnamed=False)
            if also and (not named or len(again) < len(found)):
                return again
        return found if named else _clipped(spots, names) or found


def _clipped(spots: Sequence[Spot], names: Sequence[str]) -> tuple[Finding, ...]:
    """Return what is wrong besides clipped entries; nothing where that does not explain the claim.

    Clipped entries are the largest of the claim, all of one size, and the right ones are larger.
    """
    if not all(spot.whole for spot in spots):
        return ()
    limit = max(spot.claimed_entries.max() for spot in spots) * (1 - 1e-12)
    reach = np.zeros(len(names), bool)
    for spot in spots:
        right = np.abs(np.concatenate([spot.gradient[i].ravel() for i in spot.compared]))
        at = spot.claimed_entries >= limit
        few = np.count_nonzero(~at & (right > 0)) < 4  # of which anything could be said
        if few or 2 * np.count_nonzero(right[at] > limit) < at.sum():
            return ()
        reach |= np.bincount(spot.leaf_of[at], minlength=len(names)) > 0
    rest = [replace(spot, limit=limit, shared={}) for spot in spots]
    others, named = Search(rest, names).findings(unnamed=False)
    if not named:
        return ()
    clipped = Finding(
        name="clipped",
        sentence=f"entries are clipped at ±{limit:.6g}",
        have=f"clip(…, −{limit:.6g}, {limit:.6g})",
        factor=float(limit),
        leaves=tuple(name for name, hit in zip(names, reach, strict=True) if hit),
    )
    return (*others, clipped)


def _spots(f, points, argnums) -> list[Spot]:
    program = trace(f, points[0].args)
    for opaque in (False, True):
        spots = []
        for point in points:
            graph = trace_at(program, point.args, argnums, opaque)
            claimed = [
                None
                if c is None or c.shape != graph.shape(leaf) or not np.all(np.isfinite(c))
                else c
                for c, leaf in zip(point.claimed_arrays, graph.leaves, strict=True)
            ]
            # Two right ways to calculate the same, graph and autodiff, show the rounding of both.
            off = [g - e for g, e in zip(graph.gradient(), point.expected, strict=True)]
            noise = [np.full(d.shape, 30 * np.sqrt(np.mean(d**2)) if d.size else 0.0) for d in off]
            spots.append(Spot(graph, claimed, noise))
        # A rule of its own may differ from the derivative of the function's body.
        if all(_as_expected(s, p) for s, p in zip(spots, points, strict=True)):
            break
    else:
        return []
    for spot in spots[1:]:
        if spot.compared == spots[0].compared:  # once is enough for what may be large
            spot.shared["directions"] = spots[0].directions
    kinds = [[(e.name, e.inputs) for e in spot.graph.equations] for spot in spots]
    return [s for s, kind in zip(spots, kinds, strict=True) if kind == kinds[0] and s.compared]


def _as_expected(spot, point):
    for i, (g, e) in enumerate(zip(spot.gradient, point.expected, strict=True)):
        off = np.linalg.norm(g - e)
        if off > 1e-7 * np.linalg.norm(e) and off > 10 * np.linalg.norm(point.noise[i]):
            return False
    return True


class Search:
    """The search for the mistakes behind a claim."""

    def __init__(self, spots, names):
        self.spots, self.names = spots, names
        self.graph: Graph = spots[0].graph
        self.sites = sites(self.graph)
        self.known = families(self.graph)
        self.matched: dict[Site, list[Match]] = {}
        self.wrong = np.any([spot.wrong for spot in spots], axis=0)

    # One place, or several.

    def findings(self, unnamed: bool = True) -> tuple[tuple[Finding, ...], bool]:
        """Return one finding for every mistake, and whether names explain all that is wrong.

        Args:
            unnamed: whether to look for places too, where there are no names.
        """
        found, left = self.one_by_one()
        if not left.wrong.any():
            return found, True
        pair = self.two_at_once()
        if pair is not None:
            return pair, all(finding.name != PLACE_ONLY for finding in pair)
        peeled = self.peeled()
        if peeled:
            return peeled, True
        return (*found, *(left.places() if unnamed else ())), False

    def one_by_one(self) -> tuple[tuple[Finding, ...], Search]:
        """Return mistakes that explain some leaves each, and the search for what is left."""
        found, search = [], self
        while search.wrong.any() and len(found) < 4:
            match = search.best()
            if match is None:
                break
            found.append(search.report(match))
            search = search.after(match)
        return tuple(found), search

    def after(self, *matches: Match) -> Search:
        """Return the search for what is left when these mistakes are known."""
        spots = self.spots
        for match in matches:
            site, slip, t = match.site, match.slip, match.t
            spots = [
                s.edited(_edits(o, site, [slip], t)) for s, o in zip(spots, self.spots, strict=True)
            ]
        return Search(spots, self.names)

    @property
    def residual(self) -> float:
        """The largest relative difference that is left in any leaf."""
        return max(float(spot.sizes(spot.residual).max()) for spot in self.spots)

    def two_at_once(self) -> tuple[Finding, ...] | None:
        """Return two mistakes that spoil the same leaves."""
        return self.two_factors() or self.two_left_out() or self.slip_and_place()

    def peeled(self) -> tuple[Finding, ...]:
        """Return mistakes of which the first one alone spoils some leaf, and not that alone."""
        apart = [where for where in self.sites if self.separate(where)]
        matches = [match for where in apart for match in self.matches(where)]
        right = [match for match in matches if not (match.spoiled & ~self.wrong).any()]
        for match in sorted(right, key=self.order)[:6]:
            others, left = self.after(match).one_by_one()
            if not left.wrong.any():
                return (self.report(match), *others)
        return ()

    def two_factors(self) -> tuple[Finding, ...] | None:
        """Return two operands that carry back a multiple each of what they should."""
        factor = Slip(FACTOR, "", "", lambda e, t: t * e.flow, 1.0, fitted=True)
        places = [where for where in self.sites if not (where.serial or where.siblings)]
        gone = [
            np.concatenate([self.effects(spot, where, [factor], 0.0) for where in places])
            for spot in self.spots
        ]
        changed = [s.sizes(g) > s.tolerance for s, g in zip(self.spots, gone, strict=True)]
        reach = np.any(changed, axis=0)
        found = []
        for pair in _pairs_that_span(gone[0], self.spots[0].residual):
            values = 1 - np.array(
                [
                    np.linalg.lstsq(g[pair].T, spot.residual, rcond=None)[0]
                    for spot, g in zip(self.spots, gone, strict=True)
                ]
            )
            if not np.ptp(values, axis=0).max() <= 1e-7:
                continue
            matches = []
            for i, t in zip(pair, np.median(values, axis=0), strict=True):
                t = 0.0 if abs(t) < 1e-9 else float(t)
                cost = self.cost(places[i], factor, t)
                matches.append(Match(places[i], factor, t, reach[i], ~reach[i], 0.0, cost))
            after = self.after(*matches)
            if after.wrong.any():
                continue
            matches = [match._replace(residual=after.residual) for match in matches]
            # The same mistake with both operands is one.
            if matches[0].t and abs(matches[0].t - matches[1].t) < 1e-7:
                matches = [max(matches, key=lambda m: m.site.edges[-1][0])]
            # With a number that nobody would write, something else is behind it.
            if max(match.cost for match in matches) < 2:
                found.append(matches)
        if not found:
            return None
        plainest = min(found, key=lambda matches: sum(match.cost for match in matches))
        return tuple(self.report(match) for match in plainest)

    def two_left_out(self) -> tuple[Finding, ...] | None:
        """Return two uses of a variable in a loop that are left out in every turn."""
        left_out = Slip(FACTOR, "", "", lambda e, t: t * e.flow, 1.0, fitted=True)
        serial = [where for where in self.sites if where.serial and where.edges[0][0] != TOTAL]
        for one, two in itertools.combinations(serial, 2):
            if not set(one.nodes) & set(two.nodes):
                continue
            worst = 0.0
            for spot in self.spots:
                edits = [_edits(spot, where, [left_out], 0.0) for where in (one, two)]
                effect = spot.trial(edits[0] | edits[1], 1)[0]
                left = spot.sizes(spot.residual - effect)
                worst = max(worst, float(left.max()))
                if (left > spot.tolerance).any():
                    break
            else:
                matches = (
                    Match(where, left_out, 0.0, self.wrong, ~self.wrong, worst, 1.0)
                    for where in (one, two)
                )
                return tuple(self.report(match) for match in matches)
        return None

    def slip_and_place(self) -> tuple[Finding, ...] | None:
        """Return a slip with a second place behind it that explains what the slip does not.

        Whatever is wrong at the second place, the residual outside of what that place can change is
        the slip's.
        """
        spot = self.spots[0]
        table = []
        for where in self.sites:
            chosen = list(slips(self.graph, where, self.known))
            ones = self.effects(spot, where, chosen, 1.0)
            ones[0] = self.effects(spot, where, chosen[:1], 0.0)[0]  # the factor
            table += [(where, slip, one) for slip, one in zip(chosen, ones, strict=True)]
        table = [row for row in table if np.all(np.isfinite(row[2]))]
        effects = np.array([effect for *_, effect in table])
        free = np.array([slip.fitted for _, slip, _ in table])
        found, tolerance = [], 1e-8 * np.linalg.norm(spot.residual)
        for where in self.sites:
            fit = spot.fit(where.nodes)
            outside = spot.residual - fit.basis @ (fit.basis.T @ spot.residual)
            if fit.rank + 2 > len(outside) or np.linalg.norm(outside) <= 1e3 * tolerance:
                continue
            rest = effects - (effects @ fit.basis) @ fit.basis.T
            norms = np.maximum(np.linalg.norm(rest, axis=1), 1e-300)
            slope = np.where(free, rest @ outside / norms**2, 1.0)
            left = np.linalg.norm(outside - slope[:, None] * rest, axis=1)
            found += [
                (fit.rank, where, *table[i][:2], 1 - slope[i])
                for i in np.flatnonzero(left <= tolerance)
                if table[i][0] is not where and table[i][1].name != "L2 term added or missing"
            ]
        results = []
        ranked = sorted(found, key=lambda c: (c[0], c[3].cost))
        seen = set()
        for rank, place, where, slip, t in ranked[:200]:
            key = (where.edges, slip.name, slip.have, t)
            if key in seen or len(seen) >= 12:
                continue
            seen.add(key)
            t = slip.number if not slip.fitted else 0.0 if abs(t) < 1e-9 else t
            cost = self.cost(where, slip, t)
            match = Match(where, slip, t, self.wrong, ~self.wrong, 0.0, cost)
            search = self.after(match)
            if not search.explains(place):
                continue
            others, left = search.one_by_one()
            worst = max(float(s.fit(place.nodes).residual.max()) for s in left.spots)
            match = match._replace(residual=worst if left.wrong.any() else left.residual)
            if left.wrong.any():
                finding = self.report(match)
                if match.t == 0:  # or carried somewhere else
                    finding = replace(finding, name=PLACE_ONLY)
                results.append((10 + rank + cost, (finding,), left))
            else:
                results.append((cost + 2 * len(others), (self.report(match), *others), left))
        if not results:
            return None
        _, found, left = min(results, key=lambda result: result[0])
        return (*found, *(left.places() if left.wrong.any() else ()))

    def best(self) -> Match | None:
        """Return the slip that explains most of the wrong leaves, the plainest of those."""
        whole = [where for where in self.sites if self.explains(where)]
        for candidates in (whole, [s for s in self.sites if s not in whole and self.separate(s)]):
            matches = [match for where in candidates for match in self.matches(where)]
            gains = [int(m.leaves.sum()) - int(m.spoiled.sum()) for m in matches]
            best = max(gains, default=0)
            if best > 0:
                chosen = [m for m, gain in zip(matches, gains, strict=True) if gain == best]
                return min(chosen, key=self.order)
        return None

    def order(self, match: Match) -> tuple[float, ...]:
        """Return what the plainest match has least: cost, directions, operations up to the loss.

        What no line of the user's own has done comes last.
        """
        where = match.site
        nowhere = self.graph.equations[self.equation(where)].place is None
        rank = self.spots[0].fit(where.nodes).rank
        return round(match.cost, 3), nowhere, rank, -where.edges[-1][0]

    def explains(self, where: Site) -> bool:
        """Whether wrong cotangents at a site can explain the whole residual, at all points."""
        return all((s.fit(where.nodes).residual <= 10 * s.tolerance).all() for s in self.spots)

    def separate(self, where: Site) -> bool:
        """Whether wrong cotangents at a site can explain at least one wrong leaf by itself."""
        return any(
            all(spot.fit_leaf(where.nodes, i) <= 10 * spot.tolerance[i] for spot in self.spots)
            for i in np.flatnonzero(self.wrong)
        )

    def matches(self, where: Site) -> list[Match]:
        """Return the slips that give the claimed numbers in at least one wrong leaf."""
        if where not in self.matched:
            self.matched[where] = self.find_matches(where)
        return self.matched[where]

    def find_matches(self, where: Site) -> list[Match]:
        chosen = list(slips(self.graph, where, self.known))
        effects: dict[Slip, list[tuple]] = {slip: [] for slip in chosen}
        for spot in self.spots:
            ones = self.effects(spot, where, chosen, 1.0)
            fitted = [i for i, slip in enumerate(chosen) if slip.fitted]
            zeros = np.zeros_like(ones)
            zeros[fitted] = self.effects(spot, where, [chosen[i] for i in fitted], 0.0)
            likely = ((spot.sizes(spot.residual - ones) <= spot.tolerance) & self.wrong).any(axis=1)
            likely[fitted] = True
            for i in np.flatnonzero(likely):
                effects[chosen[i]].append((zeros[i], ones[i]))
            chosen = [
                chosen[i]
                for i in np.flatnonzero(likely)
                if self.match(where, chosen[i], effects[chosen[i]]) is not None
            ]
        found = [self.match(where, slip, effects[slip]) for slip in chosen]
        return [match for match in found if match is not None]

    def match(self, where: Site, term: Slip, effects: Sequence[tuple]) -> Match | None:
        """Hold the effects of a slip, for t = 0 and 1, against the residuals."""
        t = term.number
        if term.fitted:
            values = []
            for spot, (zero, one) in zip(self.spots, effects, strict=False):
                slope, rest = one - zero, spot.residual - zero
                # Leaves that the term reaches; of these the one that it changes most decides.
                sizes = spot.sizes(slope)
                if not np.all(np.isfinite(sizes)) or not sizes.any():
                    return None
                decisive = spot.leaf_of == np.argmax(np.where(self.wrong, sizes, 0))
                values.append(
                    slope[decisive] @ rest[decisive] / (slope[decisive] @ slope[decisive])
                )
            t = float(np.median(values))
            if not np.ptp(values) <= 1e-7 * abs(t) + 1e-9:
                return None
            t = 0.0 if abs(t) < 1e-9 else t
        explained, spoiled, worst = self.wrong.copy(), np.zeros_like(self.wrong), 0.0
        for spot, (zero, one) in zip(self.spots, effects, strict=False):
            effect = zero + t * (one - zero) if term.fitted else one
            left = spot.sizes(spot.residual - effect)
            if not np.all(np.isfinite(left)):
                return None
            changed = spot.sizes(effect) > spot.tolerance
            fits = left <= spot.tolerance
            explained &= fits & (changed | ~spot.wrong)
            spoiled |= changed & ~fits
            worst = max(worst, *left[explained], 0.0)
        if not explained.any():
            return None
        return Match(where, term, t, explained, spoiled, worst, self.cost(where, term, t))

    def cost(self, where: Site, slip: Slip, t: float) -> float:
        """Return how far-fetched a slip is at a site, with this number."""
        return read_factor(self.graph, where, t).cost if slip.name == FACTOR else slip.cost

    def effects(self, spot: Spot, where: Site, terms: Sequence[Slip], t: float) -> np.ndarray:
        """Return what each term at a site does to the gradient: (terms, K), NaN where it fails."""
        # Side by side, unless they are too large for that.
        numbers = spot.graph.size if where.serial else max(map(spot.graph.size_of, where.nodes))
        most = max(1, MOST_NUMBERS // max(numbers, 1))
        found = np.zeros((len(terms), len(spot.residual)))
        for start in range(0, len(terms), most):
            some = terms[start : start + most]
            found[start : start + most] = self.effects_together(spot, where, some, t)
        return found

    def effects_together(self, spot: Spot, where: Site, terms: Sequence[Slip], t: float):
        """Return `effects`, calculated side by side."""
        if where.serial:
            return spot.trial(_edits(spot, where, terms, t), len(terms))
        total = np.zeros((len(terms), len(spot.residual)))
        for edge in where.edges:
            node = edge[1] if edge[0] == TOTAL else spot.graph.equations[edge[0]].inputs[edge[1]]
            flow, arriving = spot.flow(edge), spot.arriving(edge)
            at = Flow(spot, where.turn(edge), edge, arriving, flow, spot.cotangents, 0)
            changed = np.stack([_apply(term, at, t) for term in terms])
            changed -= flow
            total += spot.effect(node, changed)
        return total

    # Words.

    def report(self, match: Match) -> Finding:
        """Return what was found in words."""
        slip, graph, where, spot = match.slip, self.graph, match.site, self.spots[0]
        name, sentence, have = slip.name, slip.sentence, slip.have
        expected = local(graph, where)
        if name == FACTOR:
            name, sentence, text, _ = read_factor(graph, where, match.t)
            have = "0" if match.t == 0 else f"{text} · ({expected})"
        elif slip.fitted:
            sentence, have = (part.replace("{t}", f"{match.t:.6g}") for part in (sentence, have))
        at = slip.at
        if at is None:
            at = self.term(where) if name.startswith(("left out", "sign")) else self.equation(where)
        return Finding(
            **self.position(at),
            name=name,
            sentence=sentence,
            have=have,
            expected=expected,
            residual=match.residual,
            factor=match.t if slip.fitted or slip.name == FACTOR else None,
            leaves=tuple(self.names[i] for i in np.flatnonzero(match.leaves)),
            evidence="" if spot.whole else f"compared along {len(spot.leaf_of)} random directions",
        )

    def position(self, k: int) -> dict[str, Any]:
        """Return file, line and the like of an equation."""
        graph = self.graph
        equation = graph.equations[k]
        place = {} if equation.place is None else equation.place.position
        return {"variable": graph.name(equation.outputs[0])} | place

    def equation(self, where: Site) -> int:
        """Return the equation at which a site stands, one with a line if possible."""
        graph, (k, j) = self.graph, where.edges[-1]
        if k == TOTAL:
            consumers = graph.consumers.get(j)
            k = consumers[-1][0] if consumers else graph.producer.get(j, 0)
        return k if graph.equations[k].place else graph.producer.get(where.nodes[-1], k)

    def term(self, where: Site) -> int:
        """Return the equation at which a person looks for a term: where a variable is calculated
        that is only added to others, or part of one product among several."""
        graph, k = self.graph, self.equation(where)
        node, out = where.nodes[-1], graph.equations[k].outputs[0]
        kind = graph.equations[k].name if where.edges[-1][0] != TOTAL else ""
        part = kind in ("add", "sub", "add_any") or (kind == "mul" and not graph.assigned(out))
        part = part and graph.active.issuperset(graph.equations[k].inputs)
        alone = len(graph.consumers.get(node, ())) == 1 and graph.assigned(node)
        return graph.producer.get(node, k) if part and alone else k

    # Where nothing has a name.

    def places(self) -> tuple[Finding, ...]:
        """Return the place, or two together, with the fewest directions that explain all."""
        sites = [where for where in self.sites if where.edges[0][0] != TOTAL]
        rank = {where: self.spots[0].fit(where.nodes).rank for where in sites}
        single = [(where,) for where in sites if self.explains(where)]
        least = min((rank[where] for (where,) in single), default=len(self.spots[0].leaf_of))
        chosen = self.two_places([w for w in sites if 0 < rank[w] < least], least) or [
            one for one in single if rank[one[0]] == least
        ]
        if not chosen:
            return ()
        told = sum(rank[where] for where in chosen[0])

        def likely(places):
            return sum(_suspicion(self.graph, w) for w in places), [w.edges[-1][0] for w in places]

        chosen = sorted(chosen, key=likely, reverse=True)
        read = [self.read(places) for places in chosen[:MOST_READ]] if len(chosen[0]) > 1 else []
        named = [sum(match is not None for match in matches) for matches in read]
        if not any(named):
            left = self.left_by(chosen[0])
            return tuple(self.place_only(where, told, left) for where in chosen[0])
        best = min(
            (i for i, count in enumerate(named) if count == max(named)),
            key=lambda i: sum(match.cost for match in read[i] if match is not None),
        )
        left = self.left_by(chosen[best])
        return tuple(
            self.place_only(where, told, left)
            if match is None
            else self.report(match._replace(residual=left))
            for where, match in zip(chosen[best], read[best], strict=True)
        )

    def left_by(self, places: Sequence[Site]) -> float:
        """Return the largest relative difference that one place, or two together, leave."""
        nodes = [where.nodes for where in places]
        sizes = (
            spot.fit(nodes[0]).residual if len(nodes) == 1 else spot.left_by_both(*nodes)
            for spot in self.spots
        )
        return max(float(size.max()) for size in sizes)

    def read(self, places: Sequence[Site]) -> list[Match | None]:
        """Return, for each of the places that explain all together, what was done there."""
        passes = [spot.as_claimed(places) for spot in self.spots]
        if any(one is None for one in passes):
            return [None] * len(places)
        return [self.plainest(where, passes) for where in places]

    def plainest(self, where: Site, passes: Sequence[Any]) -> Match | None:
        """Return the plainest slip that gives what was claimed at a place."""
        best = None
        for slip in slips(self.graph, where, self.known):
            if best is not None and slip.cost >= best.cost:
                continue
            t = self.done(where, slip, passes)
            if t is None:
                continue
            cost = self.cost(where, slip, t)
            if cost < (2.5 if best is None else best.cost):  # else nobody would write it
                best = Match(where, slip, t, self.wrong, ~self.wrong, 0.0, cost)
        return best

    def done(self, where: Site, slip: Slip, passes: Sequence[Any]) -> float | None:
        """Return the number with which a slip gives what was claimed at a place, if it does."""
        t = None if slip.fitted else slip.number
        for spot, added in passes:
            for edge in where.edges:
                claimed = spot.flow(edge)
                own = Flow(
                    spot,
                    where.turn(edge),
                    edge,
                    spot.arriving(edge),
                    claimed - added[edge],
                    spot.cotangents,
                    0,
                )
                if t is None:
                    zero, one = _apply(slip, own, 0.0), _apply(slip, own, 1.0)
                    slope = one - zero
                    size = np.vdot(slope, slope)
                    if not 0 < size < np.inf:
                        return None
                    t = float(np.vdot(slope, claimed - zero) / size)
                    t = 0.0 if abs(t) < 1e-7 else t
                off = np.linalg.norm(_apply(slip, own, t) - claimed)
                largest = max(np.linalg.norm(claimed), np.linalg.norm(own.flow))
                if not off <= 1e-6 * largest:
                    return None
        return t

    def two_places(self, sites: Sequence[Site], below: int) -> list[tuple[Site, Site]]:
        """Return pairs that together explain all with the fewest directions, and with fewer."""
        alike: dict[tuple[int, ...], list[Site]] = {}
        for where in sites:
            alike.setdefault(where.nodes, []).append(where)
        spot, found, least, work = self.spots[0], [], below, 0
        rank = {nodes: spot.fit(nodes).rank for nodes in alike}
        pairs = [(rank[one] + rank[two], one, two) for one, two in itertools.combinations(alike, 2)]
        for both, one, two in sorted(pairs, key=lambda pair: pair[0]):
            work += both**2 * len(spot.residual)
            if both > least or both >= below or work > MOST_WORK:
                break
            if all((s.left_by_both(one, two) <= 10 * s.tolerance).all() for s in self.spots):
                least = both
                found += itertools.product(alike[two], alike[one])
        return [pair if pair[0].edges[-1] > pair[1].edges[-1] else pair[::-1] for pair in found]

    def place_only(self, where: Site, rank: int, residual: float) -> Finding:
        """Return the place alone, one of those that explain all with this number of directions."""
        spot = self.spots[0]
        rows = int((self.wrong[spot.leaf_of] & (spot.weights > 0)).sum())
        what = "numbers" if spot.whole else "of the random directions that are compared"
        told = rank < rows
        operand = self.graph.name(where.nodes[-1])
        return Finding(
            **self.position(self.equation(where)),
            name=PLACE_ONLY,
            sentence=(
                f"what is carried back into `{operand}` is wrong; everything after it is right"
                if told
                else f"what is carried back into `{operand}` may be wrong; the gradient has too "
                "few numbers to tell this line from others that all of it passes through"
            ),
            evidence=f"{rank} directions explain all {rows} {what}" if told else "",
            leaves=tuple(self.names[i] for i in np.flatnonzero(self.wrong)),
            residual=residual,
        )


def _pairs_that_span(effects: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Return the pairs among effects (n, K) of which the residual (K,) is a combination: (m, 2)."""
    size, product, onto = residual @ residual, effects @ effects.T, effects @ residual
    own = np.diag(product)
    determinant = own[:, None] * own - product**2
    explained = own[:, None] * onto**2 + own * onto[:, None] ** 2
    explained = (explained - 2 * product * np.outer(onto, onto)) / determinant
    spans = np.abs(explained - size) <= 1e-9 * size
    return np.argwhere(np.triu(spans & (determinant > 1e-9 * own[:, None] * own)))


_SUSPICION = {
    "dot_general": 2.0,
    "mul": 2.0,
    "reduce_sum": 1.0,
    "sub": 1.0,
    "add": 0.5,
    "add_any": 0.5,
}


def _suspicion(graph: Graph, where: Site) -> float:
    """Return how likely people go wrong at such an operation."""
    k, _ = where.edges[-1]
    equation = graph.equations[k]
    if equation.name in MOVES:
        return 0.1
    if equation.name == "square" or equation.params.get("y") == 2:
        return 1.5
    return _SUSPICION.get(equation.name, 3.0)


def _apply(slip: Slip, flow: Flow, t: float) -> np.ndarray:
    try:
        changed = np.asarray(slip.change(flow, t), np.float64)
    except (TypeError, ValueError, LookupError, ZeroDivisionError, RuntimeError):
        return np.full_like(flow.flow, np.nan)
    return changed if changed.shape == flow.flow.shape else np.full_like(flow.flow, np.nan)


def _edits(spot: Spot, where: Site, chosen: Sequence[Slip], t: float) -> dict[Edge, Callable]:
    """Return the edits that slips stand for, one in each of the passes side by side."""

    def change(edge, arriving, flow, cotangents):
        each = chosen if len(chosen) == len(flow) else [*chosen] * len(flow)
        flows = (
            Flow(spot, where.turn(edge), edge, arriving[c], flow[c], cotangents, c)
            for c in range(len(flow))
        )
        return np.stack([_apply(slip, f, t) for slip, f in zip(each, flows, strict=True)])

    return dict.fromkeys(where.edges, change)
