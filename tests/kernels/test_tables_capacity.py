"""Bucket tables with a capacity, incremental updates and probing, against NumPy twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from slide.kernels import tables


def make(codes, n_buckets, *, threads=1, capacity=0, **options):
    codes = np.ascontiguousarray(codes, np.uint32)
    l, n = codes.shape  # noqa: E741
    offsets = np.full((l, n_buckets + 1), -7, np.int32)
    ids = np.full((l, tables.room(n, n_buckets, capacity)), -7, np.int32)
    dropped = np.full(l, -7, np.int64)
    tables.build(codes, offsets, ids, threads, capacity=capacity, dropped=dropped, **options)
    return offsets, ids, dropped


def buckets(offsets, ids, t):
    return [ids[t, a:b].tolist() for a, b in zip(offsets[t, :-1], offsets[t, 1:], strict=True)]


def random_codes(l, n, n_buckets, seed=0):  # noqa: E741
    # Squares crowd the low buckets, as real codes do.
    return (np.random.default_rng(seed).random((l, n)) ** 2 * n_buckets).astype(np.uint32)


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 500])
@pytest.mark.parametrize("capacity", [0, 1, 3, 1000])
def test_fifo_keeps_the_last_ids_of_every_bucket(n, capacity):
    codes = random_codes(4, n, 16)
    offsets, ids, dropped = make(codes, 16, capacity=capacity)
    for t in range(4):
        members = [np.flatnonzero(codes[t] == b) for b in range(16)]
        kept = [m[-capacity:] if capacity else m for m in members]
        assert buckets(offsets, ids, t) == [k.tolist() for k in kept]
        assert dropped[t] == n - sum(map(len, kept))


def test_a_capacity_bounds_the_memory():
    assert tables.room(1000, 16) == 1000
    assert tables.room(1000, 16, 3) == 48
    assert tables.room(10, 16, 3) == 10


def test_reservoir_keeps_distinct_members_up_to_the_capacity():
    codes = random_codes(4, 500, 16)
    offsets, ids, dropped = make(codes, 16, capacity=5, reservoir=True, seed=3)
    for t in range(4):
        for b, kept in enumerate(buckets(offsets, ids, t)):
            members = np.flatnonzero(codes[t] == b)
            assert len(kept) == min(5, len(members)) == len(set(kept))
            assert set(kept) <= set(members.tolist())
    np.testing.assert_array_equal(dropped, 500 - offsets[:, -1])


def test_reservoir_keeps_every_id_with_the_same_probability():
    n, capacity, trials = 40, 12, 4000
    kept = np.zeros(n)
    codes = np.zeros((100, n), np.uint32)
    for seed in range(trials // 100):
        _, ids, _ = make(codes, 1, capacity=capacity, reservoir=True, seed=seed)
        kept += np.bincount(ids.ravel(), minlength=n)
    expected = trials * capacity / n
    # Drawn without replacement: the covariance is n / (n - 1) times a multinomial's, scaled by 1 - share.
    statistic = ((kept - expected) ** 2).sum() / expected / (1 - capacity / n) * (n - 1) / n
    assert chi2.ppf(0.001, n - 1) < statistic < chi2.ppf(0.999, n - 1)


def test_reservoir_depends_on_the_seed_alone():
    codes = random_codes(6, 5000, 8)
    one = make(codes, 8, capacity=50, reservoir=True, seed=1)
    two = make(codes, 8, capacity=50, reservoir=True, seed=1, threads=2)
    other = make(codes, 8, capacity=50, reservoir=True, seed=2)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one[1], other[1])


@given(
    l=st.integers(1, 3),
    n=st.integers(1, 120),
    bits=st.integers(0, 12),
    share=st.sampled_from([0.0, 0.01, 0.05, 1.0]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=150)
def test_update_leaves_what_build_would(l, n, bits, share, threads, seed):  # noqa: E741
    rng = np.random.default_rng(seed)
    # Several thousand ids, so that few enough of them move for the tables to be changed in place.
    n *= 40
    codes = random_codes(l, n, 1 << bits, seed)
    offsets, ids, _ = make(codes, 1 << bits)
    rows = np.flatnonzero(rng.random(n) < share).astype(np.int32)
    old = np.ascontiguousarray(codes[:, rows])
    codes[:, rows] = rng.integers(0, 1 << bits, (l, len(rows)), dtype=np.uint32)
    tables.update(rows, old, codes, offsets, ids, threads)
    new_offsets, new_ids, _ = make(codes, 1 << bits)
    np.testing.assert_array_equal(offsets, new_offsets)
    np.testing.assert_array_equal(ids, new_ids)


@pytest.mark.parametrize("bits", [11, 12, 14, 23])
def test_update_sorts_moves_by_all_digits_of_their_buckets(bits):
    rng = np.random.default_rng(bits)
    codes = random_codes(2, 20_000, 1 << bits)
    offsets, ids, _ = make(codes, 1 << bits)
    rows = np.arange(0, 20_000, 100, dtype=np.int32)
    old = np.ascontiguousarray(codes[:, rows])
    codes[:, rows] = rng.integers(0, 1 << bits, old.shape, dtype=np.uint32)
    tables.update(rows, old, codes, offsets, ids, 1)
    new_offsets, new_ids, _ = make(codes, 1 << bits)
    np.testing.assert_array_equal(offsets, new_offsets)
    np.testing.assert_array_equal(ids, new_ids)


def test_update_after_update():
    rng = np.random.default_rng(5)
    codes = random_codes(3, 2000, 300)
    offsets, ids, _ = make(codes, 300)
    for _ in range(20):
        rows = np.sort(rng.choice(2000, 30, replace=False)).astype(np.int32)
        old = np.ascontiguousarray(codes[:, rows])
        codes[:, rows] = rng.integers(0, 300, (3, 30), dtype=np.uint32)
        tables.update(rows, old, codes, offsets, ids, 2)
    np.testing.assert_array_equal(ids, make(codes, 300)[1])


def probe_twin(codes, offsets, ids, query):
    found = {}
    for t in range(len(codes)):
        b = codes[t, query]
        for id_ in ids[t, offsets[t, b] : offsets[t, b + 1]].tolist():
            found[id_] = found.get(id_, 0) + 1
    return found


@pytest.mark.parametrize("capacity", [0, 4])
@pytest.mark.parametrize("queries", [0, 1, 3, 40])
def test_batch_probe_counts_tables(queries, capacity):
    offsets, ids, _ = make(random_codes(7, 900, 64), 64, capacity=capacity)
    codes = random_codes(7, 40, 64, seed=9)
    ptr, found, counts = tables.batch_probe(codes, offsets, ids, queries, 2)
    assert ptr.shape == (queries + 1,) and ptr[-1] == len(found) == len(counts)
    for q in range(queries):
        mine = slice(ptr[q], ptr[q + 1])
        assert list(zip(found[mine], counts[mine], strict=True)) == list(
            probe_twin(codes, offsets, ids, q).items()
        )
    again = tables.batch_probe(codes, offsets, ids, queries, 1)
    for a, b in zip(again, (ptr, found, counts), strict=True):
        np.testing.assert_array_equal(a, b)


def test_probe_is_a_batch_of_one():
    offsets, ids, _ = make(random_codes(7, 900, 64), 64)
    codes = random_codes(7, 5, 64, seed=9)
    found, counts = tables.probe(np.ascontiguousarray(codes[:, 3]), offsets, ids)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == probe_twin(codes, offsets, ids, 3)


def test_build_checks_at_the_door():
    codes = np.zeros((2, 10), np.uint32)
    offsets, ids = np.zeros((2, 5), np.int32), np.zeros((2, 10), np.int32)
    with pytest.raises(ValueError, match="capacity must be 0 or more"):
        tables.build(codes, offsets, ids, 1, capacity=-1)
    with pytest.raises(ValueError, match=r"ids must be \[2, 8 or more\], got \[2, 7\]"):
        tables.build(codes, offsets, ids[:, :7].copy(), 1, capacity=2)
    with pytest.raises(ValueError, match="dropped must fit 2 tables"):
        tables.build(codes, offsets, ids, 1, dropped=np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="below the number of buckets, 4"):
        tables.build(codes + np.uint32(4), offsets, ids, 1, capacity=3)


def test_update_checks_at_the_door():
    codes = random_codes(2, 100, 4)
    offsets, ids, _ = make(codes, 4)
    rows = np.array([1, 5], np.int32)
    old = np.take(codes, rows, axis=1)
    for wrong in ([5, 1], [1, 1]):
        with pytest.raises(ValueError, match="must ascend"):
            tables.update(np.array(wrong, np.int32), old, codes, offsets, ids, 1)
    for wrong in ([-1, 5], [5, 100]):
        with pytest.raises(ValueError, match=r"0\.\.99"):
            tables.update(np.array(wrong, np.int32), old, codes, offsets, ids, 1)
    with pytest.raises(ValueError, match=r"old must be \[2, 2\]"):
        tables.update(rows, old[:, :1].copy(), codes, offsets, ids, 1)
    with pytest.raises(ValueError, match=r"ids must be \[2, 100\], got \[2, 99\]"):
        tables.update(rows, old, codes, offsets, ids[:, 1:].copy(), 1)
    lied = (old + np.uint32(1)) % np.uint32(4)
    with pytest.raises(ValueError, match="old be the tables'"):
        tables.update(rows, lied, codes, offsets, ids, 1)
    with pytest.raises(ValueError, match="below the number of buckets"):
        tables.update(rows, old, codes + np.uint32(4), offsets, ids, 1)
    capped_offsets, _, dropped = make(codes, 4, capacity=2)
    assert dropped.min() > 0
    with pytest.raises(ValueError, match="only be built"):
        tables.update(rows, old, codes, capped_offsets, ids, 1)


def test_probe_checks_at_the_door():
    offsets, ids, _ = make(random_codes(3, 50, 8), 8)
    codes = np.zeros((3, 2), np.uint32)
    with pytest.raises(ValueError, match="a row for each table"):
        tables.batch_probe(codes[:2], offsets, ids, 2, 1)
    with pytest.raises(ValueError, match="a column for each query"):
        tables.batch_probe(codes, offsets, ids, 3, 1)
    with pytest.raises(ValueError, match="has bucket 8 in table 0, of 8"):
        tables.batch_probe(codes + np.uint32(8), offsets, ids, 2, 1)
    with pytest.raises(ValueError, match="room for the 50 ids"):
        tables.batch_probe(codes, offsets, ids[:, :9].copy(), 2, 1)
