"""What ThreadSanitizer finds, where the kernels are built with it: ``python tools/sanitize.py tsan``."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import SEEDS, fast, hidden_of, runs_of, table_of

from slide.kernels import optim
from slide.kernels.grouping import PairGroups
from slide.kernels.sparse import SampleGradient

PROGRAM = """
import sys
import numpy as np
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import sgd, step_groups
from slide.kernels.rows import RowTable

n = 20_000
groups = PairGroups(n)
groups.group(np.arange(n, dtype=np.int32), np.array([0]), np.array([n]), n)
if sys.argv[1] == "broken":
    groups.rows_in_place[:] = 7  # every group is of one row, and so are those of the parts that threads take
for step in range(1, 20):
    step_groups(RowTable(n, 16), groups, np.ones(n, np.float32), np.ones((1, 16), np.float32), None, sgd(0.1, step), 4)
print("done")
"""


@pytest.mark.skipif("libtsan" not in os.environ.get("LD_PRELOAD", ""), reason="the kernels are not built for it")
@pytest.mark.parametrize(("grouping", "status"), [("sound", 0), ("broken", 66)])
def test_two_groups_of_one_row_are_a_race(tmp_path, grouping, status):
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
    command = [sys.executable, "-c", PROGRAM, grouping]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert ("done" in done.stdout) == (status == 0)
    assert ("data race" in done.stderr) == (status != 0)


@fast
@given(SEEDS, st.integers(1, 300), st.integers(1, 12), st.sampled_from(["sgd", "adam", "adagrad"]), st.integers(2, 4))
def test_grouped_steps_on_several_threads(seed, n_rows, samples, name, threads):
    """As on one thread, to the bit; and a sanitizer that watches sees no race."""
    rng = np.random.default_rng(seed)
    ids, begin, end = runs_of(rng, samples, n_rows, 400)
    groups, coefficients = PairGroups(len(ids)), rng.normal(size=len(ids)).astype(np.float32)
    groups.group(ids, begin, end, n_rows, threads)
    rule = {
        "sgd": optim.sgd(0.1, 2),
        "adam": optim.adam(0.1, 0.9, 0.99, 1e-3, 2),
        "adagrad": optim.adagrad(0.1, 1e-3, 2),
    }[name]
    results = []
    for count in (threads, 1):
        table = table_of(np.random.default_rng(seed), n_rows, 33, moments=2 * (name == "adam"), accumulates=True)
        hidden, total = hidden_of(np.random.default_rng(seed + 1), samples, table), np.zeros((samples, 48), np.float32)
        gradient = SampleGradient(samples, 48, hugepages=False)
        optim.step_groups(table, groups, coefficients, hidden, gradient, rule, count)
        gradient.sum_into(total, None, count)
        results.append((np.frombuffer(table.buffer, np.uint8), total))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])
