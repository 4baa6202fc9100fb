import pytest

from slide.data import load


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
