"""Buffers: named large memory of one owner, with its account."""

import math

import numpy as np

from slide.kernels.memory import HUGEPAGE, HugeBuffer
from slide.system import smaps


class Buffers:
    """Large arrays by name, each in a `HugeBuffer` of its own that grows when more is asked for.

    Parameters
    ----------
    hugepages : bool or str
        What pages to ask the kernel for; see `slide.kernels.memory.HugeBuffer`.
    """

    def __init__(self, *, hugepages=True):
        self.hugepages = hugepages
        self._owned = {}
        self._arrays = {}
        self._layouts = {}
        self._noted = {}

    def array(self, name, shape, dtype, *, interleave=False):
        """Return a C-contiguous array; the same memory as last time under this name where it is large enough.

        Contents are zero when the memory is new and whatever was there before otherwise.

        Parameters
        ----------
        name : str
        shape : tuple of int
        dtype : dtype
        interleave : bool
            Spread new memory over the NUMA nodes.
        """
        last = self._arrays.get(name)
        if last is not None and last.shape == shape and last.dtype == dtype:
            return last
        nbytes = math.prod(map(int, shape)) * np.dtype(dtype).itemsize
        buffer = self._owned.get(name)
        if buffer is None or buffer.nbytes < nbytes:
            # An eighth more than asked for, so that slowly growing batches do not allocate each time.
            room = nbytes if buffer is None else nbytes + nbytes // 8
            buffer = HugeBuffer(room, name=name, hugepages=self.hugepages, interleave=interleave)
            self._layouts[name] = shape, dtype
            self._owned[name] = buffer
        self._layouts[name] = shape, dtype
        array = self._arrays[name] = buffer.array(shape, dtype)
        return array

    def add(self, name, buffer, *, shape=None, dtype=np.uint8):
        """Account for a buffer that something else allocated.

        Parameters
        ----------
        name : str
        buffer : HugeBuffer
        shape : tuple of int, optional
            By default all its bytes.
        dtype : dtype
        """
        self._layouts[name] = (buffer.nbytes,) if shape is None else shape, dtype
        self._arrays.pop(name, None)
        self._owned[name] = buffer

    def note(self, name, array):
        """Account for an array in NumPy's own memory; an empty one is none.

        Parameters
        ----------
        name : str
        array : array
        """
        if array.size:
            self._noted[name] = array

    def report(self):
        """Return a dict for each buffer, in order of creation.

        Reads ``/proc/self/smaps``: milliseconds, not for loops.

        Returns
        -------
        list of dict
            ``name``, ``shape``, ``dtype``, ``bytes``; ``advice``: what came of asking for hugepages, ``"none"`` for
            NumPy's own memory; ``requested_page``, ``actual_page``: bytes of the pages asked for, and of those that
            most of it is in; ``resident_bytes``, ``hugepage_bytes``: how much of it is in memory, and in hugepages;
            ``numa_nodes``: bytes on each node, by its number. What the system does not tell is None, as is the actual
            page of what nobody has touched.
        """
        lines, ranges = [], []
        # Copies, and what is owned has a layout: another thread may be training.
        for name, buffer in list(self._owned.items()):
            shape, dtype = self._layouts[name]
            asked = buffer.advice not in ("off", "unsupported")
            lines.append(_line(name, shape, dtype, buffer.nbytes, buffer.advice, HUGEPAGE if asked else smaps.PAGE))
            ranges.append((buffer.address, buffer.address + buffer.mapped))
        for name, array in list(self._noted.items()):
            lines.append(_line(name, array.shape, array.dtype, array.nbytes, "none", smaps.PAGE))
            ranges.append((array.ctypes.data, array.ctypes.data + array.nbytes))
        found = smaps.mappings()
        if found is not None:
            for line, part in zip(lines, smaps.of_ranges(ranges, found, smaps.numa_nodes()), strict=True):
                line["resident_bytes"], line["hugepage_bytes"] = part.resident, part.huge
                line["actual_page"] = part.main_page
                line["numa_nodes"] = part.nodes or None
        return lines

    def require_hugepages(self):
        """Refuse buffers that are not in hugepages, of those that have been written to.

        Raises
        ------
        MemoryError
            One is not, or the system does not tell.
        """
        for line in self.report():
            if line["requested_page"] != HUGEPAGE:
                continue
            resident, huge = line["resident_bytes"], line["hugepage_bytes"]
            if huge is None:
                raise MemoryError("hugepages are required, and this system does not tell whether there are any")
            if huge < resident:
                raise MemoryError(
                    f"hugepages are required, and of the {resident:,} bytes of {line['name']!r} {huge:,} are in them; "
                    '`slide hugepages status` says what to change, hugepages = "auto" does without'
                )


def _line(name, shape, dtype, nbytes, advice, page):
    return {
        "name": name,
        "shape": tuple(int(extent) for extent in shape),
        "dtype": np.dtype(dtype).name,
        "bytes": nbytes,
        "advice": advice,
        "requested_page": page,
        "actual_page": None,
        "resident_bytes": None,
        "hugepage_bytes": None,
        "numa_nodes": None,
    }
