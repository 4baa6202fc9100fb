"""Samples are dealt so that every portion gives each batch its part, and all last equally long."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slide.config import ConfigError
from slide.config.distribution import DistributionConfig
from slide.ranks.grid import LabelShard
from slide.ranks.portions import Cuts
from slide.ranks.topk import merge

fast = settings(max_examples=60, deadline=None)


@fast
@given(st.integers(1, 500), st.integers(1, 70), st.integers(1, 12), st.integers(1, 4))
def test_shares_last_equally_long(n, batch_size, each, ranks):
    portions = each * ranks
    if batch_size < portions:
        with pytest.raises(ConfigError, match="the samples are cut into"):
            Cuts(n, batch_size, portions)
        return
    cuts = Cuts(n, batch_size, portions)
    assert cuts.sizes.sum() == batch_size and cuts.sizes.min() > 0
    assert cuts.ends[0] == 0 and cuts.ends[-1] == n
    assert max(-(-np.diff(cuts.ends) // cuts.sizes)) == -(-n // batch_size)
    rows = [row for part in cuts.of_ranks(ranks) for row in range(part.start, part.stop)]
    assert rows == list(range(n))


@fast
@given(st.integers(1, 60), st.integers(1, 9), st.sampled_from(["cyclic", "contiguous"]), st.integers(0, 99))
def test_every_label_is_in_one_shard(n_labels, n_shards, partition, seed):
    if n_labels < n_shards:
        with pytest.raises(ConfigError, match="cannot be cut into"):
            LabelShard(n_labels, 0, n_shards, partition)
        return
    shards = [LabelShard(n_labels, i, n_shards, partition) for i in range(n_shards)]
    every = np.concatenate([np.arange(n_labels)[shard.ids] for shard in shards])
    np.testing.assert_array_equal(np.sort(every), np.arange(n_labels))
    lists = [np.flatnonzero(np.random.default_rng((seed, i)).random(n_labels) < 0.3) for i in range(4)]
    ptr, labels = np.cumsum([0, *map(len, lists)]), np.concatenate(lists).astype(np.int32)
    for shard in shards:
        assert list(shard.labels) == np.arange(n_labels)[shard.ids].tolist() and len(shard.labels) == shard.n_rows
        own_ptr, numbers, here = shard.select(ptr, labels)
        np.testing.assert_array_equal(shard.to_ids(numbers), labels[here])
        for s, row in enumerate(lists):
            found = shard.to_ids(numbers[own_ptr[s] : own_ptr[s + 1]])
            np.testing.assert_array_equal(found, np.intersect1d(row, list(shard.labels)))


def test_merged_labels_are_the_best_in_order_of_id():
    ids = np.array([[[4, 2, -1]], [[1, 9, 3]]], np.int32)
    scores = np.array([[[2.0, 1.0, -np.inf]], [[2.0, 1.0, 0.5]]], np.float32)
    found, best = merge(ids, scores)
    np.testing.assert_array_equal(found, [[1, 4, 2]])
    np.testing.assert_array_equal(best, [[2.0, 2.0, 1.0]])


@pytest.mark.parametrize(
    ("fields", "ranks", "grid"),
    [({}, 4, (1, 4)), ({"data_shards": 2}, 4, (2, 2)), ({"label_shards": 2}, 6, (3, 2))],
)
def test_grids(fields, ranks, grid):
    assert DistributionConfig(**fields).grid(ranks) == grid


def test_what_does_not_make_a_grid_is_refused():
    with pytest.raises(ConfigError, match="make 6 ranks, and there are 4"):
        DistributionConfig(label_shards=3, data_shards=2).grid(4)
    with pytest.raises(ConfigError, match="keep_rows must be 1 with average_every"):
        DistributionConfig(average_every=3, keep_rows=0.5)
