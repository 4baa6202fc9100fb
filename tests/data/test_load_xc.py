"""The text format of the extreme-classification repository: what is accepted, and what is refused with which
words."""

import functools
import gzip
import lzma
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from slide.data import DataError, Dataset, load, save_xc
from slide.data import text as text_formats
from slide.data.files import whole_lines

TEXT = "3 6 4\n0,2 1:0.5 4:-2\n 5:1e-3\n3\n"
X = np.array([[0, 0.5, 0, 0, -2, 0], [0, 0, 0, 0, 0, 1e-3], [0] * 6], dtype=np.float32)
Y = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float32)


def assert_same(dataset, X, Y):
    for matrix, expected in ((dataset.X, csr_matrix(X)), (dataset.Y, csr_matrix(Y))):
        assert matrix.shape == expected.shape
        assert matrix.dtype == np.float32
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(matrix, part), getattr(expected, part))


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip("\n"),
        TEXT + "\n \n\r\n\t\n",
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("3 6 4\n", " \t3   6\t4 \n"),
        TEXT.replace(" ", " \t  "),
        "3 6 4\n2,0,2 4:-2 1:0.25 1:0.25 \n\t5:.1E-02\t\n3 \n",
        "0003 6 4\n000,2 1:+0.5 4:-2.\n 5:1e-3\n3\n",
    ],
    ids=["plain", "no newline", "blank end", "crlf", "blank header", "blanks", "repeats", "spellings"],
)
def test_accepted_and_normalised(load_text, text):
    dataset = load_text(text)
    assert_same(dataset, X, Y)
    assert dataset.X.has_canonical_format and dataset.Y.has_canonical_format
    assert dataset.name == "data"


def test_rows_without_anything(load_text):
    assert_same(load_text("3 2 2\n\n \n1 1:1\n"), [[0, 0], [0, 0], [0, 1]], [[0, 0], [0, 0], [0, 1]])
    assert load_text("0 5 7\n").X.shape == (0, 5)
    assert load_text("1 0 0\n\n").n_labels == 0


def test_repeats_are_summed_in_double_precision(load_text):
    dataset = load_text("2 3 1\n 2:1 1:16777216 1:1 1:1\n0 0:5\n")
    assert dataset.X.toarray().tolist() == [[0, 16777218, 1], [5, 0, 0]]


def test_sizes_can_be_given(load_text):
    assert load_text(TEXT, n_features=10, n_labels=20).Y.shape == (3, 20)
    with pytest.raises(DataError, match=r"line 3: the feature id of '5:1e-3' is out of range.* below 5"):
        load_text(TEXT, n_features=5)
    for size in (0, 2**31):
        with pytest.raises(ValueError, match="n_features must be between"):
            load_text(TEXT, n_features=size)


@pytest.mark.parametrize(
    ("text", "line", "token", "expected"),
    [
        ("2 6 4\n0 1:1\n", 2, "after 1 samples", "header announces 2 samples: the file may be truncated"),
        ("2 6 4", 1, "after 0 samples", "may be truncated"),
        ("2000000000 2000000000 2000000000\n0 1:1\n", 2, "after 1 samples", "announces 2,000,000,000"),
        ("1 6 4\n0 1:1\n\n \n2 3:1\n", 5, "'2'", "header announces 1 samples"),
        ("1 6 4\n0 6:1\n", 2, "'6:1'", "below 6"),
        ("1 6 4\n0 99999999999999999999:1\n", 2, "'99999999999999999999:1'", "below 6"),
        ("2 6 4\n0 1:1\n1,4 1:1\n", 3, "'1,4'", "below 4"),
        ("1 6 4\n0 -1:1\n", 2, "negative", "count from 0"),
        ("1 6 4\n0,-1 1:1\n", 2, "'0,-1' is negative", "count from 0"),
        ("1 6 4\n0 1:nan\n", 2, "'1:nan' is not finite", "leave the feature out"),
        ("1 6 4\n0 1:-Inf\n", 2, "'1:-Inf' is not finite", "leave the feature out"),
        ("1 6 4\n0 1:1e39\n", 2, "'1:1e39' is too large for float32", "below 3.4e38"),
        ("1 6 4\n 1:3e38 2:1 1:3e38\n", 2, "repeated feature 1", "name the feature once"),
        ("1 6 4\n0 1:x\n", 2, "'1:x' is not a number", "12:0.5"),
        ("1 6 4\n0 1\n", 2, "'1' is not a feature", "feature:value"),
        ("1 6 4\n0; 1:1\n", 2, "'0;' is not a list of labels", "3,17"),
        ("1 6 4\n1:1 2:1\n", 2, "'1:1' stands where labels belong", "start the line .* with a space"),
        ("1 6 4\n0 qid:3 2:1\n", 2, "'qid:3' is a query id", "remove"),
        ("1 6 4\n0 1:1\x00\n", 2, "'1:1\\x00'", "12:0.5"),
        ("1 6 4\n\xff 1:1\n", 2, "'ÿ'", "3,17"),
        ("1 6 4\n0 1:" + 100 * "x" + "\n", 2, "1:" + 58 * "x" + "'...", "12:0.5"),
        ("1 6\n0 1:1\n", 1, "'1 6' is not a header", "samples features labels"),
        ("1 6 4 9\n0 1:1\n", 1, "'1 6 4 9' is not a header", "samples features labels"),
        ("1 six 4\n0 1:1\n", 1, "'1 six 4'", "samples features labels"),
        ("-1 6 4\n0 1:1\n", 1, "'-1 6 4'", "samples features labels"),
        ("\n1 6 4\n0 1:1\n", 1, "'' is not a header", "samples features labels"),
        ("1 2147483648 4\n0 1:1\n", 1, "'2147483648' in the header is too large", "2147483647"),
        ("1 6 " + 9999 * "9" + "\n0 1:1\n", 1, "in the header is too large", "2147483647"),
    ],
)
def test_refused_with_file_line_token_and_advice(load_text, text, line, token, expected):
    with pytest.raises(DataError) as refusal:
        load_text(text, format="xc")
    message = str(refusal.value)
    assert re.match(rf".*data\.txt, line {line}: ", message)
    assert token in message
    assert re.search(expected, message.partition("; ")[2])


