"""Optimizers and rate schedules by name, and momentum in the form that the book gives it.

Training takes any `optax.GradientTransformation`. What `by_name` returns keeps its learning rate
in its state, so that training can lower it (`scale_rate`) and report it (`rate`), and is the same
object for the same arguments, so that equal settings share one compiled program.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nnjax.checks import require_number, require_size

__all__ = ["SCHEDULES", "by_name", "momentum", "nesterov", "rate", "scale_rate", "schedule"]

SCHEDULES = ("constant", "step", "cosine", "one_cycle")
"""The names that `schedule` knows."""


def momentum(
    learning_rate: float | jax.Array | optax.Schedule, mu: float = 0.9
) -> optax.GradientTransformation:
    """Return momentum-based gradient descent: v → μv − η∇C, w → w + v (eqs. 107 and 108).

    Args:
        learning_rate: η, or η as a function of the step.
        mu: μ, the momentum coefficient, 0 ≤ μ ≤ 1; 1 − μ is the friction.

    Raises:
        ValueError: if μ is outside 0 … 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.training import optimizers
        >>> optimizer, w = optimizers.momentum(0.5, mu=0.5), jnp.array(1.0)
        >>> v, state = optimizer.update(jnp.array(1.0), optimizer.init(w))
        >>> v, state = optimizer.update(jnp.array(1.0), state)
        >>> float(v)  # 0.5 · (−0.5) − 0.5
        -0.75

    Reference: Nielsen 2015, chapter 3. Differs from `optax.sgd(η, momentum=μ)`, which collects
    the gradients and multiplies by η at the end: the same for a constant η, but when η changes,
    here what is under way keeps the η that it set out with.
    """
    _require_mu(mu)
    return optax.chain(optax.scale_by_learning_rate(learning_rate), optax.trace(decay=mu))


def nesterov(
    learning_rate: float | jax.Array | optax.Schedule, mu: float = 0.9
) -> optax.GradientTransformation:
    """Return Nesterov's momentum: v → μv − η∇C, w → w + μv − η∇C, with the new v on the right.

    The parameters that it moves are those of the look-ahead, w + μv, as customary.

    Args:
        learning_rate: η, or η as a function of the step.
        mu: μ, the momentum coefficient, 0 ≤ μ ≤ 1.

    Raises:
        ValueError: if μ is outside 0 … 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.training import optimizers
        >>> optimizer, w = optimizers.nesterov(0.5, mu=0.5), jnp.array(1.0)
        >>> float(optimizer.update(jnp.array(1.0), optimizer.init(w))[0])  # 0.5 · (−0.5) − 0.5
        -0.75

    Reference: Sutskever et al. 2013, "On the importance of initialization and momentum".
    """
    _require_mu(mu)
    return optax.chain(
        optax.scale_by_learning_rate(learning_rate), optax.trace(decay=mu, nesterov=True)
    )


def schedule(name: str, peak: float, steps: int, run: int | None = None, **options: Any) -> Any:
    """Return a learning rate as a function of the step, by name.

    - `constant`: η
    - `step`: η · factor^⌊step / every⌋ (`every`: by default a third of the steps; `factor`: 0.1)
    - `cosine`: η (1 + cos(π step / steps)) / 2
    - `one_cycle`: cosine up to η over the first `pct_start` of the steps, then down to nearly 0;
      options as of `optax.cosine_onecycle_schedule`

    To halve the rate when validation stalls, see `nnjax.training.early_stopping`.

    Args:
        name: one of `SCHEDULES`.
        peak: η, the largest rate, at least 0.
        steps: how many steps (mini-batches) the schedule lasts.
        run: how many steps the run takes; None: as many.
        **options: as above.

    Returns:
        An `optax.Schedule`, the same one for the same arguments.

    Raises:
        ValueError: if the name is unknown, an option does not fit, or the schedule ends before the
            run.

    Example:
        >>> from nnjax.training import optimizers
        >>> rate = optimizers.schedule("cosine", 0.5, steps=100)
        >>> [round(float(rate(step)), 3) for step in (0, 50, 100)]
        [0.5, 0.25, 0.0]
        >>> optimizers.schedule("cosine", 0.5, steps=100, run=300)
        Traceback (most recent call last):
        ...
        ValueError: the cosine schedule ends after 100 steps, but the run takes 300; ...
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule is {name!r}; expected one of {', '.join(SCHEDULES)}")
    _require_rate(peak)
    require_size(steps, "steps")
    if run is not None and run > steps and name in ("cosine", "one_cycle"):
        raise ValueError(
            f"the {name} schedule ends after {steps} steps, but the run takes {run}; its rate "
            "would be about 0 from there on: let it last as long as the run"
        )
    return _schedule(name, float(peak), steps, tuple(sorted(options.items())))


