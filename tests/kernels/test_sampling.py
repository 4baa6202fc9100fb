"""Vanilla sampling from bucket tables, and taking shared ids out of active sets."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slide.kernels.sampling import split_shared, vanilla
from slide.kernels.tables import build


class Tables:
    """Random tables, queries and forced ids, and the sampling from them."""

    def __init__(self, rng, *, samples=9, n=200, l=5, n_buckets=8, most_forced=4):  # noqa: E741
        self.codes = rng.integers(0, n_buckets, (l, n)).astype(np.uint32)
        self.offsets, self.ids = np.zeros((l, n_buckets + 1), np.int32), np.zeros((l, n), np.int32)
        build(self.codes, self.offsets, self.ids, 1)
        self.queries = rng.integers(0, n_buckets, (l, samples)).astype(np.uint32)
        forced = [rng.permutation(n)[: rng.integers(0, most_forced + 1)] for _ in range(samples)]
        self.forced_ptr = np.cumsum([0, *map(len, forced)])
        self.forced_ids = np.concatenate([*forced, []]).astype(np.int32)

    def forced(self, s):
        return self.forced_ids[self.forced_ptr[s] : self.forced_ptr[s + 1]].tolist()

    def reachable(self, s):
        return set(np.flatnonzero((self.codes == self.queries[:, s : s + 1]).any(axis=0)))

    def sample(self, budget, *, seed=1, iteration=0, threads=1):
        samples = len(self.forced_ptr) - 1
        capacity = max(budget, int(np.diff(self.forced_ptr).max(initial=0)), 1)
        out, counts = np.full((samples, capacity), -1, np.int32), np.zeros(samples, np.int64)
        vanilla(
            self.queries,
            self.offsets,
            self.ids,
            self.codes.shape[1],
            self.forced_ptr,
            self.forced_ids,
            budget,
            seed,
            iteration,
            out,
            counts,
            threads,
        )
        return [row[:count].tolist() for row, count in zip(out, counts, strict=True)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32),
    st.integers(0, 70),
    st.integers(1, 60),
    st.integers(1, 6),
    st.sampled_from([1, 2, 16]),
    st.integers(0, 3),
)
def test_active_sets_are_what_they_should_be(seed, budget, n, l, n_buckets, most_forced):  # noqa: E741
    rng = np.random.default_rng(seed)
    tables = Tables(rng, n=n, l=l, n_buckets=n_buckets, most_forced=most_forced)
    for s, active in enumerate(tables.sample(budget, seed=seed)):
        forced = tables.forced(s)
        assert active[: len(forced)] == forced
        assert len(set(active)) == len(active)
        assert set(active) <= tables.reachable(s) | set(forced)
        assert len(active) == max(len(forced), min(budget, len(tables.reachable(s) | set(forced))))


def test_draws_depend_on_their_keys_alone(rng):
    tables = Tables(rng, samples=100, n=2000, l=8)
    drawn = tables.sample(60, seed=3, iteration=4)
    assert tables.sample(60, seed=3, iteration=4, threads=2) == drawn
    assert tables.sample(60, seed=3, iteration=5) != drawn
    assert tables.sample(60, seed=4, iteration=4) != drawn
    tables.forced_ptr = tables.forced_ptr[:51]
    assert tables.sample(60, seed=3, iteration=4) == drawn[:50]


def test_samples_with_the_same_query_draw_differently(rng):
    tables = Tables(rng, samples=50, most_forced=0, l=8)
    tables.queries[:] = tables.queries[:, :1]
    assert len({tuple(active) for active in tables.sample(15)}) > 40


def test_order_of_tables_is_uniform():
    """With one id a table the active set lists the tables in the order they were probed."""
    samples = 6000
    out, counts = np.zeros((samples, 3), np.int32), np.zeros(samples, np.int64)
    codes = np.where(np.eye(3, dtype=bool), np.arange(3), 3).astype(np.uint32)
    offsets, ids = np.zeros((3, 5), np.int32), np.zeros((3, 3), np.int32)
    build(codes, offsets, ids, 1)
    queries = np.repeat(np.arange(3, dtype=np.uint32)[:, None], samples, axis=1)
    forced_ptr = np.zeros(samples + 1, np.int64)
    vanilla(queries, offsets, ids, 3, forced_ptr, np.zeros(0, np.int32), 3, 5, 6, out, counts, 2)
    assert (counts == 3).all()
    seen = np.array([(out == order).all(axis=1).sum() for order in permutations(range(3))])
    expected = samples / 6
    assert seen.sum() == samples
    assert ((seen - expected) ** 2 / expected).sum() < 20.5  # chi-squared, 5 degrees of freedom, 1 in 1,000


def test_start_in_a_bucket_is_uniform():
    samples, n = 8000, 16
    offsets, ids = np.array([[0, n]], np.int32), np.arange(n, dtype=np.int32)[None]
    out, counts = np.zeros((samples, 1), np.int32), np.zeros(samples, np.int64)
    queries, forced_ptr = np.zeros((1, samples), np.uint32), np.zeros(samples + 1, np.int64)
    vanilla(queries, offsets, ids, n, forced_ptr, np.zeros(0, np.int32), 1, 7, 8, out, counts, 2)
    seen = np.bincount(out[:, 0], minlength=n)
    assert ((seen - samples / n) ** 2 / (samples / n)).sum() < 37.7  # 15 degrees of freedom, 1 in 1,000


def test_no_samples_no_tables(rng):
    assert Tables(rng, samples=0).sample(10) == []
    tables = Tables(rng, l=0)
    assert tables.sample(10) == [tables.forced(s) for s in range(9)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": np.zeros((1, 3), np.int32)}, "must have a row for each table"),
        ({"ids": np.zeros((1, 4), np.int32)}, "must have a row for each table"),
        ({"ids": np.zeros((2, 3), np.int32)}, "ids must have room for the 4 ids of a table, got 3"),
        ({"n": -1}, r"n must be between 0 and 2\*\*31 - 1, got -1"),
        ({"codes": np.zeros((2, 1), np.uint32)}, "a column for each query"),
        ({"offsets": np.zeros((2, 1), np.int32)}, "must have a row for each table"),
        ({"forced_ptr": np.array([0, 1])}, "must fit 2 samples"),
        ({"out_counts": np.zeros(1, np.int64)}, "must fit 2 samples"),
        ({"forced_ptr": np.array([1, 1, 2])}, "forced_ptr must rise from 0 to at most 2"),
        ({"forced_ptr": np.array([0, 1, 3])}, "forced_ptr must rise from 0 to at most 2"),
        ({"forced_ptr": np.array([0, 2, 1])}, "forced_ptr falls after sample 1"),
        ({"forced_ids": np.array([0, 4], np.int32)}, r"forced id 4 is not in 0\.\.3"),
        ({"forced_ids": np.array([-1, 0], np.int32)}, r"forced id -1 is not in 0\.\.3"),
        ({"budget": 4}, "room for 3 ids a sample, 4 are asked for"),
        ({"codes": np.array([[0, 0], [0, 2]], np.uint32)}, "query 1 has bucket 2 in table 1, of 2"),
    ],
)
def test_vanilla_checks_its_arguments(changes, message):
    arguments = {
        "codes": np.zeros((2, 2), np.uint32),
        "offsets": np.array([[0, 4, 4], [0, 0, 4]], np.int32),
        "ids": np.array([[0, 1, 2, 3], [0, 1, 2, 3]], np.int32),
        "n": 4,
        "forced_ptr": np.array([0, 1, 2]),
        "forced_ids": np.array([0, 1], np.int32),
        "budget": 3,
        "seed": 0,
        "iteration": 0,
        "out_ids": np.zeros((2, 3), np.int32),
        "out_counts": np.zeros(2, np.int64),
        "threads": 1,
    }
    vanilla(**arguments)
    with pytest.raises(ValueError, match=message):
        vanilla(**arguments | changes)


def test_more_forced_ids_than_room_are_refused(rng):
    tables = Tables(rng, samples=1, most_forced=0)
    tables.forced_ptr, tables.forced_ids = np.array([0, 3]), np.arange(3, dtype=np.int32)
    assert tables.sample(1) == [[0, 1, 2]]
    out, counts = np.zeros((1, 2), np.int32), np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="room for 2 ids a sample, 3 are asked for"):
        vanilla(
            tables.queries,
            tables.offsets,
            tables.ids,
            tables.codes.shape[1],
            tables.forced_ptr,
            tables.forced_ids,
            1,
            0,
            0,
            out,
            counts,
            1,
        )


@pytest.mark.parametrize("samples", [0, 1, 200])
def test_split_shared_twin(rng, threads, samples):
    n, capacity = 300, 60
    place = np.full(n, -1, np.int32)
    shared = rng.permutation(n)[:100]
    place[shared] = np.arange(100)
    ids = np.array([rng.permutation(n)[:capacity] for _ in range(samples)], np.int32).reshape(
        samples, capacity
    )
    counts = rng.integers(0, capacity + 1, samples)
    active = [row[:count] for row, count in zip(ids.copy(), counts, strict=True)]
    out_places, out_counts = np.zeros((samples, capacity), np.int32), np.zeros(samples, np.int64)
    split_shared(place, ids, counts, out_places, out_counts, threads)
    for s, row in enumerate(active):
        np.testing.assert_array_equal(ids[s, : counts[s]], row[place[row] < 0])
        np.testing.assert_array_equal(out_places[s, : out_counts[s]], place[row[place[row] >= 0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": np.zeros(1, np.int64)}, "counts and out_counts must fit 2 samples"),
        ({"out_counts": np.zeros(1, np.int64)}, "counts and out_counts must fit 2 samples"),
        ({"out_places": np.zeros((2, 2), np.int32)}, r"out_places must be \[2, 3\]"),
        ({"counts": np.array([0, 4])}, "sample 1 has 4 ids, with room for 3"),
        ({"counts": np.array([-1, 0])}, "sample 0 has -1 ids"),
        ({"ids": np.full((2, 3), 5, np.int32)}, r"ids must lie in 0\.\.4"),
        ({"ids": np.full((2, 3), -1, np.int32)}, r"ids must lie in 0\.\.4"),
    ],
)
def test_split_shared_checks_its_arguments(changes, message):
    arguments = {
        "place": np.zeros(5, np.int32),
        "ids": np.zeros((2, 3), np.int32),
        "counts": np.array([2, 3]),
        "out_places": np.zeros((2, 3), np.int32),
        "out_counts": np.zeros(2, np.int64),
        "threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        split_shared(**arguments | changes)
