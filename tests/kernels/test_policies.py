"""Sampling policies against NumPy twins and against their contract."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slide.config import ConfigError, LSHConfig, OutputConfig, SamplingConfig
from slide.kernels import sampling, tables
from slide.lsh import policies
from slide.lsh.policies import POLICIES, Query, make_policy, register_policy

N, L, BUCKETS = 400, 9, 16

KERNELS = {
    "vanilla": (sampling.vanilla, {}),
    "topk": (sampling.ranked, {}),
    "threshold": (sampling.ranked, {"min_tables": 3}),
}


def make_tables(seed=0, n=N, l=L, n_buckets=BUCKETS):  # noqa: E741
    codes = np.random.default_rng(seed).integers(0, n_buckets, (l, n), dtype=np.uint32)
    # A tight cluster, so that some ids are found in many tables.
    codes[:, : n // 10] = codes[:, :1]
    offsets, ids = np.empty((l, n_buckets + 1), np.int32), np.empty((l, n), np.int32)
    tables.build(codes, offsets, ids, 1)
    return codes, offsets, ids


def draw(policy, queries, offsets, ids, forced, budget, *, n=N, seed=0, iteration=0, threads=1, **options):
    kernel, fixed = KERNELS[policy]
    samples = queries.shape[1]
    ptr = np.concatenate([[0], np.cumsum([len(f) for f in forced])]).astype(np.int64)
    flat = np.concatenate([np.asarray(f, np.int32) for f in forced] + [np.zeros(0, np.int32)])
    out = np.full((samples, max(budget, np.diff(ptr).max(initial=0))), -1, np.int32)
    counts = np.full(samples, -1, np.int64)
    kernel(
        queries,
        offsets,
        ids,
        n,
        ptr,
        flat,
        budget,
        seed,
        iteration,
        out,
        counts,
        threads,
        **{**fixed, **options},
    )
    return [out[s, : counts[s]].tolist() for s in range(samples)]


def table_counts(queries, offsets, ids, s, n=N):
    counts = np.zeros(n, int)
    for t, b in enumerate(queries[:, s]):
        counts[ids[t, offsets[t, b] : offsets[t, b + 1]]] += 1
    return counts


@pytest.fixture(scope="module")
def world():
    codes, offsets, ids = make_tables()
    rng = np.random.default_rng(1)
    # The odd queries are vectors of the tables.
    queries = rng.integers(0, BUCKETS, (L, 30), dtype=np.uint32)
    queries[:, 1::2] = codes[:, :300:20]
    forced = [rng.choice(N, rng.integers(0, 6), replace=False) for _ in range(30)]
    return np.ascontiguousarray(queries), offsets, ids, forced


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 3, 15, 16, 17, 100, N])
@pytest.mark.parametrize("policy", KERNELS)
def test_contract(world, policy, budget, fill):
    queries, offsets, ids, forced = world
    minimum = KERNELS[policy][1].get("min_tables", 1)
    for s, found in enumerate(draw(policy, queries, offsets, ids, forced, budget, fill=fill)):
        labels = list(forced[s])
        counts = table_counts(queries, offsets, ids, s)
        eligible = set(np.flatnonzero(counts >= minimum).tolist()) - set(labels)
        room = max(0, budget - len(labels))
        assert found[: len(labels)] == labels
        assert len(set(found)) == len(found)
        assert all(0 <= id_ < N for id_ in found)
        if fill:
            assert len(found) == max(budget, len(labels))
            if len(eligible) <= room:
                assert eligible <= set(found)
            else:
                assert set(found[len(labels) :]) <= eligible
        else:
            assert len(found) == len(labels) + min(room, len(eligible))
            assert set(found[len(labels) :]) <= eligible


@pytest.mark.parametrize("policy", ["topk", "threshold"])
@pytest.mark.parametrize("budget", [5, 30, 80, 390])
def test_ranked_takes_the_most_frequent_first(world, policy, budget):
    queries, offsets, ids, forced = world
    for s, found in enumerate(draw(policy, queries, offsets, ids, forced, budget)):
        counts = table_counts(queries, offsets, ids, s)
        mine = counts[found[len(forced[s]) :]]
        assert (np.diff(mine) <= 0).all()
        out = np.setdiff1d(np.arange(N), found)
        if len(found) == budget and len(mine):
            assert counts[out].max() <= mine.min()


def test_vanilla_reads_whole_tables_before_the_next(world):
    queries, offsets, ids, _ = world
    for s, found in enumerate(draw("vanilla", queries, offsets, ids, [[]] * 30, 60)):
        unread = [
            set(ids[t, offsets[t, b] : offsets[t, b + 1]].tolist()) for t, b in enumerate(queries[:, s])
        ]
        seen = set()
        # Some order of the tables explains what was found: each next bucket's new ids follow one another.
        while len(seen) < len(found):
            rest = found[len(seen) :]
            fits = [b for b in unread if b - seen and set(rest[: len(b - seen)]) <= b - seen]
            assert fits
            unread.remove(fits[0])
            seen |= set(rest[: len(fits[0] - seen)])


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("policy", KERNELS)
def test_same_at_any_number_of_threads(world, policy, fill):
    queries, offsets, ids, forced = world
    one = draw(policy, queries, offsets, ids, forced, 30, fill=fill)
    assert one == draw(policy, queries, offsets, ids, forced, 30, fill=fill, threads=2)
    assert one == draw(policy, queries, offsets, ids, forced, 30, fill=fill, threads=7)
    assert one != draw(policy, queries, offsets, ids, forced, 30, fill=fill, iteration=1)
    assert one != draw(policy, queries, offsets, ids, forced, 30, fill=fill, seed=1)


def within_three_errors(hits, trials, probability):
    error = np.sqrt(probability * (1 - probability) / trials)
    return np.abs(hits / trials - probability) <= 3 * error + 1e-12


def frequency(policy, tables_of, query, forced, budget, trials, **options):
    offsets, ids = tables_of
    queries = np.ascontiguousarray(np.repeat(query[:, None], trials, axis=1))
    sets = draw(policy, queries, offsets, ids, [forced] * trials, budget, **options)
    return np.bincount(np.concatenate([np.asarray(s, int) for s in sets]), minlength=N)


def test_ties_are_broken_evenly():
    # Ids 0..19 are in three tables, 20..49 in two, 50..99 in one.
    membership = [range(100), range(50), range(20)]
    codes = np.ones((3, N), np.uint32)
    for t, members in enumerate(membership):
        codes[t, members] = 0
    offsets, ids = np.empty((3, 3), np.int32), np.empty((3, N), np.int32)
    tables.build(codes, offsets, ids, 1)
    trials = 3000
    hits = frequency("topk", (offsets, ids), np.zeros(3, np.uint32), [], 30, trials, seed=9)
    assert (hits[:20] == trials).all() and not hits[50:].any()
    assert within_three_errors(hits[20:50], trials, 10 / 30).all()


@pytest.mark.parametrize("policy", KERNELS)
def test_fill_is_uniform_over_the_rest(policy):
    codes, offsets, ids = make_tables(seed=4, n_buckets=64)
    query, trials, forced = codes[:, 200], 3000, [7, 300]
    plain = set(draw(policy, np.ascontiguousarray(query[:, None]), offsets, ids, [forced], N)[0])
    hits = frequency(policy, (offsets, ids), query, forced, 150, trials, fill=True)
    rest = np.setdiff1d(np.arange(N), list(plain))
    assert len(plain) < 150
    assert (hits[list(plain)] == trials).all()
    share = (150 - len(plain)) / len(rest)
    # Some of several hundred comparisons exceed three standard errors by chance; none may exceed five.
    error = np.sqrt(trials * share * (1 - share))
    deviation = np.abs(hits[rest] - trials * share) / error
    assert deviation.max() < 5 and (deviation > 3).mean() < 0.02


@given(
    seed=st.integers(0, 2**31), budget=st.integers(0, 60), minimum=st.integers(1, 5), labels=st.integers(0, 4)
)
@settings(deadline=None, max_examples=80)
def test_ranked_twin(seed, budget, minimum, labels):
    codes, offsets, ids = make_tables(seed, n=60, l=4, n_buckets=3)
    query = np.ascontiguousarray(codes[:, seed % 60 : seed % 60 + 1])
    forced = np.random.default_rng(seed).choice(60, labels, replace=False)
    kernel_options = {"min_tables": minimum, "n": 60}
    found = draw("topk", query, offsets, ids, [forced], budget, **kernel_options)[0][labels:]
    counts = table_counts(query, offsets, ids, 0, n=60)
    counts[forced] = 0
    expected = np.sort(counts[counts >= minimum])[::-1][: max(0, budget - labels)]
    np.testing.assert_array_equal(counts[found], expected)


def test_no_tables_and_no_samples():
    nothing = np.zeros((0, 3), np.uint32)
    empty = np.zeros((0, 5), np.int32)
    for policy in KERNELS:
        assert draw(policy, nothing, empty, empty, [[1], [], [2, 3]], 4) == [[1], [], [2, 3]]
        assert [len(s) for s in draw(policy, nothing, empty, empty, [[1], [], [2, 3]], 4, fill=True)] == [
            4,
            4,
            4,
        ]
        assert draw(policy, nothing[:, :0].copy(), empty, empty, [], 4) == []


@pytest.mark.parametrize("policy", KERNELS)
def test_checks_at_the_door(policy, world):
    queries, offsets, ids, _ = world
    kernel = KERNELS[policy][0]
    good = {
        "codes": queries,
        "offsets": offsets,
        "ids": ids,
        "n": N,
        "forced_ptr": np.zeros(31, np.int64),
        "forced_ids": np.zeros(0, np.int32),
        "budget": 5,
        "seed": 0,
        "iteration": 0,
        "out_ids": np.zeros((30, 5), np.int32),
        "out_counts": np.zeros(30, np.int64),
        "threads": 1,
    }
    kernel(**good)
    for change, message in [
        ({"offsets": offsets[1:].copy()}, "a row for each table"),
        ({"codes": queries[:, :9].copy()}, "a column for each query"),
        ({"codes": queries + np.uint32(BUCKETS)}, "has bucket"),
        ({"ids": ids[:, :9].copy()}, "room for the 400 ids"),
        ({"n": -1}, "n must be between"),
        ({"forced_ptr": np.zeros(30, np.int64)}, "must fit 30 samples"),
        ({"out_counts": np.zeros(29, np.int64)}, "must fit 30 samples"),
        ({"forced_ptr": np.ones(31, np.int64)}, "must rise from 0 to at most 0"),
        ({"budget": 6}, "out_ids has room for 5 ids"),
    ]:
        with pytest.raises(ValueError, match=message):
            kernel(**{**good, **change})
    falls = np.zeros(31, np.int64)
    falls[1:4] = 2
    falls[4:] = 1
    with pytest.raises(ValueError, match="falls after sample 3"):
        kernel(**{**good, "forced_ptr": falls, "forced_ids": np.zeros(2, np.int32)})
    with pytest.raises(ValueError, match=r"forced id 400 is not in 0\.\.399"):
        kernel(**{**good, "forced_ptr": np.minimum(np.arange(31), 1), "forced_ids": np.array([N], np.int32)})


def test_min_tables_must_be_positive(world):
    queries, offsets, ids, forced = world
    with pytest.raises(ValueError, match="min_tables must be positive, got 0"):
        draw("topk", queries, offsets, ids, forced, 5, min_tables=0)


@pytest.mark.parametrize("fill", ["none", "uniform"])
@pytest.mark.parametrize("policy", POLICIES)
def test_policies_by_name(world, policy, fill):
    queries, offsets, ids, _ = world
    out, counts = np.empty((30, 50), np.int32), np.empty(30, np.int64)
    query = Query(
        queries, offsets, ids, N, np.zeros(31, np.int64), np.zeros(0, np.int32), 50, 3, 4, out, counts, 2
    )
    POLICIES[policy](query, SamplingConfig(policy, min_tables=3, fill=fill))
    expected = draw(policy, queries, offsets, ids, [[]] * 30, 50, seed=3, iteration=4, fill=fill == "uniform")
    assert [out[s, : counts[s]].tolist() for s in range(30)] == expected


def test_a_new_policy_needs_one_line(monkeypatch):
    monkeypatch.setattr(policies, "POLICIES", dict(POLICIES))
    config = SamplingConfig(policy="mine")
    with pytest.raises(ConfigError, match="policy must be one of vanilla, topk, threshold, got 'mine'"):
        make_policy(config)
    register_policy("mine", max)
    assert make_policy(config) is max
    with pytest.raises(ValueError, match="'mine' is already registered"):
        register_policy("mine", min)
    with pytest.raises(ConfigError, match="policy"):
        register_policy("not a name", max)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SamplingConfig(min_tables=0), "min_tables must be an integer from 1"),
        (lambda: SamplingConfig(fill="random"), "fill must be one of 'none', 'uniform'"),
        (lambda: LSHConfig(capacity=0), "capacity must be an integer from 1"),
        (lambda: LSHConfig(insertion="lifo"), "insertion must be one of 'fifo', 'reservoir'"),
        (
            lambda: OutputConfig(lsh=LSHConfig(l=4), sampling=SamplingConfig("threshold", min_tables=5)),
            "at most the number of tables, 4, got 5",
        ),
    ],
)
def test_config_refuses(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
