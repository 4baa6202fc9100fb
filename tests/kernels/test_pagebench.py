"""Touching, gathering, scattering and streaming against NumPy, at sizes around the SIMD width."""

import numpy as np
import pytest

from slide.kernels import pagebench

DIMS = (0, 1, 15, 16, 17, 32)


@pytest.fixture(params=DIMS)
def rows(request, rng):
    return rng.standard_normal((11, request.param)).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 40])
def test_gather_and_scatter(rows, rng, n):
    order, dim = rng.integers(0, len(rows), n), rows.shape[1]
    out = np.ones(dim, np.float32)
    pagebench.gather(rows, order, out)
    np.testing.assert_allclose(out, 1 + rows[order].sum(axis=0, dtype=np.float64), rtol=1e-4, atol=1e-4)
    values, expected = rng.standard_normal(dim).astype(np.float32), rows.copy()
    np.add.at(expected, order, values)
    pagebench.scatter(rows, order, values)
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-5)


def test_stream(rows):
    out = np.zeros(rows.shape[1], np.float32)
    pagebench.stream(rows, out)
    np.testing.assert_allclose(out, rows.sum(axis=0, dtype=np.float64), rtol=1e-4, atol=1e-4)
    pagebench.stream(rows[:0], out)


@pytest.mark.parametrize("n", [0, 1, 4096, 4097, 10_000])
def test_touch(n):
    memory = np.zeros(n, np.uint8)
    pagebench.touch(memory)
    assert np.array_equal(np.flatnonzero(memory), np.arange(0, n, 4096))


def test_what_does_not_fit_is_refused(rng):
    rows, vector = np.zeros((3, 4), np.float32), np.zeros(4, np.float32)
    for wrong in (-1, 3):
        for kernel in (pagebench.gather, pagebench.scatter):
            with pytest.raises(ValueError, match=rf"order\[1\] is {wrong}, there are 3 rows"):
                kernel(rows, np.array([0, wrong]), vector)
    with pytest.raises(ValueError, match="rows of 4 need a vector of as many, got 3"):
        pagebench.gather(rows, np.array([0]), vector[:3])
    with pytest.raises(ValueError, match="out must have 4 places, got 3"):
        pagebench.stream(rows, vector[:3])
    with pytest.raises(ValueError, match="stride must be 1 or more"):
        pagebench.touch(np.zeros(5, np.uint8), 0)
