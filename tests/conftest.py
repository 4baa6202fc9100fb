import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]

# `python -m pytest` puts the current folder in front of sys.path. A source tree that was not built in
# place would from there hide the installed package, which is the one to test.
if not any((ROOT / "slide" / "kernels").glob("*" + EXTENSION_SUFFIXES[0])):
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """Keep the tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SLIDE_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def real_data():
    """The folder of public data sets that are not part of the repository."""
    folder = Path(os.environ.get("SLIDE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}; SLIDE_TEST_DATA names the one with the public data sets")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder; return its status, standard output and standard error.

    The machine has one core unless it says otherwise: batches as small as these gain nothing from more.
    """
    from slide import cli
    from slide.kernels import parallel

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "available_cpus", lambda: 1)

    def run(*arguments):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return run
