"""Archives and files that are not what they should be."""

import gzip
import lzma

import pytest

from slide.data import DataError, load
from slide.data.files import replacing

TEXT = b"2 6 4\n0,2 1:0.5 4:-2\n 5:1e-3\n"
MANY = b"2000 6 4\n" + b"".join(b"1 1:%d\n" % (i * i) for i in range(2000))


@pytest.mark.parametrize("name", ["data.txt", "data.txt.gz", "data.txt.xz", "data"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
def test_bytes_decide_not_the_suffix(load_text, pack, name):
    assert load_text(pack(TEXT), name).X.nnz == 3


def test_archives_in_several_parts(load_text):
    middle = len(MANY) // 2
    for pack in (gzip.compress, lzma.compress):
        assert load_text(pack(MANY[:middle]) + pack(MANY[middle:])).n_samples == 2000


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_truncated_archives(load_text, pack):
    packed = pack(MANY)
    for size in (7, 20, len(packed) // 2, len(packed) - 1):
        with pytest.raises(DataError, match=r"data\.txt: the archive (breaks off|is damaged) after"):
            load_text(packed[:size])


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_damaged_archives(load_text, pack):
    packed = bytearray(pack(MANY))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(DataError, match=r"data\.txt"):
        load_text(bytes(packed))
    packed = bytearray(pack(MANY))
    packed[-6 if pack is gzip.compress else -20] ^= 0xFF
    with pytest.raises(DataError, match=r"data\.txt: the archive is damaged"):
        load_text(bytes(packed))


def test_archives_that_start_like_none(load_text):
    with pytest.raises(DataError, match="named as a gzip archive but does not start like one"):
        load_text(b"\x00\x01\x02\x03", "data.txt.gz")


@pytest.mark.parametrize(
    "content", [b"", gzip.compress(b""), lzma.compress(b"")], ids=["plain", "gzip", "xz"]
)
def test_empty_files(load_text, content):
    with pytest.raises(DataError, match=r"data\.txt is empty"):
        load_text(content)


def test_missing_files_and_folders(tmp_path):
    for cache in (True, False):
        with pytest.raises(DataError, match=r"none\.txt: there is no such file"):
            load(tmp_path / "none.txt", cache=cache)
        with pytest.raises(DataError, match="is a folder"):
            load(tmp_path, cache=cache)


def test_zip_archives_hold_no_text(load_text):
    with pytest.raises(DataError, match="zip archive"):
        load_text(b"PK\x03\x04....", format="xc")


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("former")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "former"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert path.read_text() == "former"
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
