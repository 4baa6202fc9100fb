"""The diagnosis of hash tables, against counts and searches in NumPy."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from slide.config import HiddenConfig, LSHConfig, NetworkConfig, OutputConfig, RehashConfig, SamplingConfig
from slide.kernels.rows import RowTable
from slide.lsh import families
from slide.lsh.diagnostics import as_signal, diagnose, draw, exact_top, recall, take, unreachable_buckets
from slide.lsh.families import PythonHasher, make_hasher
from slide.lsh.index import NeuronIndex
from slide.network import Network
from slide.rows.activations import Activations, Ragged
from slide.system.buffers import Buffers

N, DIM = 400, 24


@pytest.fixture
def rng():
    return np.random.default_rng(31)


@pytest.fixture
def table(rng):
    table = RowTable(N, DIM)
    table.weights[:] = rng.normal(size=(N, DIM))
    table.bias[:] = rng.normal(size=N)
    return table


@pytest.fixture
def queries(rng):
    return rng.normal(size=(30, DIM)).astype(np.float32)


def built(table, lsh=None, sampling=None):
    index = NeuronIndex(
        table, lsh or LSHConfig(k=4, l=10), RehashConfig(), sampling or SamplingConfig(policy="topk"), 3, Buffers()
    )
    index.rebuild(0, 1)
    return index


def sparse_signal(x):
    indptr = np.append(0, np.cumsum(np.count_nonzero(x, axis=1))).astype(np.int64)
    rows, columns = np.nonzero(x)
    return Activations(None, Ragged(columns.astype(np.int32), indptr[:-1], indptr[1:]), x[rows, columns])


def buckets_of(index, x):
    """For each query the set of neurons in its buckets, from the codes alone."""
    codes = np.empty((index.hasher.l, len(x)), np.uint32)
    index.hasher.hash(x, codes, 1)
    return [set(np.flatnonzero((index.codes == codes[:, [q]]).any(axis=0))) for q in range(len(x))]


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("sparse", [False, True])
def test_exact_top_scores_by_inner_product_and_bias(table, queries, k, sparse):
    queries[np.abs(queries) < 0.5] = 0
    signal = sparse_signal(queries) if sparse else as_signal(queries, table)
    logits = queries @ table.weights.T + table.bias
    assert np.array_equal(exact_top(table, signal, k, 1), np.argsort(-logits, axis=1)[:, :k])


@pytest.mark.parametrize("policy", ["vanilla", "topk", "threshold"])
def test_recall_is_the_share_of_exact_neurons_drawn(table, queries, policy):
    index = built(table)
    codes = index.hash(as_signal(queries, table), 1)
    exact = exact_top(table, as_signal(queries, table), 10, 1)
    draws = draw(index, codes, SamplingConfig(policy=policy), 25, 1)
    drawn = [set(ids[:count]) for ids, count in zip(draws.ids, draws.counts, strict=True)]
    naive = np.mean([len(found & set(best)) / 10 for found, best in zip(drawn, exact.tolist(), strict=True)])
    assert recall(draws, exact) == pytest.approx(naive)
    assert all(-1 not in found and len(found) <= 25 for found in drawn)


def test_diagnosis_of_everything_found_is_the_union_of_the_buckets(table, queries):
    index = built(table)
    report = diagnose(index, queries, budget=5)
    exact = exact_top(table, as_signal(queries, table), 10, 1)
    unions = buckets_of(index, queries)
    sizes = [len(union) for union in unions]
    assert report.found.mean == pytest.approx(np.mean(sizes))
    assert (report.found.p5, report.found.p95) == tuple(np.percentile(sizes, (5, 95)))
    naive = np.mean([len(union & set(best)) / 10 for union, best in zip(unions, exact.tolist(), strict=True)])
    assert report.found.recall == pytest.approx(naive)
    assert report.found.budget is None


def test_diagnosis_in_blocks_of_one_query_is_the_same(table, queries, monkeypatch):
    index = built(table)
    whole = diagnose(index, queries, budget=5).found
    monkeypatch.setattr("slide.lsh.diagnostics.BLOCK_IDS", 1)
    blocks = diagnose(index, queries, budget=5).found
    assert dataclasses.replace(blocks, microseconds=0) == dataclasses.replace(whole, microseconds=0)


def test_recall_grows_with_the_budget_to_that_of_the_union(table, queries):
    report = diagnose(built(table), queries, budget=20, budgets=[5, 80, N, 10 * N])
    assert [sample.budget for sample in report.budgets] == [5, 80, N]
    recalls = [sample.recall for sample in sorted((report.chosen, *report.budgets), key=lambda sample: sample.budget)]
    assert recalls == sorted(recalls)
    assert report.budgets[-1].recall == pytest.approx(report.found.recall)
    assert report.chosen.budget == 20 and report.chosen.mean <= 20


def test_an_index_of_one_bucket_finds_everything(table, queries):
    table.weights[:] = 1
    report = diagnose(built(table, LSHConfig(k=1, l=1)), np.ones_like(queries), budget=N)
    assert (report.chosen.recall, report.found.mean) == (1, N)
    # Two buckets, one with all neurons: 256 <= 400 < 512 is the ninth class after the empty ones.
    assert report.occupancy == (1, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    assert report.empty == 0.5


class ByFirstCoordinate(PythonHasher):
    """The bucket is the first coordinate."""

    def codes(self, x):
        return np.repeat(x[:, :1].astype(int), self.k * self.l, axis=1)


def test_occupancy_of_a_hand_made_index(monkeypatch):
    monkeypatch.setitem(
        families._FAMILIES,
        "first",
        lambda config, dim, n, rng: ByFirstCoordinate(dim, 1, config.l, n_codes=8, bucket_bits=3),
    )
    table = RowTable(13, 2, moments=0)
    table.weights[:, 0] = [0] * 1 + [2] * 2 + [3] * 3 + [5] * 7
    report = diagnose(built(table, LSHConfig(family="first", l=2, capacity=5)), np.zeros((4, 2)), budget=3)
    # Per table: buckets 1, 4, 6 and 7 are empty; one has 1, two have 2 or 3, one was cut from 7 to 5.
    assert report.occupancy == (8, 2, 4, 2)
    assert report.empty == 0.5
    assert report.dropped == pytest.approx(2 / 13)
    assert report.unreachable == 0
    assert (report.buckets, report.k, report.l) == (8, 1, 2)


def test_drift_is_the_share_of_changed_bucket_indices(table, queries):
    index = built(table)
    assert diagnose(index, queries, budget=5).drift == 0
    table.weights[:100] *= -1
    before = index.codes.copy()
    report = diagnose(index, queries, budget=5)
    # A vector and its negative agree in no sign, so in no bucket.
    assert report.drift == pytest.approx(0.25)
    assert np.array_equal(index.codes, before)


@pytest.mark.parametrize("family", ["simhash", "wta", "dwta", "minhash"])
@pytest.mark.parametrize("bucket_bits", [None, 3])
def test_every_bucket_can_be_reached(family, bucket_bits):
    config = LSHConfig(family=family, l=2, bucket_bits=bucket_bits)
    assert unreachable_buckets(make_hasher(config, 32, 5_000, np.random.default_rng(0))) == 0


def test_what_is_not_known_of_a_family_is_not_claimed(table, monkeypatch):
    hasher = make_hasher(LSHConfig(k=4), DIM, N, np.random.default_rng(0))

    assert unreachable_buckets(SimpleNamespace(k=hasher.k, l=hasher.l, bucket_bits=hasher.bucket_bits)) is None
    monkeypatch.setattr("slide.lsh.diagnostics.CODES_TRIED", 0)
    assert unreachable_buckets(hasher) is None


def test_taken_samples_hash_as_they_did(table, queries):
    index = built(table)
    queries[np.abs(queries) < 0.5] = 0
    rows = np.array([3, 0, 17])
    for signal in (as_signal(queries, table), sparse_signal(queries)):
        assert np.array_equal(index.hash(take(signal, rows), 1), index.hash(signal, 1)[:, rows])


def test_report_and_dictionary(table, queries):
    report = diagnose(built(table), queries, budget=32, threads=1)
    text = str(report)
    assert "recall@10" in text and "<- layer" in text and "threads: 1" in text
    values = json.loads(json.dumps(report.to_dict()))
    assert values["chosen"]["recall"] == report.chosen.recall
    assert len(values["budgets"]) == 6
    assert report.table_bytes == NeuronIndex.bytes_needed(N, LSHConfig(k=4, l=10), 4)
    assert report.rebuild_ms > 0 and report.hash_microseconds > 0


def test_refusals(table, queries):
    index = NeuronIndex(table, LSHConfig(), RehashConfig(), SamplingConfig(), 0, Buffers())
    with pytest.raises(RuntimeError, match="rebuild"):
        diagnose(index, queries, budget=5)
    index.rebuild(0, 1)
    with pytest.raises(ValueError, match=r"\[n, 24\]"):
        diagnose(index, queries[:, :7], budget=5)
    with pytest.raises(ValueError, match="no queries"):
        diagnose(index, queries[:0], budget=5)
    with pytest.raises(ValueError, match="positive"):
        diagnose(index, queries, budget=0)
    with pytest.raises(ValueError, match="positive"):
        diagnose(index, queries, budget=5, top=0)


def test_layer_inputs_are_what_prediction_computes(rng):
    hidden = (HiddenConfig(units=20), HiddenConfig(units=12, candidates="lsh", lsh=LSHConfig(l=4)))
    output = OutputConfig("lsh+tail", lsh=LSHConfig(l=4))
    network = Network(50, 30, NetworkConfig(hidden=hidden, output=output), threads=1)
    X = (rng.random((7, 50)) < 0.2) * rng.random((7, 50))
    features, first, second = network.layer_inputs(X)
    assert features.dense is None
    assert (first.dense.shape, second.dense.shape) == ((7, 32), (7, 16))
    weights, bias = network.hidden[1].table.weights, network.hidden[1].table.bias
    assert second.dense[:, :12] == pytest.approx(np.maximum(first.dense[:, :20] @ weights.T + bias, 0), abs=1e-5)
    ids, _ = network.predict(X, 3)
    assert np.array_equal(exact_top(network.output.table, second, 3, 1), ids)
