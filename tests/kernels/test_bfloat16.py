"""Numbers stored as bfloat16: the view of them, and rounding to nearest."""

import numpy as np
import pytest

from slide.kernels import bfloat16
from slide.kernels.bfloat16 import BFloat16View, blocks, narrow, widen


def nearest_twin(x):
    """The nearest of all finite bfloat16 numbers, the one with an even last digit of two that are as near."""
    every = widen(np.arange(0x7F80, dtype=np.uint16)).astype(np.float64)
    below = np.searchsorted(every, abs(x), side="right") - 1
    above = min(below + 1, len(every) - 1)
    down, up = abs(x) - every[below], every[above] - abs(x)
    chosen = below if down < up or (down == up and below % 2 == 0) else above
    return np.copysign(every[chosen], x)


def test_rounding_to_nearest_twin():
    rng = np.random.default_rng(3)
    x = (rng.normal(size=300) * 10.0 ** rng.integers(-40, 37, 300)).astype(np.float32)
    halfway = widen(rng.integers(0, 0x7F00, 100).astype(np.uint16)).view(np.uint32) + np.uint32(0x8000)
    for values in (x, halfway.view(np.float32)):
        expected = np.array([nearest_twin(value) for value in values.astype(np.float64)], np.float32)
        np.testing.assert_array_equal(widen(narrow(values)), expected)


def test_special_values():
    largest = np.finfo(np.float32).max
    x = np.array([0.0, -0.0, np.inf, -np.inf, largest, -largest], np.float32)
    np.testing.assert_array_equal(widen(narrow(x)), [0, 0, np.inf, -np.inf, np.inf, -np.inf])
    assert np.signbit(widen(narrow(x[1:2])))[0]
    all_nans = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(widen(narrow(all_nans))).all()


@pytest.mark.parametrize("shape", [(0,), (7,), (0, 3), (5, 1), (300, 17)])
def test_a_view_is_read_and_written_like_an_array(shape, monkeypatch):
    monkeypatch.setattr(bfloat16, "BLOCK", 64)
    rng = np.random.default_rng(4)
    twin = widen(narrow(rng.normal(size=shape)))
    view = BFloat16View(np.zeros(shape, np.uint16))
    view[...] = twin
    assert (view.shape, view.ndim, len(view), view.dtype) == (shape, len(shape), shape[0], np.float32)
    assert view.nbytes * 2 == twin.nbytes
    for read in (view.copy(), np.asarray(view), view[:], view[...]):
        np.testing.assert_array_equal(read, twin)
    if shape[0]:
        view[1:3], twin[1:3] = 4, 4
        view[[0]] *= 2
        twin[[0]] *= 2
        np.testing.assert_array_equal(view, twin)
    assert np.asarray(view, np.float64).dtype == np.float64


def test_a_view_is_no_array():
    with pytest.raises(ValueError, match="without a copy"):
        BFloat16View(np.zeros(3, np.uint16)).__array__(copy=False)


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (10, 5), (10, 1000), (100,)])
def test_blocks_cover_an_array(shape):
    found = [np.arange(shape[0])[block] for block in blocks(shape, 50)]
    assert np.array_equal(np.concatenate([np.zeros(0, int), *found]), np.arange(shape[0]))
    assert all(len(block) * np.prod(shape[1:]) <= max(50, np.prod(shape[1:])) for block in found)
