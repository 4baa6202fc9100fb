"""NeuronIndex: rebuilds, their schedule, sampling and statistics."""

import math
from itertools import pairwise

import numpy as np
import pytest

from slide.config import LSHConfig, RehashConfig, SamplingConfig
from slide.kernels.rows import RowTable
from slide.lsh.index import NeuronIndex
from slide.rows.activations import Activations, Ragged
from slide.system.buffers import Buffers

LSH = {
    "hadamard": LSHConfig(l=6),
    "sparse": LSHConfig(l=6, projection="sparse"),
    "dwta": LSHConfig(l=6, family="dwta"),
}


@pytest.fixture
def table():
    table = RowTable(500, 24)
    table.fill_uniform(1.0, 3, 1)
    return table


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def make_index(table, lsh=LSH["hadamard"], *, period=50, decay=0.1, seed=1):
    rehash = RehashConfig(period=period, decay=decay)
    return NeuronIndex(table, lsh, rehash, SamplingConfig(), seed, Buffers())


def tables_of(index):
    return index.codes.copy(), index.offsets.copy(), index.ids.copy()


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("lsh", LSH.values(), ids=LSH)
@pytest.mark.parametrize("changed", [0, 1, 30, 249, 250, 400])
def test_rebuild_of_changed_rows_is_a_full_rebuild(table, lsh, changed, rng):
    index = make_index(table, lsh)
    index.rebuild(7, 1)
    before = tables_of(index)
    rows = rng.permutation(500)[:changed]
    table.weights[rows] = rng.normal(size=(changed, 24))
    table.last_step[rows] = 8
    index.rebuild(8, 2)
    anew = make_index(table, lsh)
    anew.rebuild(0, 1)
    assert same(tables_of(index), tables_of(anew))
    assert same(tables_of(index), before) == (changed == 0)


def test_only_rows_updated_since_the_last_rebuild_are_hashed(table):
    index = make_index(table)
    index.rebuild(5, 1)
    codes = index.codes.copy()
    table.weights[:] *= -1
    table.last_step[:100] = 5
    table.last_step[100:110] = 6
    index.rebuild(6, 1)
    changed = np.flatnonzero((index.codes != codes).any(axis=0))
    assert set(changed) <= set(range(100, 110))
    assert len(changed)


@pytest.mark.parametrize(("period", "decay"), [(1, 0.0), (3, 0.0), (5, 0.3), (10, 1.0)])
def test_schedule(table, period, decay):
    index = make_index(table, period=period, decay=decay)
    built = []
    for step in range(120):
        before = index.rebuilds
        index.rebuild_if_due(step, 1)
        if index.rebuilds > before:
            built.append(step)
    # The formula's gaps, rounded to whole batches.
    expected, t = [0], 0
    while expected[-1] < 120:
        expected.append(expected[-1] + round(period * math.exp(decay * t)))
        t += 1
    assert built == expected[:-1]
    assert index.rebuilds == len(built)
    assert index.rebuild_seconds > 0


@pytest.mark.parametrize("lsh", LSH.values(), ids=LSH)
def test_new_functions(table, lsh):
    """With other functions the tables are those of an index that never had any but these."""
    rehash = RehashConfig("fixed", period=1, renew=2)
    one, other = (NeuronIndex(table, lsh, rehash, SamplingConfig(), 1, Buffers()) for _ in range(2))
    hashers, tables = [], []
    for step in range(5):
        one.rebuild(step, 1)
        hashers.append(one.hasher)
        tables.append(tables_of(one))
    assert [a is b for a, b in pairwise(hashers)] == [True, False, True, False]
    assert same(tables[0], tables[1])
    assert not same(tables[1], tables[2])
    assert same(tables[2], tables[3])
    assert not same(tables[2], tables[4])
    for step in range(4):
        other.rebuild(step, 1)
    table.weights[:] *= -1
    table.last_step[:] = 5
    one.rebuild(5, 1)
    other.rebuild(5, 1)
    assert same(tables_of(one), tables_of(other))


def test_drift_is_the_share_of_changed_buckets(table, rng):
    index = make_index(table, LSHConfig(k=4, l=6))
    index.rebuild(0, 1)
    assert index.drift(1) == 0
    changed = rng.permutation(500)[:200]
    # The opposite vector is on the other side of every hyperplane.
    table.weights[changed] *= -1
    assert index.drift(2) == index.drift(1) == pytest.approx(0.4, abs=0.06)
    seconds = index.rebuild_seconds
    assert index.drift(1) > 0.3
    assert index.rebuild_seconds > seconds


