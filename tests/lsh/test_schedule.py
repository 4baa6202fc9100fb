"""When tables are rebuilt: the exponential schedule's formula, fixed gaps, drift, and new functions."""

import math
from itertools import pairwise

import pytest

from slide.config import RehashConfig
from slide.lsh.schedule import RehashSchedule


def never():
    raise AssertionError("drift was measured")


def rebuilds_of(schedule, steps, drift=never):
    """Steps after which the schedule had its tables rebuilt."""
    built = []
    for step in range(steps):
        if schedule.due(step, drift):
            schedule.built(step)
            built.append(step)
    return built


@pytest.mark.parametrize(("period", "decay"), [(1, 0.0), (1, 0.05), (5, 0.3), (50, 0.1), (50, 1.0)])
def test_exponential_gaps_follow_the_formula(period, decay):
    built = rebuilds_of(RehashSchedule(RehashConfig(period=period, decay=decay)), 3000)
    assert built[0] == 0
    for t, (before, after) in enumerate(pairwise(built)):
        assert after - before == max(1, round(period * math.exp(decay * t)))
    # The paper's sum, whose terms are not rounded.
    for t, step in enumerate(built):
        assert step == pytest.approx(period * sum(math.exp(decay * i) for i in range(t)), abs=0.5 * t)


def test_exponential_gaps_without_end_do_not_overflow():
    schedule = RehashSchedule(RehashConfig(decay=10.0))
    for _ in range(300):
        schedule.built(0)
    assert not schedule.due(10**12, never)


@pytest.mark.parametrize("period", [1, 7])
def test_fixed_gaps(period):
    schedule = RehashSchedule(RehashConfig("fixed", period=period, decay=3.0))
    assert rebuilds_of(schedule, 100) == list(range(0, 100, period))
    assert schedule.rebuilds == len(range(0, 100, period))


def test_a_late_look_rebuilds_at_once():
    schedule = RehashSchedule(RehashConfig("fixed", period=10))
    schedule.built(0)
    assert schedule.due(25, never)
    schedule.built(25)
    assert not schedule.due(34, never)
    assert schedule.due(35, never)


def test_drift_is_measured_once_a_period_and_not_before_the_first_rebuild():
    shares, looks = iter([0.0, 0.29, 0.3, 0.1, 1.0]), []

    def drift():
        looks.append(True)
        return next(shares)

    schedule = RehashSchedule(RehashConfig("drift", period=10, drift=0.3))
    assert rebuilds_of(schedule, 60, drift) == [0, 30, 50]
    assert len(looks) == 5


def test_no_drift_is_enough_where_none_is_asked_for():
    schedule = RehashSchedule(RehashConfig("drift", period=4, drift=0.0))
    assert rebuilds_of(schedule, 13, lambda: 0.0) == [0, 4, 8, 12]


@pytest.mark.parametrize(("renew", "expected"), [(None, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_new_functions(renew, expected):
    schedule = RehashSchedule(RehashConfig(renew=renew))
    renewed = []
    for rebuild in range(7):
        if schedule.wants_new_functions:
            renewed.append(rebuild)
        schedule.built(rebuild)
    assert renewed == expected