@lru_cache(maxsize=256)
def _schedule(name: str, peak: float, steps: int, options: tuple[tuple[str, Any], ...]) -> Any:
    def constant():
        return optax.constant_schedule(peak)

    def step(every: int = -(-steps // 3), factor: float = 0.1):
        require_size(every, "every")
        require_number(factor, "factor", "a number between 0 and 1", 0, 1)
        return optax.exponential_decay(peak, every, factor, staircase=True)

    def cosine():
        return optax.cosine_decay_schedule(peak, steps)

    def one_cycle(pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4):
        return optax.cosine_onecycle_schedule(steps, peak, pct_start, div_factor, final_div_factor)

    kinds = {"constant": constant, "step": step, "cosine": cosine, "one_cycle": one_cycle}
    return _call(kinds[name], f"the schedule {name}", **dict(options))


def by_name(
    name: str, learning_rate: float | optax.Schedule, **options: Any
) -> optax.GradientTransformation:
    """Return an optimizer by name: sgd, momentum, nesterov, adam, rmsprop, adamw, or any of optax.

    Its state holds the learning rate, as of `optax.inject_hyperparams`.

    Args:
        name: `momentum` and `nesterov` are those of this module; others are looked up in optax,
            where they are functions of a learning rate.
        learning_rate: η ≥ 0, or a schedule.
        **options: further arguments of that function, such as `mu=0.5`.

    Returns:
        The same object for the same arguments.

    Raises:
        ValueError: if there is no such optimizer or option, the rate is negative, or μ is outside
            0 … 1.

    Example:
        >>> from nnjax.training import optimizers
        >>> optimizer = optimizers.by_name("momentum", 0.1, mu=0.5)
        >>> optimizer is optimizers.by_name("momentum", 0.1, mu=0.5)
        True
        >>> float(optimizers.rate(optimizer.init(())))
        0.10000000149011612
    """
    if not callable(learning_rate):
        learning_rate = _require_rate(learning_rate)
    return _by_name(name, learning_rate, tuple(sorted(options.items())))


@lru_cache(maxsize=256)
def _by_name(name: str, learning_rate: Any, options: tuple[tuple[str, Any], ...]) -> Any:
    kinds = {"momentum": momentum, "nesterov": nesterov}
    theirs = {each: kind for each, kind in vars(optax).items() if _is_optimizer(each, kind)}
    kinds = theirs | kinds
    if name not in kinds:
        raise ValueError(f"optimizer is {name!r}; expected one of {', '.join(sorted(kinds))}")
    kind: Any = kinds[name]

    def with_rate(learning_rate):
        return _call(kind, f"the optimizer {name}", learning_rate=learning_rate, **dict(options))

    with_rate(learning_rate)  # refuses wrong options here, by their values
    return optax.inject_hyperparams(with_rate)(learning_rate=learning_rate)


def rate(opt_state: Any) -> jax.Array | None:
    """Return the learning rate that a state of `by_name` or `optax.inject_hyperparams` holds.

    Args:
        opt_state: the state of an optimizer.

    Returns:
        η, (), or None where the state holds none.

    Example:
        >>> import optax
        >>> from nnjax.training import optimizers
        >>> optimizers.rate(optax.sgd(0.5).init(())) is None
        True
    """
    return getattr(opt_state, "hyperparams", {}).get("learning_rate")


def scale_rate(opt_state: Any, factor: float | jax.Array) -> Any:
    """Return the state of an optimizer with its learning rate multiplied by a factor.

    Args:
        opt_state: a state of `by_name` or `optax.inject_hyperparams`, with a rate that is a number.
        factor: such as 0.5.

    Raises:
        ValueError: if the state holds no rate, or a schedule sets it.

    Example:
        >>> from nnjax.training import optimizers
        >>> state = optimizers.by_name("sgd", 0.5).init(())
        >>> float(optimizers.rate(optimizers.scale_rate(state, 0.5)))
        0.25
    """
    old = rate(opt_state)
    if old is None:
        raise ValueError(
            "this optimizer does not hold its learning rate in its state, so that it cannot be "
            "lowered; use nnjax.training.optimizers.by_name, or optax.inject_hyperparams"
        )
    if getattr(opt_state, "hyperparams_states", None):
        raise ValueError("a schedule sets the learning rate; only a constant one can be lowered")
    new = old * jnp.asarray(factor, old.dtype)
    return opt_state._replace(hyperparams=opt_state.hyperparams | {"learning_rate": new})


def _require_rate(value: Any) -> float:
    largest = float(jnp.finfo(jnp.float32).max)
    return require_number(value, "the learning rate", "a finite number of at least 0", 0, largest)


def _require_mu(mu: Any) -> None:
    why = (
        "0 ≤ μ ≤ 1: with μ > 1 the velocity would grow by itself at every step, with μ < 0 it "
        "would turn round"
    )
    require_number(mu, "mu", why, 0, 1)


def _is_optimizer(name: str, kind: Any) -> bool:
    """Whether optax makes an optimizer of a learning rate by this; lbfgs searches along lines."""
    if not inspect.isfunction(kind) or name.startswith(("_", "scale_by_")) or name == "lbfgs":
        return False
    return next(iter(inspect.signature(kind).parameters), None) == "learning_rate"


def _call(function: Callable, what: str, **options: Any) -> Any:
    """Call a function, or say which options it takes."""
    known = [name for name in inspect.signature(function).parameters if name != "learning_rate"]
    unknown = sorted(set(options) - set(known) - {"learning_rate"})
    if unknown:
        takes = ", ".join(known) or "none"
        raise ValueError(f"{what} has no option {', '.join(unknown)}; it takes {takes}")
    return function(**options)
