"""A rank that fails ends the job, which says which one it was and why."""

import sys

import pytest

PROGRAM = """
import os, signal, sys
import numpy as np
from mpi4py import MPI
from slide import Network, TrainingConfig
from slide.data import make_extreme

comm = MPI.COMM_WORLD
data, _ = make_extreme(90, 60, 30, test_samples=1, seed=3)
X = data.X.copy()
{before}
network = Network(60, 30, threads=1, comm=comm)
{after}
network.fit(X, data.Y, config=TrainingConfig(epochs=2, batch_size=32))
comm.Barrier()
"""

BAD_DATA = "if comm.Get_rank() == 1:\n    X.data[5] = np.nan"
BUG = "if comm.Get_rank() == 1:\n    raise KeyError('nothing of that name')"
KILLED = """
train = network.train_batch
def dies(*args, **options):
    if comm.Get_rank() == 1 and network.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(*args, **options)
network.train_batch = dies
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (BAD_DATA, "", "slide: rank 1 of 2 failed, the job ends: DataError: X, row"),
        ("", BUG, "slide: rank 1 of 2 failed, the job ends: KeyError: 'nothing of that name'"),
        ("", KILLED, ""),
    ],
    ids=["bad data", "a bug elsewhere", "killed"],
)
def test_the_others_do_not_wait(mpiexec, tmp_path, before, after, message):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(before=before, after=after))
    done = mpiexec(2, program, check=False, seconds=60)
    assert done.returncode
    assert message in done.stderr


def test_an_error_that_all_ranks_meet_is_told_once(mpiexec, tmp_path):
    done = mpiexec(2, "-m", "slide", "train", tmp_path / "nothing.txt", "--distributed", check=False)
    assert done.returncode
    assert done.stderr.count("slide: error:") == 1 and "nothing.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_mpi4py_the_extra_is_named(monkeypatch, run):
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    result = run("train", "--distributed")
    assert result.status == 1 and "pip install 'slide-xc[mpi]'" in result.err
