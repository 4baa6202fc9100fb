"""RowTable: the views of its parts, and its random start."""

import numpy as np
import pytest

from slide.kernels.bfloat16 import narrow, widen
from slide.kernels.rows import RowTable


@pytest.mark.parametrize("moments", [0, 1, 2])
def test_views_do_not_overlap(dim, moments):
    table = RowTable(5, dim, moments=moments)
    state = table.state()
    assert list(state) == ["weights", "bias", "last_step", "m", "bias_m", "v", "bias_v"][: 3 + 2 * moments]
    for number, view in enumerate(state.values(), 1):
        assert not view.any()
        view[:] = number
    for number, view in enumerate(table.state().values(), 1):
        assert (view == number).all()


def test_shapes_and_types(dim):
    table = RowTable(3, dim)
    assert (table.n_rows, table.dim, table.moments) == (3, dim, 2)
    assert table.padded_dim == -(-dim // 16) * 16
    assert table.weights.shape == table.state()["v"].shape == (3, dim)
    assert table.bias.shape == table.last_step.shape == (3,)
    assert (table.weights.dtype, table.last_step.dtype) == (np.float32, np.int32)
    assert table.buffer.nbytes == RowTable.bytes_needed(3, dim) == 3 * 4 * (16 + 3 * table.padded_dim)


def test_bytes_needed_do_not_wrap_around():
    assert RowTable.bytes_needed(2**31 - 1, 2**20, 2) == (2**31 - 1) * 4 * (16 + 3 * 2**20)


def test_weights_start_on_a_cache_line():
    table = RowTable(2, 17)
    assert table.weights.ctypes.data % 64 == 0
    assert table.weights.strides[0] % 64 == 0


def test_fill_uniform_is_uniform(dim, padding_is_zero):
    table = RowTable(3000, dim)
    table.fill_uniform(0.5, 3, 2)
    weights = table.weights
    assert weights.min() >= -0.5
    assert weights.max() < 0.5
    # Variance of the mean of n uniform draws on [-1/2, 1/2): 1 / 12n.
    assert abs(weights.mean(dtype=np.float64)) < 4 / np.sqrt(12 * weights.size)
    counts = np.histogram(weights, bins=16, range=(-0.5, 0.5))[0]
    expected = weights.size / 16
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-squared, 15 degrees of freedom
    assert padding_is_zero(table)
    assert not table.bias.any()


def test_fill_uniform_of_bfloat16_is_rounded_to_nearest():
    # Among two millions of 24 random bits some are halfway between two numbers of eight.
    filled = []
    for precision in ("fp32", "bf16"):
        table = RowTable(20_000, 100, precision=precision)
        table.fill_uniform(1.0, 5, 2)
        filled.append(table.weights[...])
    bits = filled[0].view(np.uint32)
    assert ((bits & 0x1FFFF) == 0x18000).sum() > 5
    assert np.array_equal(widen(narrow(filled[0])), filled[1])


def test_fill_uniform_depends_on_seed_row_and_column_alone():
    filled = []
    for n_rows, dim, seed, threads in [(3000, 40, 9, 1), (3000, 40, 9, 2), (10, 20, 9, 1), (3000, 40, 10, 1)]:
        table = RowTable(n_rows, dim)
        table.fill_uniform(1.0, seed, threads)
        filled.append(table.weights)
    assert np.array_equal(filled[0], filled[1])
    assert np.array_equal(filled[0][:10, :20], filled[2])
    assert not np.array_equal(filled[0], filled[3])


@pytest.mark.parametrize(
    ("n_rows", "dim", "moments", "named"),
    [
        (0, 4, 2, "n_rows"),
        (-1, 4, 2, "n_rows"),
        (2**31, 4, 2, "n_rows"),
        (1, 0, 2, "dim"),
        (1, 2**20 + 1, 2, "dim"),
        (1, 4, -1, "moments"),
        (1, 4, 3, "moments"),
    ],
)
def test_sizes_out_of_range_are_refused(n_rows, dim, moments, named):
    with pytest.raises(ValueError, match=f"^{named} must be"):
        RowTable(n_rows, dim, moments=moments)


def test_more_rows_than_memory():
    with pytest.raises(MemoryError, match=r"'weights'"):
        RowTable(2**31 - 1, 2**20, name="weights")
