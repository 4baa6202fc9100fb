"""What kernels may be given, for tests over generated inputs: sizes, numbers, tables and runs of pairs."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from slide.kernels.rows import RowTable

# Around the sixteen lanes of a vector and the panels of eight vectors.
DIMS = st.sampled_from([1, 2, 15, 16, 17, 31, 33, 127, 128, 129, 145])
THREADS = st.integers(1, 4)
SEEDS = st.integers(0, 2**32)
PRECISIONS = st.sampled_from(["fp32", "bf16-moments", "bf16"])

TINY, LARGEST = 1.1754944e-38, 3.4028235e38

NUMBERS = {
    "normal": None,
    # Nothing, of both signs; denormals; and numbers whose squares are.
    "tiny": [0.0, -0.0, 1e-45, -1e-45, TINY, -TINY, 1e-30, -1e-20],
    # From the least to what a few hundred of can be added up.
    "wide": [0.0, -0.0, 1e-45, -1e-45, TINY, -1e-20, 1.0, -1.0, 1e15, -1e15, 3e17],
}

# The same examples in every run.
fast = settings(max_examples=25, deadline=None, derandomize=True)


def numbers(rng, shape, kind):
    """Make a float32 array of a kind of `NUMBERS`."""
    if kind == "normal":
        return rng.normal(size=shape).astype(np.float32)
    return rng.choice(np.array(NUMBERS[kind], np.float32), shape)


def table_of(rng, n_rows, dim, *, kind="normal", moments=0, **options):
    """Make a table of random weights and biases, moments and accumulators."""
    table = RowTable(n_rows, dim, moments=moments, hugepages=False, **options)
    for name, view in table.state().items():
        if name != "last_step":
            values = numbers(rng, view.shape, kind)
            view[...] = values if name in ("weights", "bias", "m", "bias_m") else np.abs(values)
    return table


def hidden_of(rng, samples, table, kind="normal"):
    """Make samples' vectors for a table's rows, padded with zeros."""
    hidden = np.zeros((samples, table.padded_dim), np.float32)
    hidden[:, : table.dim] = numbers(rng, (samples, table.dim), kind)
    return hidden


def runs_of(rng, samples, n_rows, most):
    """Make (sample, row) pairs: ids, begin, end, with gaps, samples without pairs and, within a sample, repetitions."""
    lengths = rng.integers(0, most + 1, samples) * (rng.random(samples) < 0.8)
    end = np.cumsum(lengths + rng.integers(0, 3, samples))
    ids = rng.integers(0, n_rows, int(end[-1]) + 1 if samples else 0).astype(np.int32)
    return ids, (end - lengths).astype(np.int64), end.astype(np.int64)


def pairs_of(begin, end):
    """Return every pair's sample and slot."""
    slots = np.concatenate([np.zeros(0, np.int64), *map(np.arange, begin, end)]).astype(np.int64)
    return np.repeat(np.arange(len(begin)), end - begin), slots


def assert_sums(actual, expected, magnitude, terms):
    """Check sums against float64 twins, to what adding so many float32 terms of that magnitude may lose.

    Where the terms alone may overflow anything goes.
    """
    bound = (terms + 8) * 2.0**-23 * magnitude + (terms + 8) * 2 * TINY
    counts = magnitude < LARGEST / 4
    assert (np.abs(actual - expected)[counts] <= bound[counts]).all()
