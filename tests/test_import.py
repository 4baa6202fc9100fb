"""Importing the package is quick, because what takes time to import waits until it is asked for."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import slide

HEAVY = {"numpy", "scipy", "psutil", "tqdm", "threadpoolctl", "tomli_w"}
EXTRAS = {"sklearn", "matplotlib", "pandas", "torch", "mpi4py"}


def imported_by(statement, folder):
    """The names of all modules that a statement imports in a new process."""
    package = str(Path(slide.__file__).parents[1])
    program = f"import json, sys; sys.path.append({package!r}); {statement}; print(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def test_the_package_alone_imports_no_other(tmp_path):
    modules = imported_by("import slide", tmp_path)
    assert "slide" in modules
    assert not modules & (HEAVY | EXTRAS)
    assert not any(name.startswith("slide.") for name in modules)


def test_a_network_needs_no_extra_and_little_of_scipy(tmp_path):
    modules = imported_by("from slide import Network, TrainingConfig", tmp_path)
    assert "slide.network" in modules
    assert not modules & (EXTRAS | {"tqdm", "scipy.special", "slide.estimator"})


def test_what_analysers_see_is_what_there_is():
    stub = ast.parse(Path(slide.__file__).with_suffix(".pyi").read_text())
    seen = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    (names,) = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert sorted(seen) == sorted(ast.literal_eval(names)) == sorted(slide.__all__)
    assert sorted(name for names in slide._HOMES.values() for name in names) == sorted(slide.__all__)


@pytest.mark.parametrize("name", slide.__all__)
def test_public_names(name):
    assert getattr(slide, name) is not None
    assert name in dir(slide)


def test_modules_are_attributes():
    assert slide.data.load and slide.metrics.__name__ == "slide.metrics"
    with pytest.raises(AttributeError, match="has no attribute 'netwrok'"):
        slide.netwrok  # noqa: B018
