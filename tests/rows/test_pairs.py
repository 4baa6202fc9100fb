"""Signals between layers, and the pairs of samples and rows that a layer computes."""

import numpy as np
import pytest

from slide.config import LSHConfig, RehashConfig, SamplingConfig
from slide.kernels import optim
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient
from slide.lsh.index import NeuronIndex
from slide.rows.activations import SPARSE_BELOW, Activations, Ragged
from slide.rows.pairs import Pairs
from slide.rows.passes import Pass
from slide.system.buffers import Buffers

N_ROWS, DIM, SAMPLES = 60, 100, 9


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def make_table():
    """Make equal tables of random weights."""

    def make_table():
        table = RowTable(N_ROWS, DIM, moments=2)
        table.fill_uniform(1.0, 3, 1)
        return table

    return make_table


def runs_of(lists, *, gap=2):
    """Runs with a gap behind each."""
    lengths = np.array([len(ids) for ids in lists], np.int64)
    begin = np.cumsum(lengths + gap) - lengths - gap
    flat = np.full(int((lengths + gap).sum()), -1, np.int32)
    for first, ids in zip(begin, lists, strict=True):
        flat[first : first + len(ids)] = ids
    return Ragged(flat, begin, begin + lengths)


def lists_of(runs):
    return [runs.flat[first:last].tolist() for first, last in zip(runs.begin, runs.end, strict=True)]


@pytest.fixture
def signal(rng):
    """Three non-zero columns a sample, but for the second, which has none; features have no gaps between them."""
    columns = runs_of([rng.permutation(DIM)[: 3 * (s != 1)] for s in range(SAMPLES)], gap=0)
    values = rng.normal(size=len(columns.flat)).astype(np.float32)
    dense = np.zeros((SAMPLES, 112), np.float32)
    samples, places = columns.places()
    dense[samples, columns.flat[places]] = values[places]
    return Activations(dense, columns, values)


# --- Runs and signals


@pytest.mark.parametrize("gap", [0, 2])
def test_places_are_those_of_the_entries_in_order(gap):
    lists = [[5, 3], [], [9], [], [1, 2, 4]]
    runs = runs_of(lists, gap=gap)
    samples, places = runs.places()
    assert runs.lengths.tolist() == [2, 0, 1, 0, 3]
    assert samples.tolist() == [0, 0, 2, 4, 4, 4]
    assert runs.flat[places].tolist() == [5, 3, 9, 1, 2, 4]


def test_places_of_nothing():
    for runs in (runs_of([]), runs_of([[], []])):
        assert [len(part) for part in runs.places()] == [0, 0]


def test_features_are_read_sparse(signal):
    assert signal._replace(dense=None).reads_sparse


def test_dense_signals_are_read_dense(signal):
    assert not Activations(signal.dense, None, None).reads_sparse


@pytest.mark.parametrize(("share", "sparse"), [(0.0, True), (0.9, True), (1.0, False), (2.0, False)])
def test_half_dense_signals_are_read_as_it_costs_less(share, sparse):
    width = 4800
    columns = runs_of([range(round(share * SPARSE_BELOW * width))] * 3)
    assert Activations(np.zeros((3, width), np.float32), columns, None).reads_sparse == sparse


# --- Pairs


@pytest.fixture
def index(make_table):
    index = NeuronIndex(make_table(), LSHConfig(k=2, l=8), RehashConfig(), SamplingConfig(), 1, Buffers())
    index.rebuild(0, 1)
    return index


def test_room_is_the_same_memory_for_every_batch(make_table):
    buffers = Buffers()
    pairs = Pairs("layer", make_table(), buffers)
    assert np.shares_memory(pairs.room("candidates", 4, 5), pairs.room("candidates", 2, 7))
    assert [line["name"] for line in buffers.report()] == ["layer candidates"]


