"""The cache: used while the source stays the same, and never in the way."""

import logging
import os
from pathlib import Path

import pytest

from slide.data import cache, load, readers

TEXT = "2 6 4\n0,2 1:0.5 4:-2\n 5:1e-3\n"


@pytest.fixture
def parses(monkeypatch):
    """A list that grows with every file parsed."""
    paths = []
    read_xc = readers.read_xc

    def counting(path, *sizes):
        paths.append(path)
        return read_xc(path, *sizes)

    monkeypatch.setattr(readers, "read_xc", counting)
    return paths


def test_parsed_once(write, parses, private_cache):
    path = write(TEXT)
    first, second = load(path), load(path)
    assert len(parses) == 1
    assert (first.X != second.X).nnz == (first.Y != second.Y).nnz == 0
    assert second.name == "data"
    assert len(list(private_cache.iterdir())) == 1


def test_changed_source_replaces_its_entry(write, parses, private_cache):
    path = write(TEXT)
    load(path)
    stat = path.stat()
    write(TEXT.replace("0.5", "0.7"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load(path).X.data[0] == pytest.approx(0.7)
    assert len(parses) == 2
    assert len(list(private_cache.iterdir())) == 1


def test_options_and_paths_have_their_own_entries(write, parses, private_cache):
    load(write(TEXT))
    assert load(write(TEXT), n_features=9).n_features == 9
    load(write(TEXT, "other.txt"))
    assert len(parses) == 3
    assert len(list(private_cache.iterdir())) == 3


def test_can_be_switched_off(write, parses, private_cache):
    path = write(TEXT)
    load(path, cache=False)
    load(path, cache=False)
    assert len(parses) == 2
    assert list(private_cache.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-30], lambda data: b"PK\x03\x04" + data[::-1]]
)
def test_damaged_entry_is_made_anew(write, parses, private_cache, caplog, damage):
    path = write(TEXT)
    load(path)
    (entry,) = private_cache.iterdir()
    content = entry.read_bytes()
    entry.write_bytes(damage(content))
    with caplog.at_level(logging.WARNING, logger="slide"):
        assert load(path).X.nnz == 3
    assert "cannot be used" in caplog.text
    load(path)
    assert len(parses) == 2


def test_unwritable_folder_is_only_logged(write, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, logger="slide"):
        assert load(write(TEXT), cache_dir=tmp_path / "file" / "cache").n_samples == 2
    assert "not cached" in caplog.text


def test_source_that_changes_while_read_is_not_kept(write, private_cache, monkeypatch, caplog):
    path = write(TEXT)
    read_xc = readers.read_xc

    def meddling(*arguments):
        dataset = read_xc(*arguments)
        write(TEXT + "\n")
        return dataset

    monkeypatch.setattr(readers, "read_xc", meddling)
    with caplog.at_level(logging.WARNING, logger="slide"):
        load(path)
    assert "changed while" in caplog.text
    assert list(private_cache.iterdir()) == []


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("SLIDE_CACHE_DIR", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache.default_folder() == Path("/a")
    monkeypatch.delenv("SLIDE_CACHE_DIR")
    assert cache.default_folder() == Path("/b/slide")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert cache.default_folder() == Path("/c/.cache/slide")


def test_no_home_no_cache(write, parses, monkeypatch):
    monkeypatch.setattr(readers, "default_folder", lambda: None)
    path = write(TEXT)
    load(path)
    load(path)
    assert len(parses) == 2