def test_lines_are_counted_across_chunks(write, monkeypatch):
    lines = ["2000 50 9"] + [f"{i % 9} {i % 50}:{i}" for i in range(2000)]
    monkeypatch.setattr(text_formats, "whole_lines", functools.partial(whole_lines, chunk_bytes=64))
    dataset = load(write("\n".join(lines)), cache=False)
    np.testing.assert_array_equal(dataset.X.data, np.arange(2000))
    np.testing.assert_array_equal(dataset.Y.indices, np.arange(2000) % 9)
    lines[1234] = "0 50:1"
    with pytest.raises(DataError, match=r"line 1235: .*'50:1'"):
        load(write("\n".join(lines)), cache=False)
    lines[1234] = "0 7:1"
    for extra, quoted in (("8 1:1", "'8'"), ("\x0b 1:1", r"'\\x0b'"), ("\x0c", r"'\\x0c'")):
        with pytest.raises(DataError, match=f"line 2002: {quoted} comes after"):
            load(write("\n".join([*lines, extra])), cache=False)


def test_lines_longer_than_a_chunk(write):
    content = b"short\n" + 1000 * b"x" + b"\n" + b"end"
    path = write(content)
    for chunk_bytes in (1, 7, 16, 4096):
        with open(path, "rb") as file:
            chunks = [bytes(chunk) for chunk in whole_lines(file, path, chunk_bytes)]
        assert b"".join(chunks) == content
        assert all(chunk.endswith(b"\n") for chunk in chunks[:-1])


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_round_trip_keeps_every_bit(tmp_path, suffix):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=(40, 30), dtype=np.uint32)
    values = np.where(rng.random((40, 30)) < 0.5, bits.view(np.float32), 0)
    values[~np.isfinite(values)] = 0
    dataset = Dataset.from_arrays(values, rng.random((40, 20)) < 0.1)
    path = tmp_path / f"data.txt{suffix}"
    save_xc(path, dataset)
    assert_same(load(path, cache=False), dataset.X, dataset.Y)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


BLANK = st.text(" \t", min_size=1, max_size=3)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def noisy_files(draw):
    """A file in any allowed spelling, and the (label set, feature dict) of its samples."""
    n_features, n_labels = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    samples = draw(
        st.lists(
            st.tuples(
                st.sets(st.integers(0, n_labels - 1), max_size=4),
                st.dictionaries(st.integers(0, n_features - 1), FLOAT32, max_size=5),
            ),
            max_size=6,
        )
    )
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    lines = [draw(BLANK).join(map(str, (len(samples), n_features, n_labels)))]
    for labels, features in samples:
        ids = draw(
            st.permutations(
                sorted(labels)
                + draw(st.lists(st.sampled_from(sorted(labels)), max_size=2) if labels else st.just([]))
            )
        )
        entries = draw(st.permutations(list(features.items())))
        line = ",".join(map(str, ids)) + draw(BLANK)
        line += "".join(f"{feature}:{value!r}{draw(BLANK)}" for feature, value in entries)
        lines.append(line)
    text = newline.join(lines) + draw(st.sampled_from(["", newline, newline + newline]))
    if samples and samples[-1] == (set(), {}):
        text += newline
    return text, samples, n_features, n_labels


@given(noisy_files())
@settings(max_examples=60)
def test_noise_does_not_change_the_data(tmp_path_factory, noisy):
    text, samples, n_features, n_labels = noisy
    path = tmp_path_factory.mktemp("noisy") / "data.txt"
    path.write_bytes(text.encode())
    dataset = load(path, cache=False, format="xc")
    assert dataset.X.shape == (len(samples), n_features)
    assert dataset.Y.shape == (len(samples), n_labels)
    for row, (labels, features) in enumerate(samples):
        start, stop = dataset.X.indptr[row : row + 2]
        assert (
            dict(
                zip(dataset.X.indices[start:stop].tolist(), dataset.X.data[start:stop].tolist(), strict=True)
            )
            == features
        )
        start, stop = dataset.Y.indptr[row : row + 2]
        assert dataset.Y.indices[start:stop].tolist() == sorted(labels)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.text("0123456789:,.-+e \t\r\n#", max_size=300).map(str.encode),
        st.text("0123 :,\n", max_size=100).map(lambda text: b"2 3 3\n" + text.encode()),
    ),
    st.sampled_from([bytes, gzip.compress, lzma.compress]),
    st.sampled_from(["auto", "xc", "svmlight", "npz"]),
)
@settings(max_examples=150)
def test_any_bytes_load_or_are_refused(tmp_path_factory, content, pack, format):
    path = tmp_path_factory.mktemp("fuzz") / "data"
    path.write_bytes(pack(content))
    try:
        dataset = load(path, format=format, cache=False)
    except DataError as refusal:
        assert str(path) in str(refusal)
    else:
        dataset.X.check_format(full_check=True)
        dataset.Y.check_format(full_check=True)
