"""BFloat16View: float32 numbers that are stored as bfloat16, for everything that is not a hot loop.

NumPy has no bfloat16. The view is indexed like an array: reads return float32 copies, writes round to nearest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

BLOCK = 1 << 20
"""Numbers that are converted at a time, so that a conversion needs little memory beside its result."""


class BFloat16View:
    """A writable view of bfloat16 numbers that are read and written as float32.

    For sums and products take ``np.asarray(view)``, or some of its rows, ``view[rows]``.

    Parameters
    ----------
    bits : uint16 array
        The numbers' upper halves; not copied.
    """

    dtype = np.dtype(np.float32)
    """Dtype of what is read."""

    def __init__(self, bits: NDArray[np.uint16]):
        self.bits = bits

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers, as an array's."""
        return self.bits.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.bits.ndim

    @property
    def nbytes(self) -> int:
        """Bytes that the numbers are stored in."""
        return self.bits.nbytes

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, key) -> NDArray[np.float32]:
        return widen(self.bits[key])

    def __setitem__(self, key, values: ArrayLike) -> None:
        values = np.asarray(values, np.float32)
        whole = key is Ellipsis or (isinstance(key, slice) and key == slice(None))
        if whole and values.shape == self.shape:
            for rows in blocks(self.shape):
                self.bits[rows] = narrow(values[rows])
        else:
            self.bits[key] = narrow(values)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("bfloat16 numbers cannot be seen as an array without a copy")
        out = self.copy()
        return out if dtype is None else out.astype(dtype, copy=False)

    def copy(self) -> NDArray[np.float32]:
        """Return all numbers as a float32 array."""
        out = np.empty(self.shape, self.dtype)
        for rows in blocks(self.shape):
            out[rows] = widen(self.bits[rows])
        return out


def blocks(shape: tuple[int, ...], numbers: int = BLOCK) -> list[slice]:
    """Return slices of an array's first axis that have about `numbers` numbers each."""
    size = max(1, numbers // max(1, int(np.prod(shape[1:]))))
    return [slice(first, min(shape[0], first + size)) for first in range(0, shape[0], size)]


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return bfloat16 numbers as float32, exactly."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def narrow(values: ArrayLike) -> NDArray[np.uint16]:
    """Return float32 numbers as the nearest bfloat16, ties to even; NaN stays NaN."""
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32)
    upper = bits >> 16
    nearest = (bits.astype(np.uint64) + (upper & 1) + 0x7FFF >> 16).astype(np.uint16)
    return np.where(np.isnan(values), upper.astype(np.uint16) | np.uint16(0x40), nearest)
