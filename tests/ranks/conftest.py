"""Programs on several ranks: each test writes what the ranks do, and mpiexec starts them."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import slide

HELPERS = Path(__file__).parent / "ranks.py"


def launcher():
    """Where mpiexec is: beside Python or in the path."""
    return shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def pytest_collection_modifyitems(items):
    missing = "mpi4py" if find_spec("mpi4py") is None else None if launcher() else "mpiexec"
    for item in items:
        if missing and {"mpiexec", "ranks"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.skip(reason=f"there is no {missing}: pip install 'slide-xc[mpi]' mpich"))


@pytest.fixture(scope="session")
def mpiexec(tmp_path_factory):
    """Run a program on n ranks, each on one thread; return the outcome, which is a success unless `check` is false."""

    def run(n, *arguments, check=True, seconds=60):
        folder = tmp_path_factory.mktemp("ranks")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "SLIDE_CACHE_DIR": str(folder / "cache")}
        environment["PYTHONPATH"] = str(Path(slide.__file__).parents[1])
        command = [launcher(), "-n", str(n), sys.executable, *map(str, arguments)]
        options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": seconds}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, **options)
        if check:
            assert done.returncode == 0, done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="session")
def ranks(mpiexec):
    """Run scenarios of ranks.py, by name, on n ranks; return what rank 0 found of each."""

    def run(n, scenarios):
        return json.loads(mpiexec(n, HELPERS, json.dumps(scenarios)).stdout)

    return run
