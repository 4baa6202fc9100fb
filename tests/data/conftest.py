import os
from pathlib import Path

import pytest

from slide.data import load


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """Keep the tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SLIDE_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def write(tmp_path):
    """Write text or bytes to a file and return its path."""

    def write(content, name="data.txt"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def load_text(write):
    """Load a file of this content, without the cache."""

    def load_text(content, name="data.txt", **options):
        return load(write(content, name), cache=False, **options)

    return load_text


@pytest.fixture(scope="session")
def real_data():
    """The folder of public data sets that are not part of the repository."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SLIDE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}; SLIDE_TEST_DATA names the one with the public data sets")
    return folder
