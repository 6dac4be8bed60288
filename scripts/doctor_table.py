"""Planted mistakes in other functions' gradients: which are caught, in which line, by which name.

    python scripts/doctor_table.py --save table.json

prints a table in Markdown: ours beside the gradient checkers of PyTorch, JAX and SciPy, each called
as its documentation shows and left out where it is not installed, on the functions of
`tests/corpus`. With `--save` the results are kept as they come, and what is there already is not
computed again. `--only "layer norm"` takes part of the functions, `--skip right` part of the jobs,
`--failures` prints, after the table, a line for every mistake that is not found as it should be.

The columns count mistakes. Caught: the verdict is not that the gradient is right. Right line: the
first finding stands in a line of the function where a person would place the mistake. Named: it
has the right name too; of those that there is a word for. Named wrongly: it has a name, and neither
name nor line are right. Pairs: two mistakes at once, and the lines of both are found.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.test_util import check_grads

import nnjax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from corpus import CASES, Case, Slip, pairs
from corpus.right import Right, right_gradients

PEERS = ["PyTorch", "JAX", "SciPy"]


def main() -> None:
    """Compute what is asked for, save as results come, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=[], help="names of functions, or parts of them"
    )
    parser.add_argument(
        "--skip",
        nargs="+",
        default=[],
        choices=["mistakes", "pairs", "right", "peers"],
        help="parts of the table that are left out",
    )
    parser.add_argument("--save", type=Path, help="a JSON file that is continued")
    parser.add_argument("--failures", action="store_true", help="list what is not found")
    options = parser.parse_args()
    done = {}
    if options.save and options.save.exists():
        done = json.loads(options.save.read_text(encoding="utf-8"))
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key, job in jobs(options.only, options.skip):
            if key in done:
                continue
            done[key] = job()
            print(f"{len(done)} {key}: {done[key]['found']}", file=sys.stderr)
            if options.save:
                options.save.write_text(json.dumps(done, indent=0, ensure_ascii=False), "utf-8")
    print(table(done))
    if options.failures:
        print(*failures(done), sep="\n")


def jobs(only: list[str], skip: list[str]) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield (key, function that computes its result), the keys unique."""
    for case in CASES:
        if only and not any(part.lower() in case.name.lower() for part in only):
            continue
        if "mistakes" not in skip:
            for slip in case.slips:
                yield f"{case.name}: {slip.id}", lambda c=case, s=slip: mistake(c, [s])
        if "pairs" not in skip:
            for pair in pairs(case):
                ids = " + ".join(slip.id for slip in pair)
                yield f"{case.name}: {ids}", lambda c=case, p=pair: mistake(c, list(p))
        if "peers" not in skip:
            for slip in case.slips:
                yield f"peers on {case.name}: {slip.id}", lambda c=case, s=slip: peers(c, s)
    if "right" not in skip and not only:
        for i, right in enumerate(right_gradients()):
            yield f"right {i}: {right.name}", lambda r=right: alarm(r)
            if "peers" not in skip:
                yield f"peers on right {i}: {right.name}", lambda r=right: peers_alarm(r)


def mistake(case: Case, slips: list[Slip]) -> dict[str, Any]:
    """Check a gradient with these slips; return what was found of them."""
    start = time.perf_counter()
    gradient = case.gradient(*(slip.id for slip in slips))
    try:
        report = nnjax.check_gradient(case.f, gradient, *case.args(), argnums=case.argnums)
        findings, verdict, else_found = report.findings, str(report.verdict), report.diagnosis
    except Exception as error:  # a row of its own among the failures, not the end of the table
        findings, verdict, else_found = (), "RAISED", repr(error)
    lines = [line_in(case, finding) for finding in findings]
    result = {
        "case": case.name,
        "verdict": verdict,
        "caught": verdict in ("WRONG", "RIGHT BY ANOTHER CONVENTION"),
        "seconds": time.perf_counter() - start,
        "found": "; ".join(summary(f) for f in findings[:3]) or else_found,
    }
    if len(slips) == 2:
        wanted = [case.places(slip) for slip in slips]
        return result | {
            "both": all(any(line in places for line in lines[:4]) for places in wanted)
        }
    (slip,) = slips
    name = findings[0].name if findings else ""
    place_only = not name or "place only" in name.lower()
    at = bool(lines) and lines[0] in case.places(slip)
    named = not place_only and slip.is_named(name)
    return result | {
        "line": at,
        "has_name": slip.has_name,
        "named": named and (at or lines[0] is None),
        "named_wrongly": not (place_only or named or at),
        "expected": f"{slip.what}; {' / '.join(slip.lines)}; {', '.join(slip.names)}",
    }


def line_in(case: Case, finding: Any) -> int | None:
    """Return the line of a finding if it is one in the file of f."""
    file = getattr(finding, "file", None)
    if file is None or Path(file).resolve() != Path(inspect.getfile(case.f)).resolve():
        return None
    return finding.line


def summary(finding: Any) -> str:
    """Return a finding's name and line in a few words."""
    source = getattr(finding, "source", None) or finding.where
    return f"{finding.name} @ {source.strip()}"


