"""NeuronIndex: rebuilding after few rows changed, capacities, and the policies through the configuration."""

import numpy as np
import pytest

from slide.config import LSHConfig, RehashConfig, SamplingConfig
from slide.kernels.rows import RowTable
from slide.lsh.index import NeuronIndex
from slide.rows.activations import Activations
from slide.system.buffers import Buffers

N, DIM = 700, 24


def make_index(table, sampling=None, **lsh):
    sampling = sampling or SamplingConfig()
    return NeuronIndex(table, LSHConfig(l=6, **lsh), RehashConfig(), sampling, 3, Buffers())


@pytest.fixture
def table():
    table = RowTable(N, DIM, moments=0, name="neurons", hugepages=False)
    table.fill_uniform(1.0, 1, 1)
    return table


@pytest.mark.parametrize("family", ["simhash", "dwta"])
@pytest.mark.parametrize("lsh", [{}, {"capacity": 4}, {"capacity": 4, "insertion": "reservoir"}], ids=str)
def test_rebuild_after_few_changes_is_a_fresh_build(table, family, lsh):
    index = make_index(table, family=family, **lsh)
    index.rebuild(1, 1)
    rng = np.random.default_rng(0)
    for step, share in [(2, 0.002), (3, 0.05), (4, 0.4), (5, 0.9), (6, 0.0)]:
        rows = np.flatnonzero(rng.random(N) < share)
        table.weights[rows, :DIM] = rng.standard_normal((len(rows), DIM))
        table.last_step[rows] = step
        index.rebuild(step, 2)
        fresh = make_index(table, family=family, **lsh)
        fresh.rebuild(step, 1)
        np.testing.assert_array_equal(index.codes, fresh.codes)
        np.testing.assert_array_equal(index.offsets, fresh.offsets)
        for t, end in enumerate(index.offsets[:, -1]):
            np.testing.assert_array_equal(index.ids[t, :end], fresh.ids[t, :end])


def test_overflow(table):
    index = make_index(table, k=2)
    index.rebuild(1, 1)
    assert index.statistics()["overflow"] == 0
    capped = make_index(table, k=2, capacity=5)
    capped.rebuild(1, 1)
    assert capped.statistics()["bucket_max"] == 5
    assert capped.statistics()["overflow"] == pytest.approx(1 - capped.offsets[:, -1].mean() / N)
    assert capped.ids.shape == (6, 4 * 5)


@pytest.mark.parametrize("lsh", [LSHConfig(l=6, k=3), LSHConfig(l=6, k=3, capacity=2)])
def test_bytes_needed(table, lsh):
    index = NeuronIndex(table, lsh, RehashConfig(), SamplingConfig(), 3, Buffers())
    needed = NeuronIndex.bytes_needed(N, lsh, index.hasher.bucket_bits)
    assert needed == index.codes.nbytes + index.offsets.nbytes + index.ids.nbytes


@pytest.mark.parametrize("policy", ["vanilla", "topk", "threshold"])
@pytest.mark.parametrize("fill", ["none", "uniform"])
def test_sample(table, policy, fill):
    index = make_index(table, SamplingConfig(policy, min_tables=2, fill=fill), k=4, capacity=20)
    index.rebuild(1, 1)
    queries = Activations(np.ascontiguousarray(table.weights[:9]), None, None)
    labels = np.arange(9, dtype=np.int32)
    out, counts = np.empty((9, 60), np.int32), np.empty(9, np.int64)
    index.sample(queries, np.arange(10, dtype=np.int64), labels, 60, 0, out, counts, 1)
    np.testing.assert_array_equal(out[:, 0], labels)
    for s in range(9):
        assert len(set(out[s, : counts[s]].tolist())) == counts[s]
    if fill == "uniform":
        assert (counts == 60).all()
    else:
        assert (counts > 1).any()
