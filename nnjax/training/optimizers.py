"""Optimizers and rate schedules by name, and momentum in the form that the book gives it.

Training takes any `optax.GradientTransformation`. What `by_name` returns keeps its learning rate
in its state, so that training can lower it (`scale_rate`) and report it (`rate`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nnjax.checks import (
    did_you_mean,
    plain_number,
    require_number,
    require_scalar,
    require_size,
)

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "by_name",
    "momentum",
    "nesterov",
    "rate",
    "require_optimizer",
    "scale_rate",
    "schedule",
    "start",
]

_FLOAT32 = jnp.finfo(jnp.float32)


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
    here the velocity keeps the gradients as they were scaled by the η of their time.
    """
    learning_rate, mu = plain_number(learning_rate), _plain_mu(mu)
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
    learning_rate, mu = plain_number(learning_rate), _plain_mu(mu)
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
    what = f"the schedule {name}"
    return _schedule(name, float(peak), steps, _hashable(what, options))


@lru_cache(maxsize=256)
def _schedule(name: str, peak: float, steps: int, options: tuple[tuple[str, Any], ...]) -> Any:
    return _call(SCHEDULES[name], f"the schedule {name}", peak=peak, steps=steps, **dict(options))


def _constant(peak: float, steps: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _step(peak: float, steps: int, every: int | None = None, factor: float = 0.1) -> optax.Schedule:
    every = -(-steps // 3) if every is None else require_size(every, "every")
    least = float(_FLOAT32.tiny)  # optax takes 0 for "no decay"
    require_number(factor, "factor", "a number greater than 0 and at most 1", least, 1)
    return optax.exponential_decay(peak, every, factor, staircase=True)


def _cosine(peak: float, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, steps)


def _one_cycle(
    peak: float,
    steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> optax.Schedule:
    expected = "a fraction of the steps, at least 0 and less than 1"
    require_number(pct_start, "pct_start", expected, 0, 1 - 1e-6)
    for value, option in ((div_factor, "div_factor"), (final_div_factor, "final_div_factor")):
        require_number(value, option, "a finite number of at least 1", 1, float(_FLOAT32.max))
    return optax.cosine_onecycle_schedule(steps, peak, pct_start, div_factor, final_div_factor)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
}
"""The schedules by name, as functions of the largest rate, the number of steps, and options."""


def _of_optax() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Return the functions of optax that make an optimizer of a learning rate, by name."""
    return {
        name: kind
        for name, kind in vars(optax).items()
        if inspect.isfunction(kind)
        and not name.startswith(("_", "scale_by_"))
        and name != "lbfgs"  # it searches along lines, for which it needs the loss as a function
        and next(iter(inspect.signature(kind).parameters), None) == "learning_rate"
    }


OPTIMIZERS = _of_optax() | {"momentum": momentum, "nesterov": nesterov}
"""The optimizers by name: those of optax, and those of this module."""


def by_name(
    name: str, learning_rate: float | optax.Schedule, **options: Any
) -> optax.GradientTransformation:
    """Return an optimizer by name: sgd, momentum, nesterov, adam, rmsprop, adamw, or any of optax.

    Its state holds the learning rate, as of `optax.inject_hyperparams`.

    Args:
        name: one of `OPTIMIZERS`; `momentum` and `nesterov` are those of this module, the others
            those of optax, with its defaults (of rmsprop and adamw they differ from PyTorch's).
        learning_rate: η ≥ 0, or a schedule.
        **options: further arguments of that function, such as `mu=0.5`.

    Returns:
        The same object for the same arguments.

    Raises:
        ValueError: if there is no such optimizer or option, the rate is negative, infinite or too
            small for the floating-point numbers in use, or μ is outside 0 … 1.
        TypeError: if an option has no hash.

    Example:
        >>> from nnjax.training import optimizers
        >>> optimizer = optimizers.by_name("momentum", 0.1, mu=0.5)
        >>> optimizer is optimizers.by_name("momentum", 0.1, mu=0.5)
        True
        >>> float(optimizers.rate(optimizer.init(())))
        0.10000000149011612
    """
    if name not in OPTIMIZERS:
        expected = ", ".join(sorted(OPTIMIZERS)) + did_you_mean(name, OPTIMIZERS)
        raise ValueError(f"optimizer is {name!r}; expected one of {expected}")
    if not callable(learning_rate):
        learning_rate = _require_rate(learning_rate)
    return _by_name(name, learning_rate, _hashable(f"the optimizer {name}", options))


@lru_cache(maxsize=256)
def _by_name(name: str, learning_rate: Any, options: tuple[tuple[str, Any], ...]) -> Any:
    def with_rate(learning_rate):
        what = f"the optimizer {name}"
        return _call(OPTIMIZERS[name], what, learning_rate=learning_rate, **dict(options))

    with_rate(learning_rate)  # refuses wrong options here, by their values
    optimizer = optax.inject_hyperparams(with_rate)(learning_rate=learning_rate)
    return optimizer._replace(init=jax.jit(optimizer.init))  # one program, not one for each array


def require_optimizer(optimizer: Any) -> None:
    """Raise TypeError unless it is an optimizer in the form of optax: with `init` and `update`.

    Example:
        >>> from nnjax.training import optimizers
        >>> optimizers.require_optimizer(0.5)
        Traceback (most recent call last):
        ...
        TypeError: optimizer is 0.5; expected an optax.GradientTransformation such as optax.sgd(0.5)
    """
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"optimizer is {optimizer!r}; expected an optax.GradientTransformation such as "
            "optax.sgd(0.5)"
        )


def start(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """Return the state of an optimizer before its first step, if it can train these parameters.

    Args:
        optimizer: from optax.
        params: the parameters that it is to train.

    Raises:
        TypeError: if it is not an optimizer, or needs more than gradients, as a line search does.
        ValueError: if it divides by zero where a gradient is 0, as Adam does in float16, in which
            its ε = 1e-8 is 0.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from nnjax.training import optimizers
        >>> optimizers.start(optax.sgd(0.1), jnp.zeros(3))
        (EmptyState(), EmptyState())
    """
    require_optimizer(optimizer)
    state = optimizer.init(params)

    def first_update(params, state):
        return optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)[0]

    try:
        jax.eval_shape(first_update, params, state)
    except TypeError as error:
        raise TypeError(
            f"optimizer cannot follow a gradient alone: {error}; expected one such as "
            "optax.sgd(0.5), not a line search such as optax.lbfgs"
        ) from None
    if any(leaf.dtype == jnp.float16 for leaf in jax.tree.leaves(params)):
        updates = jax.tree.leaves(jax.jit(first_update)(params, state))
        if not all(bool(jnp.all(jnp.isfinite(update))) for update in updates):
            raise ValueError(
                "optimizer divides by zero in float16 where a gradient is 0: its eps is rounded to "
                "0 there; give a larger eps, such as eps=1e-4, or parameters in bfloat16 or float32"
            )
    return state


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
    largest, dtype = float(_FLOAT32.max), jnp.result_type(float)
    rate = require_number(value, "the learning rate", "a finite number of at least 0", 0, largest)
    least = float(jnp.finfo(dtype).tiny)
    if 0 < rate < least:
        raise ValueError(
            f"the learning rate is {value!r}, which is 0 in {dtype}; expected 0, or at least "
            f"{least:.3g}"
        )
    return rate


def _plain_mu(mu: Any) -> Any:
    why = (
        "0 ≤ μ ≤ 1: with μ > 1 the velocity would grow by itself at every step, with μ < 0 it "
        "would change its sign at every step"
    )
    return plain_number(require_scalar(mu, "mu", why, 0, 1))


def _hashable(what: str, options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return options as a key of a cache."""
    for name, value in options.items():
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"{name} of {what} is {value!r}; expected a number, or another value that has a "
                "hash"
            ) from None
    return tuple(sorted(options.items()))


def _call(function: Callable, what: str, **options: Any) -> Any:
    """Call a function, or say which options it takes."""
    given = {"learning_rate", "peak", "steps"}
    known = [name for name in inspect.signature(function).parameters if name not in given]
    unknown = sorted(options.keys() - set(known) - given)
    if unknown:
        takes = ", ".join(known) or "none"
        raise ValueError(f"{what} has no option {', '.join(unknown)}; it takes {takes}")
    return function(**options)
