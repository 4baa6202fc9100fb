"""Named large arrays with one owner, and the report about their memory."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from slide.kernels.memory import HUGEPAGE, HugeBuffer
from slide.system import smaps


class Buffers:
    """Large arrays by name, each in a `HugeBuffer` of its own that grows when a larger array is asked for.

    Parameters
    ----------
    hugepages : bool or str
        Kind of pages to ask the kernel for; see `slide.kernels.memory.HugeBuffer`.
    """

    def __init__(self, *, hugepages: bool | str = True):
        self.hugepages = hugepages
        self._owned: dict[str, HugeBuffer] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._layouts: dict[str, tuple[tuple[int, ...], DTypeLike]] = {}
        self._noted: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, *, interleave: bool = False) -> np.ndarray:
        """Return a C-contiguous array, in the memory that the last array of this name had if that is large enough.

        New memory is zero, and spread over the NUMA nodes if `interleave` is true. Used memory keeps its contents.
        """
        last = self._arrays.get(name)
        if last is not None and last.shape == shape and last.dtype == dtype:
            return last
        nbytes = math.prod(map(int, shape)) * np.dtype(dtype).itemsize
        buffer = self._owned.get(name)
        if buffer is None or buffer.nbytes < nbytes:
            # A buffer grows by an eighth more than it must, so that slowly growing batches do not allocate each time.
            room = nbytes if buffer is None else nbytes + nbytes // 8
            buffer = HugeBuffer(room, name=name, hugepages=self.hugepages, interleave=interleave)
            # The layout comes first: another thread may call `report`, which needs one for each buffer.
            self._layouts[name] = shape, dtype
            self._owned[name] = buffer
        self._layouts[name] = shape, dtype
        array = self._arrays[name] = buffer.array(shape, dtype)
        return array

    def add(
        self, name: str, buffer: HugeBuffer, *, shape: tuple[int, ...] | None = None, dtype: DTypeLike = np.uint8
    ) -> None:
        """Report a buffer that other code allocated; by default its shape is that of all its bytes."""
        self._layouts[name] = (buffer.nbytes,) if shape is None else shape, dtype
        self._arrays.pop(name, None)
        self._owned[name] = buffer

    def note(self, name: str, array: np.ndarray) -> None:
        """Report an array in NumPy's own memory, unless it is empty."""
        if array.size:
            self._noted[name] = array

    def report(self) -> list[dict]:
        """Return a dict for each buffer, in order of creation.

        This reads ``/proc/self/smaps``, which takes milliseconds, so it is not for loops.

        Returns
        -------
        list of dict
            ``name``, ``shape``, ``dtype``, ``bytes``;
            ``advice``: the kernel's answer to the request for hugepages, ``"none"`` for NumPy's own memory;
            ``requested_page``, ``actual_page``: bytes of the pages asked for, and of the pages that most of it is in;
            ``resident_bytes``, ``hugepage_bytes``: how much of it is in memory, and in hugepages;
            ``numa_nodes``: bytes on each node, by its number.
            A value that the system does not tell is None, and so is the actual page of memory that was never touched.
        """
        lines: list[dict] = []
        ranges: list[tuple[int, int]] = []
        # The loops go over copies, because another thread may be training.
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

    def require_hugepages(self) -> None:
        """Raise MemoryError if memory that has been written to is not in hugepages, or the system does not tell."""
        for line in self.report():
            if line["requested_page"] != HUGEPAGE:
                continue
            resident, huge = line["resident_bytes"], line["hugepage_bytes"]
            if huge is None:
                raise MemoryError(
                    "hugepages are required, and this system does not tell whether buffers are in them; "
                    'choose hugepages = "auto"'
                )
            if huge < resident:
                raise MemoryError(
                    f"hugepages are required, but only {huge:,} of the {resident:,} bytes of {line['name']!r} are in "
                    'them; `slide hugepages status` says what to change, and hugepages = "auto" does without them'
                )


def _line(name: str, shape: tuple[int, ...], dtype: DTypeLike, nbytes: int, advice: str, page: int) -> dict:
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
