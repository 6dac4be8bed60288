"""check_update: the step of the book, and the mistakes that are made in it."""

import pytest

from nnjax.gradcheck import check_update

ETA, MU, DECAY = 0.1, 0.9, 0.03


def right(w, v, g):
    v = MU * v - ETA * g
    return (1 - ETA * DECAY) * w + v, v


def velocity(v):
    """Return the update with this velocity."""
    return lambda w, *state: ((1 - ETA * DECAY) * w + v(w, *state), v(w, *state))


UPDATES = {
    "momentum with the wrong sign": velocity(lambda w, v, g: -MU * v - ETA * g),
    "momentum left out": velocity(lambda w, v, g: -ETA * g),
    "friction left out": velocity(lambda w, v, g: v - ETA * g),
    "uphill": velocity(lambda w, v, g: MU * v + ETA * g),
    "learning rate left out": velocity(lambda w, v, g: MU * v - g),
    "gradient damped by 1 − μ": velocity(lambda w, v, g: MU * v - (1 - MU) * ETA * g),
    "decay applied twice": velocity(lambda w, v, g: MU * v - ETA * (g + DECAY * w)),
    "the old velocity moves the weights": lambda w, v, g: (
        (1 - ETA * DECAY) * w + v,
        MU * v - ETA * g,
    ),
    "the velocity subtracted from the weights": lambda w, v, g: (
        (1 - ETA * DECAY) * w - MU * v + ETA * g,
        MU * v - ETA * g,
    ),
    "decay applied twice (shrunk twice)": lambda w, v, g: (
        right(w, v, g)[0] - ETA * DECAY * (1 - ETA * DECAY) * w,
        right(w, v, g)[1],
    ),
    "decay left out": lambda w, v, g: (right(w, v, g)[0] + ETA * DECAY * w, right(w, v, g)[1]),
    "decay with the wrong sign": lambda w, v, g: (
        right(w, v, g)[0] + 2 * ETA * DECAY * w,
        right(w, v, g)[1],
    ),
    "decay without the learning rate": lambda w, v, g: (
        right(w, v, g)[0] + (ETA - 1) * DECAY * w,
        right(w, v, g)[1],
    ),
    "decay through the velocity": lambda w, v, g: (
        w + MU * v - ETA * (g + DECAY * w),
        MU * v - ETA * (g + DECAY * w),
    ),
}


def test_the_step_of_the_book_is_right():
    report = check_update(right, eta=ETA, mu=MU, decay=DECAY)
    assert report.verdict == "RIGHT"
    assert [leaf.path for leaf in report.leaves] == ["w'", "v'"]


@pytest.mark.parametrize("name", UPDATES)
def test_mistakes_in_the_step_are_named(name):
    report = check_update(UPDATES[name], eta=ETA, mu=MU, decay=DECAY)
    assert report.verdict == "WRONG"
    assert [finding.name for finding in report.mistakes] == [name]


def test_what_is_no_step_is_said():
    unknown = check_update(lambda w, v, g: (w - ETA * g**3, v), eta=ETA, mu=MU)
    assert not unknown.ok
    assert "no known mistake explains it" in unknown.diagnosis
    assert "another structure" in check_update(lambda w, v, g: w, eta=ETA).reason
    assert "raises ZeroDivisionError" in check_update(lambda w, v, g: 1 / 0, eta=ETA).reason
    with pytest.raises(ValueError, match=r"mu is -1; expected a number of at least 0"):
        check_update(right, eta=ETA, mu=-1)