@pytest.mark.parametrize("budget", [1, 5, 1000])
def test_drawn_rows_begin_with_the_forced_ones(index, signal, budget):
    forced = runs_of([[7, 3], [], [1, 2, 4], *[[s] for s in range(6)]], gap=0)
    rows = index.draw(Pairs("layer", index.table, Buffers()), signal, forced, budget, 0, 1)
    for drawn, first in zip(lists_of(rows), lists_of(forced), strict=True):
        assert drawn[: len(first)] == first
        assert len(set(drawn)) == len(drawn) <= max(len(first), min(budget, N_ROWS))
    assert rows.lengths.max() > 5 or budget < 1000


def test_draws_are_the_same_for_features_and_dense_vectors(index, signal):
    pairs = Pairs("layer", index.table, Buffers())
    nobody = runs_of([[]] * SAMPLES, gap=0)
    dense = lists_of(index.draw(pairs, signal, nobody, 20, 4, 1))
    assert lists_of(index.draw(pairs, signal._replace(dense=None), nobody, 20, 4, 2)) == dense
    assert lists_of(index.draw(pairs, signal, nobody, 20, 5, 1)) != dense


def test_groups_have_room_for_every_batch(rng, make_table):
    buffers = Buffers()
    pairs = Pairs("layer", make_table(), buffers)
    for most in (3, 50, 10, 60):
        lists = [rng.permutation(N_ROWS)[:most].tolist() for _ in range(SAMPLES)]
        groups = pairs.group(runs_of(lists), 1)
        assert groups.n_pairs == SAMPLES * most
        assert groups.rows.tolist() == sorted({row for ids in lists for row in ids})
    assert [line["name"] for line in buffers.report()] == ["layer pairs"]


def test_sparse_and_dense_signals_give_the_same_logits_and_steps(rng, make_table, signal):
    rows = runs_of([rng.permutation(N_ROWS)[: 4 * (s != 2)] for s in range(SAMPLES)])
    deltas = rng.normal(size=len(rows.flat)).astype(np.float32)
    samples, places = rows.places()
    logits, tables, gradients = [], [], []
    for given in (signal, Activations(signal.dense, None, None)):
        table = make_table()
        pairs = Pairs("layer", table, Buffers())
        groups = pairs.group(rows, 1)
        logits.append(pairs.logits(groups, rows, given, Pass(optim.measure(), 0, 1))[places].copy())
        gradient, total = SampleGradient(SAMPLES, 112), np.zeros((SAMPLES, 112), np.float32)
        pairs.step(groups, deltas, given, gradient, Pass(optim.adam(0.1, 0.9, 0.999, 1e-3, 1), 0, 1))
        gradient.sum_into(total, None, 1)
        tables.append(table.state())
        gradients.append(total)
    assert signal.reads_sparse
    expected = (make_table().weights[rows.flat[places]] * signal.dense[samples, :DIM]).sum(axis=1)
    for each in logits:
        np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-6)
    for name, array in tables[0].items():
        np.testing.assert_allclose(array, tables[1][name], rtol=1e-4, atol=1e-6, err_msg=name)
    # A sparse signal's gradient is that of its own columns.
    mine = np.zeros((SAMPLES, 112), bool)
    owners, entries = signal.columns.places()
    mine[owners, signal.columns.flat[entries]] = True
    np.testing.assert_allclose(gradients[0][mine], gradients[1][mine], rtol=1e-4, atol=1e-6)
    assert not gradients[0][~mine].any()


def test_of_the_features_only_those_present_are_stepped(make_table, signal):
    rows = runs_of([[0]] * SAMPLES)
    deltas = np.ones(len(rows.flat), np.float32)
    used = np.unique(signal.columns.flat[signal.columns.places()[1]])
    for given, alone in ((signal._replace(dense=None), True), (signal, False)):
        table = make_table()
        table.state()["m"][:] = 1.0
        before = table.weights.copy()
        pairs = Pairs("layer", table, Buffers())
        pairs.step(pairs.group(rows, 1), deltas, given, None, Pass(optim.adam(0.1, 0.9, 0.999, 1e-3, 1), 0, 1))
        moved = np.flatnonzero(table.weights[0] != before[0])
        assert (moved.tolist() == used.tolist()) == alone
        assert np.array_equal(table.weights[1:], before[1:])
