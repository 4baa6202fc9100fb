"""The learning rate over a run: its formulae, its ends, the warm-up, and runs that are shorter than it."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slide.config import SCHEDULES, TrainingConfig
from slide.train.learning_rate import lr_factor, warmup_batches


def factors(n_batches, per_epoch=10, **fields):
    """The factor of every batch of a run."""
    config = TrainingConfig(**fields)
    return [lr_factor(config, batch, n_batches, per_epoch) for batch in range(n_batches)]


CONFIGS = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(SCHEDULES),
        "warmup": st.floats(0, 1, exclude_max=True) | st.integers(0, 300),
        "final_lr": st.floats(0, 1),
        "step_every": st.integers(1, 20),
        "step_factor": st.floats(0, 1, exclude_min=True),
        "decay_batches": st.integers(1, 2000),
    }
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(fields=CONFIGS, n_batches=st.integers(1, 200), per_epoch=st.integers(1, 50))
def test_rises_in_the_warmup_and_falls_after_it(fields, n_batches, per_epoch):
    warmup = warmup_batches(TrainingConfig(**fields), n_batches)
    run = factors(n_batches, per_epoch, **fields)
    assert all(0 <= factor <= 1 for factor in run)
    rise, fall = run[:warmup], run[warmup:]
    assert all(before < after for before, after in pairwise(rise))
    assert all(before >= after for before, after in pairwise(fall))
    assert not rise or (rise[0] == 1 / (warmup + 1) and rise[-1] < 1)
    assert not fall or fall[0] == 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(schedule=st.sampled_from(["linear", "cosine"]), final=st.floats(0, 1), n=st.integers(1, 10**9))
def test_decay_ends_just_above_its_end(schedule, final, n):
    config = TrainingConfig(schedule=schedule, final_lr=final)
    last, after = (lr_factor(config, batch, n, 10) for batch in (n - 1, n))
    assert after == pytest.approx(final, abs=1e-15)
    assert last >= after
    assert last > 0


@pytest.mark.parametrize("warmup", [0, 5, 0.25])
def test_formulae(warmup):
    n, w = 20, warmup_batches(TrainingConfig(warmup=warmup), 20)
    assert w == (5 if warmup else 0)
    shares = [(t - w) / (n - w) for t in range(w, n)]
    rise = [(t + 1) / (w + 1) for t in range(w)]
    expected = {
        "constant": [1.0 for _ in shares],
        "linear": [0.2 + 0.8 * (1 - p) for p in shares],
        "cosine": [0.2 + 0.8 * (1 + math.cos(math.pi * p)) / 2 for p in shares],
        "step": [0.1 ** (t // 6) for t in range(n - w)],
        "inverse_sqrt": [(5 / (5 + t)) ** 0.5 for t in range(n - w)],
    }
    for schedule, fall in expected.items():
        fields = {"schedule": schedule, "warmup": warmup, "final_lr": 0.2, "step_every": 2, "step_factor": 0.1}
        fields["decay_batches"] = 5
        assert factors(n, per_epoch=3, **fields) == pytest.approx(rise + fall)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n_batches", [1, 7, 50])
def test_a_run_shorter_than_its_warmup_ends_in_it(schedule, n_batches):
    run = factors(n_batches, schedule=schedule, warmup=50)
    assert run == [(t + 1) / 51 for t in range(n_batches)]


@pytest.mark.parametrize(("warmup", "expected"), [(0, 0), (0.004, 0), (0.1, 10), (0.29, 29), (1, 1), (250.0, 250)])
def test_length_of_the_warmup(warmup, expected):
    assert warmup_batches(TrainingConfig(warmup=warmup), 100) == expected


def test_many_steps_do_not_overflow():
    config = TrainingConfig(schedule="step", step_factor=1e-300)
    assert lr_factor(config, 10**9, 10**9 + 1, 1) == 0
