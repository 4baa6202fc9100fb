"""The search for numbers that are not finite, beside the same in NumPy."""

import numpy as np
import pytest

from slide.kernels.rows import PRECISIONS, RowTable


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dim", [1, 16, 17])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("moments", [0, 2])
def test_every_number_is_looked_at(precision, dim, moments, bad):
    table = RowTable(9000, dim, moments=moments, accumulates=not moments, precision=precision)
    table.fill_uniform(3e38, 0, 1)
    table.last_step[:] = 2**31 - 1
    for threads in (1, 2):
        assert table.first_not_finite(threads) == -1
    for name, array in table.state().items():
        if name == "last_step":
            continue
        for row, column in ((8999, dim - 1), (4095, 0)):
            key = row if array.ndim == 1 else (row, column)
            array[key] = bad
            for threads in (1, 2):
                assert table.first_not_finite(threads) == row
                weighs = name in ("weights", "bias")
                assert table.first_not_finite(threads, moments=False) == (row if weighs else -1)
        array[:] = np.zeros(array.shape, np.float32)
    assert table.first_not_finite(1) == -1


def test_the_largest_numbers_are_finite():
    table = RowTable(3, 5)
    table.weights[:] = np.finfo(np.float32).max
    table.bias[:] = np.finfo(np.float32).tiny / 4
    assert table.first_not_finite(1) == -1
