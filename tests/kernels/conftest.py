import numpy as np
import pytest

from slide.kernels.rows import RowTable
from slide.system.blas import one_blas_thread

# Around the sixteen lanes of a vector, and around the panels of eight vectors.
DIMS = (1, 15, 16, 17, 31, 32, 127, 128, 129, 200, 256, 300)


@pytest.fixture(params=DIMS, ids=lambda dim: f"dim{dim}")
def dim(request):
    return request.param


@pytest.fixture(params=(1, 2), ids=("1thread", "2threads"))
def threads(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def one_blas():
    """Run the test as the network does, with the parallel loops around BLAS rather than in it."""
    with one_blas_thread():
        yield


@pytest.fixture
def make_table(rng):
    """Make a table of random weights, biases and moments."""

    def make_table(n_rows, dim, moments=2):
        table = RowTable(n_rows, dim, moments=moments)
        state = table.state()
        for name in ("weights", "bias", "m", "bias_m"):
            if name in state:
                state[name][:] = rng.normal(size=state[name].shape)
        for name in ("v", "bias_v"):
            if name in state:
                state[name][:] = rng.random(state[name].shape)
        return table

    return make_table


@pytest.fixture
def make_hidden(rng):
    """Make random vectors as the kernels expect them: float32, padded with zeros."""

    def make_hidden(samples, table):
        hidden = np.zeros((samples, table.padded_dim), np.float32)
        hidden[:, : table.dim] = rng.normal(size=(samples, table.dim))
        return hidden

    return make_hidden


@pytest.fixture
def make_runs(rng):
    """Make a batch of (sample, row) pairs: ids, begin, end, with gaps, empty samples and shared rows."""

    def make_runs(samples, n_rows, most):
        lengths = rng.integers(0, min(most, n_rows) + 1, samples)
        lengths[: min(1, samples)] = 0
        gaps = rng.integers(0, 3, samples)
        end = np.cumsum(lengths + gaps)
        begin = end - lengths
        ids = np.full(int(end[-1]) + 2 if samples else 0, -7, np.int32)
        for first, last in zip(begin, end, strict=True):
            ids[first:last] = rng.permutation(n_rows)[: last - first]
        return ids, begin, end

    return make_runs


@pytest.fixture
def padding_is_zero():
    """Tell whether everything of a table's rows beyond their weights and moments is zero."""

    def padding_is_zero(table):
        parts = 1 + table.moments
        raw = np.frombuffer(table.buffer, np.float32)[: table.n_rows * (16 + parts * table.padded_dim)]
        rows = raw.reshape(table.n_rows, -1)[:, 16:].reshape(table.n_rows, parts, table.padded_dim)
        return not rows[:, :, table.dim :].any()

    return padding_is_zero