@pytest.mark.parametrize("lsh", LSH.values(), ids=LSH)
def test_buckets_of_features_are_those_of_the_dense_vectors(table, lsh, rng):
    index = make_index(table, lsh)
    dense = np.zeros((40, 32), np.float32)
    dense[:, :24] = rng.normal(size=(40, 24)) * (rng.random((40, 24)) < 0.3)
    samples, columns = np.nonzero(dense)
    end = np.searchsorted(samples, np.arange(40), side="right")
    runs = Ragged(columns.astype(np.int32), np.append(0, end[:-1]), end)
    sparse = Activations(None, runs, dense[samples, columns])
    assert np.array_equal(index.hash(sparse, 2), index.hash(Activations(dense, None, None), 1))


@pytest.mark.parametrize("lsh", LSH.values(), ids=LSH)
def test_a_neuron_finds_itself(table, lsh):
    index = make_index(table, lsh)
    index.rebuild(0, 1)
    ids, counts = np.zeros((500, 500), np.int32), np.zeros(500, np.int64)
    queries = Activations(np.ascontiguousarray(table.weights), None, None)
    index.sample(queries, np.zeros(501, np.int64), np.zeros(0, np.int32), 500, 0, ids, counts, 2)
    for neuron in range(500):
        assert neuron in ids[neuron, : counts[neuron]]


def test_similar_neurons_are_found_more_often(table, rng):
    index = make_index(table, LSHConfig(l=20, k=5))
    table.weights[:250] = 1 + 0.3 * rng.normal(size=(250, 24))
    index.rebuild(0, 1)
    ids, counts = np.zeros((50, 100), np.int32), np.zeros(50, np.int64)
    queries = Activations((1 + 0.3 * rng.normal(size=(50, 24))).astype(np.float32), None, None)
    index.sample(queries, np.zeros(51, np.int64), np.zeros(0, np.int32), 100, 0, ids, counts, 1)
    assert (ids < 250).mean() > 0.9


def test_seed_decides_functions_and_draws(table):
    built = []
    for seed in (1, 1, 2):
        index = make_index(table, seed=seed)
        index.rebuild(0, 1)
        built.append(tables_of(index))
    assert same(built[0], built[1])
    assert not same(built[0], built[2])


def test_statistics(table):
    index = make_index(table, LSHConfig(k=3, l=4))
    index.rebuild(0, 1)
    statistics = index.statistics()
    sizes = np.stack([np.bincount(codes, minlength=8) for codes in index.codes])
    assert statistics.pop("rebuild_seconds") > 0
    assert statistics == {
        "family": "simhash",
        "k": 3,
        "l": 4,
        "buckets": 8,
        "buckets_used": (sizes > 0).mean(),
        "bucket_mean": sizes[sizes > 0].mean(),
        "bucket_max": sizes.max(),
        "overflow": 0.0,
        "rebuilds": 1,
    }


def test_statistics_before_the_first_rebuild(table):
    statistics = make_index(table).statistics()
    assert (statistics["bucket_mean"], statistics["bucket_max"], statistics["rebuilds"]) == (0.0, 0, 0)


def test_bytes_needed(table):
    buffers = Buffers()
    lsh = LSHConfig(k=4, l=3)
    NeuronIndex(table, lsh, RehashConfig(), SamplingConfig(), 0, buffers)
    assert sum(line["bytes"] for line in buffers.report()) == NeuronIndex.bytes_needed(500, lsh, 4)


def test_probabilities_are_those_of_the_family_and_the_policy():
    rng = np.random.default_rng(3)
    table, query = RowTable(300, 64), rng.normal(size=64)
    table.weights[:] = rng.normal(size=(300, 64)) + np.linspace(0, 3, 300)[:, None] * query
    freq = np.zeros(300)
    draws, lsh = 400, LSHConfig(k=4, l=6, projection="sparse")
    for seed in range(draws):
        index = NeuronIndex(table, lsh, RehashConfig(), SamplingConfig(), seed, Buffers())
        index.rebuild(0, 1)
        signal = Activations(query[None].astype(np.float32), None, None)
        ids, counts = np.zeros((1, 300), np.int32), np.zeros(1, np.int64)
        index.sample(signal, np.zeros(2, np.int64), np.zeros(0, np.int32), 300, 0, ids, counts, 1)
        freq[ids[0, : counts[0]]] += 1 / draws
    cosine = table.weights @ query / np.linalg.norm(table.weights, axis=1) / np.linalg.norm(query)
    p = index.collision_probability(query)
    np.testing.assert_allclose(p, 1 - np.arccos(cosine) / np.pi, rtol=1e-5)
    np.testing.assert_allclose(index.collision_probability(query, np.array([7, 2])), p[[7, 2]])
    expected = index.inclusion_probability(query)
    np.testing.assert_allclose(expected, 1 - (1 - p**4) ** 6, rtol=1e-9)
    assert abs(freq.mean() - expected.mean()) < 0.02
    assert np.abs(freq - expected).max() < 5 * np.sqrt(0.25 / draws)