def alarm(right: Right) -> dict[str, Any]:
    """Check a right gradient; return the verdict on it."""
    start = time.perf_counter()
    report = nnjax.check_gradient(right.f, right.gradient, *right.args, argnums=right.argnums)
    seconds = time.perf_counter() - start
    verdict = str(report.verdict)
    result = {"right": True, "verdict": verdict, "seconds": seconds, "alarm": verdict == "WRONG"}
    return result | {"found": verdict if report.ok else f"{verdict}: {report.diagnosis}"}


def peers(case: Case, slip: Slip) -> dict[str, Any]:
    """Return which of the other checkers catch a slip."""
    caught = complaints(case.f, case.gradient(slip.id), case.args(), case.argnums)
    return {"case": case.name, "peers": caught, "found": str(caught)}


def peers_alarm(right: Right) -> dict[str, Any]:
    """Return which of the other checkers call a right gradient wrong."""
    alarms = complaints(right.f, right.gradient, right.args, right.argnums)
    return {"alarms": alarms, "found": str(alarms)}


def complaints(f, gradient, args, argnums) -> dict[str, bool]:
    """Return which of the other checkers call this gradient wrong."""
    positions = [argnums] if isinstance(argnums, int) else list(argnums)
    start, tree = jax.tree.flatten([args[i] for i in positions])

    def with_leaves(leaves):
        full = list(args)
        for i, value in zip(positions, jax.tree.unflatten(tree, leaves), strict=True):
            full[i] = value
        return full

    value = jax.jit(lambda *leaves: f(*with_leaves(leaves)))

    def gradients(*leaves):
        return jax.tree.leaves(gradient(*with_leaves(leaves)))

    checkers = {"PyTorch": torch_catches, "JAX": jax_catches, "SciPy": scipy_catches}
    modules = {"PyTorch": "torch", "JAX": "jax", "SciPy": "scipy"}
    return {
        name: check(value, gradients, start)
        for name, check in checkers.items()
        if importlib.util.find_spec(modules[name])
    }


def torch_catches(f, gradient, trained) -> bool:
    """Return whether `torch.autograd.gradcheck` fails."""
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            ctx.save_for_backward(*tensors)
            value = f(*(tensor.detach().numpy() for tensor in tensors))
            return torch.tensor(float(value), dtype=torch.float64)

        @staticmethod
        def backward(ctx, *outer):
            grads = gradient(*(tensor.numpy() for tensor in ctx.saved_tensors))
            return tuple(outer[0] * torch.as_tensor(np.asarray(grad)) for grad in grads)

    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in trained]
    return not torch.autograd.gradcheck(Function.apply, tensors, raise_exception=False)


