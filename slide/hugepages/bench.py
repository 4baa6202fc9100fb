"""Compares gather, scatter and stream over rows in 4 KiB and in 2 MiB pages."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from slide.hugepages.counters import Counters
from slide.hugepages.facts import HUGEPAGE
from slide.hugepages.probe import free_reserved
from slide.system import smaps

if TYPE_CHECKING:
    import numpy as np

    from slide.kernels.memory import HugeBuffer

ROW_BYTES = (64, 512, 3136)
"""Sizes of rows: a cache line; 128 weights; a row of 256 weights with both of Adam's moments."""

WORKING_SETS = (16 << 20, 128 << 20, 512 << 20)
"""Sizes of buffers: from what two levels of TLB cover with small pages, to far more."""

BYTES_MOVED = 32 << 20
"""Number of bytes that one measurement moves."""

MODES = {"off": "4 KiB", "auto": "2 MiB", "hugetlb": "2 MiB reserved"}
"""Kinds of pages, by the mode of `slide.kernels.memory.HugeBuffer` that asks for them."""


def bench(
    *,
    row_bytes: Sequence[int] = ROW_BYTES,
    working_sets: Sequence[int] = WORKING_SETS,
    rounds: int = 9,
    seed: int = 0,
) -> dict:
    """Measure every operation on every kind of pages, interleaved in each round; results are medians over the rounds.

    Parameters
    ----------
    row_bytes : sequence of int
        Sizes of rows, multiples of 4.
    working_sets : sequence of int
        Sizes of buffers in bytes. For each size there is one buffer for each kind of pages at a time.
    seed : int
        Seed of the random order of rows.

    Returns
    -------
    dict
        ``"results"``: a dict for each measurement, with the medians in seconds by mode, the speedups against 4 KiB
        pages, and events per row, if the processor counts them; ``"counters_missing"``: the reason for each event that
        is not counted.
    """
    from slide.kernels.memory import HugeBuffer
    from slide.kernels.pagebench import touch

    counters, results = Counters(), []
    for nbytes in working_sets:
        modes = [mode for mode in MODES if mode != "hugetlb" or free_reserved() * HUGEPAGE >= nbytes]
        buffers = {mode: HugeBuffer(nbytes, name=f"bench {mode}", hugepages=mode) for mode in modes}
        for buffer in buffers.values():
            touch(buffer)
        huge = _huge_shares(buffers)
        for size in row_bytes:
            results += [
                {"operation": operation, "row_bytes": size, "working_set": nbytes, "huge_share": huge, **measured}
                for operation, measured in _measure(buffers, size, rounds, seed, counters).items()
            ]
    counters.close()
    return {"rounds": rounds, "results": results, "counters_missing": counters.missing}


def _huge_shares(buffers: Mapping[str, HugeBuffer]) -> dict[str, float | None]:
    """Return the share of each buffer that is in hugepages; None if the system does not tell."""
    found = smaps.mappings()
    if found is None:
        return dict.fromkeys(buffers)
    parts = smaps.of_ranges([(b.address, b.address + b.mapped) for b in buffers.values()], found)
    shares = [part.huge / part.resident if part.resident else None for part in parts]
    return dict(zip(buffers, shares, strict=True))


def _measure(
    buffers: Mapping[str, HugeBuffer], row_bytes: int, rounds: int, seed: int, counters: Counters
) -> dict[str, dict]:
    import numpy as np

    from slide.kernels import pagebench

    dim = row_bytes // 4
    rows = {mode: buffer.array((buffer.nbytes // row_bytes, dim), np.float32) for mode, buffer in buffers.items()}
    n = len(next(iter(rows.values())))
    for array in rows.values():
        # Touching left bytes that are subnormal numbers, with which processors calculate slowly.
        array.fill(0.0)
    rng = np.random.default_rng(seed)
    order = rng.integers(0, n, max(1, BYTES_MOVED // row_bytes))
    vector = np.zeros(dim, np.float32)
    calls = {
        "gather": lambda array: pagebench.gather(array, order, vector),
        "scatter": lambda array: pagebench.scatter(array, order, vector),
        "stream": lambda array: pagebench.stream(array[: len(order)], vector),
    }
    counts = {"gather": len(order), "scatter": len(order), "stream": min(len(order), n)}
    return {name: _interleaved(calls[name], rows, counts[name], rounds, counters) for name in calls}


def _interleaved(
    call: Callable[[np.ndarray], object], rows: Mapping[str, np.ndarray], count: int, rounds: int, counters: Counters
) -> dict:
    times: dict[str, list[float]] = {mode: [] for mode in rows}
    events: dict[str, list[dict]] = {mode: [] for mode in rows}
    for number in range(rounds + 1):
        for mode, array in rows.items():
            with counters:
                start = time.perf_counter()
                call(array)
                seconds = time.perf_counter() - start
            if number:  # the first warms up
                times[mode].append(seconds)
                events[mode].append(counters.read())
    medians = {mode: statistics.median(values) for mode, values in times.items()}
    return {
        "rows": count,
        "seconds": medians,
        "speedup": {mode: medians["off"] / value for mode, value in medians.items()},
        "events_per_row": {
            mode: {name: statistics.median(one[name] for one in found) / count for name in found[0]}
            for mode, found in events.items()
        },
    }
