"""svmlight text: comments, ways of counting, and what only this format refuses."""

import numpy as np
import pytest
from sklearn.datasets import dump_svmlight_file

from slide.data import DataError, load

TEXT = "# made by hand\n0,2 1:0.5 4:-2 # first\n\n 3:1\n1\n"


def test_comments_and_blank_lines_are_no_points(load_text):
    dataset = load_text(TEXT, zero_based=True)
    assert dataset.X.toarray().tolist() == [[0, 0.5, 0, 0, -2], [0, 0, 0, 1, 0], [0] * 5]
    assert dataset.Y.toarray().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_counting_from_one(load_text):
    for zero_based in (False, "auto"):
        dataset = load_text(TEXT, zero_based=zero_based)
        assert dataset.X.toarray().tolist() == [[0.5, 0, 0, -2], [0, 0, 1, 0], [0] * 4]
        assert dataset.Y.shape == (3, 3)
    assert load_text("0 0:1 4:2\n").n_features == 5
    assert load_text("0 4:2\n", n_features=4, n_labels=7).Y.shape == (1, 7)


def test_nothing_but_labels(load_text):
    for zero_based in (True, False, "auto"):
        dataset = load_text("0\n3\n", format="svmlight", zero_based=zero_based)
        assert (dataset.X.shape, dataset.Y.shape) == ((2, 0), (2, 4))
    assert load_text("# nothing\n").n_samples == 0


def test_same_as_scikit_learn_wrote(tmp_path):
    rng = np.random.default_rng(0)
    X = np.where(rng.random((50, 20)) < 0.3, rng.standard_normal((50, 20)), 0).astype(np.float32)
    Y = rng.random((50, 8)) < 0.2
    for zero_based in (True, False):
        path = tmp_path / "data.svm"
        dump_svmlight_file(X, Y.astype(int), str(path), zero_based=zero_based, multilabel=True, comment="a")
        dataset = load(path, zero_based=zero_based, n_features=20, n_labels=8, cache=False)
        np.testing.assert_array_equal(dataset.X.toarray(), X)
        np.testing.assert_array_equal(dataset.Y.toarray(), Y)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("0 1:1\n# x\n1 qid:2 1:1\n", {}, "line 3: 'qid:2' is a query id; .*remove"),
        ("0 1:1\n1 0:1\n", {"zero_based": False}, "line 2: the feature id of '0:1' .*at least 1"),
        ("0 1:1\n1 5:1\n", {"n_features": 4}, "line 2: the feature id of '5:1' .*below 5"),
        ("0 1:1\n1 4:1\n2 0:1\n", {"n_features": 4}, "line 2: the feature id of '4:1' .*below 4"),
        (
            "0 1:1\n1 4:1\n",
            {"n_features": 4, "zero_based": True},
            "line 2: the feature id of '4:1' .*below 4",
        ),
        ("0 1:1\n7 4:1\n", {"n_labels": 7}, "line 2: a label id in '7' .*below 7"),
        ("0 1:1\n7 4294967297:1\n", {}, "line 2: the feature id of '4294967297:1' is out of range"),
        ("+1 1:1\n", {}, "line 1: '\\+1' is not a list of labels"),
        ("-1 1:1\n", {}, "line 1: a label id in '-1' is negative"),
    ],
)
def test_refused(load_text, text, options, message):
    with pytest.raises(DataError, match=r"data\.txt, " + message):
        load_text(text, **options)


def test_format_is_found_out(load_text):
    assert load_text("0 1:1\n").n_samples == 1
    assert load_text("0\n1\n", name="data.libsvm").n_samples == 2
    assert load_text("0\n1\n", name="data.svm.txt", format="svmlight").n_samples == 2
    assert load_text("1 2 3\n0 1:1\n").X.shape == (1, 2)
    for option in ({"format": "csv"}, {"zero_based": "maybe"}):
        with pytest.raises(ValueError, match="must be"):
            load_text("1 2 3\n0 1:1\n", **option)