def jax_catches(f, gradient, trained) -> bool:
    """Return whether `jax.test_util.check_grads` fails."""
    rule = jax.custom_vjp(f)
    rule.defvjp(
        lambda *trained: (f(*trained), trained),
        lambda saved, outer: tuple(outer * np.asarray(grad) for grad in gradient(*saved)),
    )
    try:
        check_grads(rule, tuple(np.asarray(x, float) for x in trained), 1, modes=["rev"])
    except AssertionError:
        return True
    return False


def scipy_catches(f, gradient, trained) -> bool:
    """Return whether `scipy.optimize.check_grad` is above 1e-5 of the gradient's length."""
    from scipy.optimize import check_grad

    shapes = [np.shape(x) for x in trained]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])

    def split(flat):
        return [
            part.reshape(shape)
            for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)
        ]

    def flat_gradient(flat):
        return np.concatenate([np.ravel(grad) for grad in gradient(*split(flat))])

    start = np.concatenate([np.ravel(x) for x in trained])
    error = check_grad(lambda flat: float(f(*split(flat))), flat_gradient, start)
    return bool(error > 1e-5 * np.linalg.norm(flat_gradient(start)))


def table(done: dict[str, dict]) -> str:
    """Return the results as a table in Markdown, and what the right gradients gave below it."""
    head = ["function", "mistakes", "caught", "right line", "named", "named wrongly"]
    head += ["pairs, both lines", "seconds", *PEERS]
    rows, names = [], list(dict.fromkeys(r["case"] for r in done.values() if "case" in r))
    for name in names:
        rows.append([name, *counts([r for r in done.values() if r.get("case") == name])])
    if len(names) > 1:
        rows.append(["**all**", *counts([r for r in done.values() if "case" in r])])
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    rights = [r for r in done.values() if r.get("right")]
    others = [r["alarms"] for r in done.values() if "alarms" in r]
    if rights:
        open_ = sum(r["verdict"] == "INCONCLUSIVE" for r in rights)
        false = [f"nnjax {sum(r['alarm'] for r in rights)}"]
        false += [f"{peer} {sum(r[peer] for r in others)}" for peer in PEERS if others]
        lines += [
            "",
            f"False alarms on {len(rights)} right gradients: {', '.join(false)}. "
            f"nnjax leaves {open_} open (inconclusive).",
        ]
    return "\n".join(lines)


def counts(results: list[dict]) -> list[str]:
    """Return the columns of a row."""
    single = [r for r in results if "line" in r]
    double = [r for r in results if "both" in r]
    other = [r["peers"] for r in results if "peers" in r]
    named = [r for r in single if r["has_name"]]
    return [
        str(len(single)),
        str(sum(r["caught"] for r in single)),
        share(sum(r["line"] for r in single), len(single)),
        share(sum(r["named"] for r in named), len(named)),
        str(sum(r["named_wrongly"] for r in single)),
        share(sum(r["both"] for r in double), len(double)),
        f"{np.median([r['seconds'] for r in single]):.1f}" if single else "–",
        *(
            f"{sum(r[peer] for r in other if peer in r)}" if any(peer in r for r in other) else "–"
            for peer in PEERS
        ),
    ]


def share(part: int, whole: int) -> str:
    """Return "17 of 20 (85 %)"."""
    return f"{part} of {whole} ({part / whole:.0%})".replace("%", " %") if whole else "–"


def failures(done: dict[str, dict]) -> Iterator[str]:
    """Yield a line for everything that is not found as it should be."""
    for key, r in done.items():
        if r.get("alarm"):
            yield f"false alarm | {key} | {r['found']}"
        elif r.get("both") is False:
            yield f"pair | {key} | found {r['found']}"
        elif "line" in r:
            faults = [word for word in ("caught", "line") if not r[word]]
            if r["has_name"] and not r["named"]:
                faults.append("name")
            if r["named_wrongly"]:
                faults.append("NAMED WRONGLY")
            if faults:
                yield f"{', '.join(faults)} | {key} | {r['expected']} | found {r['found']}"


if __name__ == "__main__":
    main()
