"""How a kernel is timed against its twin."""

import os
import time

import numpy as np
import pytest

from slide.system.blas import one_blas_thread

SECONDS = float(os.environ.get("SLIDE_BENCH_SECONDS", "3"))
"""What a comparison may take."""
FEWEST, MOST = 5, 100


@pytest.fixture
def against(benchmark):
    """Time two functions in turns, on one thread; the benchmark is of the first.

    ``extra_info`` has the second one's median, the ratio of the two medians, and how far a quarter of the rounds' own
    ratios is above it at least. What disturbs the machine for longer than a round disturbs both.
    """

    def against(ours, twin, seconds=SECONDS):
        theirs = []

        def time_twin():
            theirs.append(timed(twin))

        with one_blas_thread():
            ours(), twin()
            rounds = int(np.clip(seconds / (timed(ours) + timed(twin)), FEWEST, MOST))
            benchmark.pedantic(ours, setup=time_twin, rounds=rounds)
        if benchmark.disabled:
            return
        mine, theirs = np.array(benchmark.stats.stats.data), np.array(theirs)
        ratio = float(np.median(mine) / np.median(theirs))
        spread = float(np.quantile(mine / theirs, 0.75)) - ratio
        benchmark.extra_info.update(twin_ms=1e3 * float(np.median(theirs)), ratio=ratio, spread=spread)

    return against


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
