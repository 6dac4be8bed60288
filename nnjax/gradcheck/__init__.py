"""Is my gradient right, and if not, which term is wrong.

`check_gradient` for a scalar function, `check_vjp` for a pull-back, `check_backprop` for somebody's
backpropagation of a network, `check_layer` for somebody's layer, `check_update` for somebody's step
of gradient descent; each returns a `GradientReport`.
"""

from nnjax.gradcheck.backprop import check_backprop
from nnjax.gradcheck.check import (
    assert_gradient,
    check_forward_backward,
    check_gradient,
    check_vjp,
)
from nnjax.gradcheck.finding import Finding
from nnjax.gradcheck.layer import check_layer
from nnjax.gradcheck.mistakes import MISTAKES, Mistake
from nnjax.gradcheck.report import GradientError, GradientReport, Verdict
from nnjax.gradcheck.trace import GradientTrace, trace_gradient
from nnjax.gradcheck.update import check_update

__all__ = [
    "MISTAKES",
    "Finding",
    "GradientError",
    "GradientReport",
    "GradientTrace",
    "Mistake",
    "Verdict",
    "assert_gradient",
    "check_backprop",
    "check_forward_backward",
    "check_gradient",
    "check_layer",
    "check_update",
    "check_vjp",
    "trace_gradient",
]
