"""Rows read, and rows updated, against NumPy."""

import numpy as np
import pytest

from slide.kernels.roofline import read_rows, update_rows

AHEAD = (0, 1, 4, 100)


@pytest.fixture(params=[(1, 1), (5, 8), (40, 15), (40, 16), (40, 17), (300, 64)], ids=str)
def table(request, rng):
    return rng.integers(0, 2**64, request.param, np.uint64)


@pytest.mark.parametrize("ahead", AHEAD)
def test_reads_every_word(table, rng, ahead, threads):
    ids = rng.integers(0, len(table), 700).astype(np.int32)
    assert read_rows(table, ids, ahead, threads) == int(table[ids].sum(dtype=np.uint64))


@pytest.mark.parametrize("ahead", AHEAD)
def test_adds_one_to_every_word(table, rng, ahead, threads):
    ids = rng.permutation(len(table)).astype(np.int32)[: (len(table) + 1) // 2]
    expected = table.copy()
    expected[ids] += np.uint64(1)
    update_rows(table, ids, ahead, threads)
    assert (table == expected).all()


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_nothing_to_do(shape, threads):
    table = np.ones(shape, np.uint64)
    nobody = np.zeros(0, np.int32)
    assert read_rows(table, nobody, 2, threads) == 0
    update_rows(table, nobody, 2, threads)
    assert (table == 1).all()


@pytest.mark.parametrize("function", [read_rows, update_rows])
@pytest.mark.parametrize("ids", [[-1], [0, 3]])
def test_refuses_what_is_out_of_range(function, ids):
    table = np.zeros((3, 8), np.uint64)
    with pytest.raises(ValueError, match="ids must lie in"):
        function(table, np.array(ids, np.int32), 0, 1)
    with pytest.raises(ValueError, match="ahead must be"):
        function(table, np.zeros(1, np.int32), -1, 1)
