"""Buffers: named large memory of one owner, with its account."""

import math

import numpy as np

from slide.kernels.memory import HugeBuffer


class Buffers:
    """Large arrays by name, each in a `HugeBuffer` of its own that grows when more is asked for.

    Parameters
    ----------
    hugepages : bool
        Ask the kernel for hugepages.
    """

    def __init__(self, *, hugepages=True):
        self.hugepages = hugepages
        self._owned = {}
        self._arrays = {}

    def array(self, name, shape, dtype):
        """Return a C-contiguous array; the same memory as last time under this name where it is large enough.

        Contents are zero when the memory is new and whatever was there before otherwise.

        Parameters
        ----------
        name : str
        shape : tuple of int
        dtype : dtype
        """
        last = self._arrays.get(name)
        if last is not None and last.shape == shape and last.dtype == dtype:
            return last
        nbytes = math.prod(map(int, shape)) * np.dtype(dtype).itemsize
        buffer = self._owned.get(name)
        if buffer is None or buffer.nbytes < nbytes:
            # An eighth more than asked for, so that slowly growing batches do not allocate each time.
            room = nbytes if buffer is None else nbytes + nbytes // 8
            buffer = self._owned[name] = HugeBuffer(room, name=name, hugepages=self.hugepages)
        array = self._arrays[name] = buffer.array(shape, dtype)
        return array

    def add(self, name, buffer):
        """Account for a buffer that something else allocated."""
        self._owned[name] = buffer
        self._arrays.pop(name, None)

    def report(self):
        """Return a dict for each buffer, in order of creation: its name, bytes, advice and bytes in hugepages."""
        return [
            {
                "name": name,
                "bytes": buffer.nbytes,
                "advice": buffer.advice,
                "hugepage_bytes": buffer.hugepage_bytes(),
            }
            for name, buffer in self._owned.items()
        ]
