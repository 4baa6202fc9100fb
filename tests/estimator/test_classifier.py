"""SlideClassifier, with scikit-learn or without it."""

import copy
import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import psutil
import pytest
from scipy.sparse import coo_array, csr_array, csr_matrix
from scipy.special import expit

from slide import ConfigError, HiddenConfig, Network, NetworkConfig, RunConfig, SlideClassifier, TrainingConfig
from slide.data import DataError, make_extreme
from slide.estimator import DataConversionWarning, NotFittedError
from slide.persist.checks import CheckpointError

N_LABELS = 30
OLD = 20
"""Labels that training begins with, where others follow."""


@pytest.fixture(scope="module")
def single():
    """Samples with one label each, as numbers; test samples have labels of the training set alone."""
    train, test = make_extreme(600, 400, N_LABELS, labels_per_sample=1, zipf=0.3, noise=0.2, seed=1, test_samples=200)
    return train.X, train.Y.indices.copy(), test.X, test.Y.indices.copy()


@pytest.fixture(scope="module")
def several():
    """Samples with several labels each, as an indicator matrix."""
    train, test = make_extreme(600, 150, N_LABELS, labels_per_sample=2, noise=0.1, seed=2, test_samples=200)
    return train.X, train.Y, test.X, test.Y


def small(**params):
    return SlideClassifier(**({"hidden_units": 32, "epochs": 5, "batch_size": 32, "n_jobs": 1} | params))


def names_of(Y):
    """Each sample's labels as words."""
    return [{f"label {column}" for column in row} for row in np.split(Y.indices, Y.indptr[1:-1])]


def weights_of(classifier):
    return classifier.network_.copy_weights()


def assert_same_weights(one, other):
    for name, array in weights_of(one).items():
        np.testing.assert_array_equal(weights_of(other)[name], array, err_msg=name)


@pytest.mark.parametrize("loss", [None, "bce", "softmax"])
def test_one_label_a_point(single, loss):
    X, y, X_test, y_test = single
    classifier = small(loss=loss).fit(X, y)
    np.testing.assert_array_equal(classifier.classes_, np.unique(y))
    assert classifier.n_features_in_ == X.shape[1]
    predicted = classifier.predict(X_test)
    assert predicted.dtype == y.dtype
    assert classifier.score(X_test, y_test) == np.mean(predicted == y_test) > 0.9
    p = classifier.predict_proba(X_test)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(classifier.classes_[p.argmax(axis=1)], predicted)
    np.testing.assert_array_equal(classifier.decision_function(X_test).argmax(axis=1), p.argmax(axis=1))


@pytest.mark.parametrize("spelled", [np.array, lambda y: np.array(y, object), list], ids=["str", "object", "list"])
def test_strings_are_labels(single, spelled):
    X, y, X_test, _ = single
    words = [f"label {label:02}" for label in y]
    classifier = small().fit(X, spelled(words))
    assert list(classifier.classes_) == sorted(set(words))
    numbers = small().fit(X, y).predict(X_test)
    assert classifier.predict(X_test).tolist() == [f"label {label:02}" for label in numbers]


@pytest.mark.parametrize("loss", [None, "softmax"])
def test_forms_of_several_labels_agree(several, loss):
    X, Y, X_test, Y_test = several
    sparse = small(loss=loss).fit(X, Y)
    dense = small(loss=loss).fit(X, Y.toarray().astype(np.int16))
    nested = small(loss=loss).fit(X, Y.toarray().astype(int).tolist())
    predicted = sparse.predict(X_test)
    assert isinstance(predicted, csr_matrix)
    assert predicted.nnz > 0
    assert dense.predict(X_test).dtype == np.int16
    for other in (dense, nested):
        assert_same_weights(sparse, other)
        np.testing.assert_array_equal(other.predict(X_test), predicted.toarray())
        assert other.score(X_test, Y_test) == sparse.score(X_test, Y_test) > 0.8
    p = sparse.predict_proba(X_test)
    share = 1 if loss is None else Y.nnz / Y.shape[0]
    np.testing.assert_array_equal(predicted.toarray(), p * share > 0.5)
    if loss is None:
        np.testing.assert_allclose(p, expit(sparse.decision_function(X_test)), rtol=1e-5)
    else:
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", [set, list, tuple, lambda names: np.array(sorted(names))])
@pytest.mark.parametrize("outer", [list, "object array"])
def test_collections_of_labels(several, kind, outer):
    X, Y, X_test, Y_test = several
    samples = [kind(names) for names in names_of(Y)]
    if outer == "object array":
        samples, given = np.empty(len(samples), object), samples
        samples[:] = given
    classifier = small().fit(X, samples)
    assert list(classifier.classes_) == sorted(set().union(*names_of(Y)))
    predicted = classifier.predict(X_test)
    p = classifier.predict_proba(X_test)
    assert [set(names) for names in predicted] == [set(classifier.classes_[row > 0.5]) for row in p]
    assert classifier.score(X_test, names_of(Y_test)) > 0.8


def test_more_labels_above_the_threshold_than_are_looked_at_first(several):
    X, Y, X_test, _ = several
    classifier = small(threshold=0.0).fit(X, Y)
    assert (classifier.predict(X_test).toarray() == 1).all()


@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize("form", ["single", "several"])
def test_topk_are_the_best_of_all(request, loss, form):
    X, y, X_test, _ = request.getfixturevalue(form)
    classifier = small(loss=loss).fit(X, y)
    labels, scores = classifier.predict_topk(X_test, 4)
    p = classifier.predict_proba(X_test)
    best = np.argsort(-p, axis=1, kind="stable")[:, :4]
    np.testing.assert_allclose(scores, np.take_along_axis(p, best, axis=1), rtol=1e-4)
    column = np.searchsorted(classifier.classes_, labels)
    np.testing.assert_allclose(np.take_along_axis(p, column, axis=1), scores, rtol=1e-4)
    assert classifier.predict_topk(X_test, 1000)[0].shape == (X_test.shape[0], len(classifier.classes_))


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_two_labels_have_one_decision(single, loss):
    X, y, X_test, _ = single
    classifier = small(loss=loss).fit(X, y < 10)
    decision, p = classifier.decision_function(X_test), classifier.predict_proba(X_test)
    assert decision.shape == (X_test.shape[0],)
    np.testing.assert_allclose(expit(decision), p[:, 1], rtol=1e-4)
    np.testing.assert_array_equal(classifier.predict(X_test), decision > 0)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_one_label_is_always_right(single, loss):
    X, y, X_test, _ = single
    classifier = small(loss=loss).fit(X, np.full(len(y), "only"))
    assert set(classifier.predict(X_test)) == {"only"}
    np.testing.assert_allclose(classifier.predict_proba(X_test), 1)


@pytest.mark.parametrize("container", [csr_array, coo_array, lambda X: X.toarray(), lambda X: X.toarray().tolist()])
def test_any_table_of_features(single, container):
    X, y, X_test, _ = single
    other = small().fit(container(X), y)
    assert_same_weights(small().fit(X, y), other)
    np.testing.assert_array_equal(other.predict(container(X_test)), other.predict(X_test))


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_labels_never_seen_before_are_learnt(single, loss):
    X, y, X_test, y_test = single
    # Words, of which the new ones stand between the old ones.
    y, y_test = (np.array([f"{label % 7} of {label}" for label in ids], object) for ids in (y, y_test))
    number = {word: int(word.split()[-1]) for word in np.unique(np.append(y, y_test))}
    old, old_test = (np.array([number[word] < OLD for word in words]) for words in (y, y_test))
    classifier = small(loss=loss).fit(X[old], y[old])

    def quality():
        return [classifier.score(X_test[at], y_test[at]) for at in (old_test, ~old_test)]

    before = quality()
    assert before[0] > 0.9
    assert before[1] == 0
    for _ in range(3):
        classifier.partial_fit(X, y)
    after = quality()
    assert after[1] > 0.9, after
    assert after[0] > before[0] - 0.02, after
    assert list(classifier.classes_) == sorted(set(y))
    p = classifier.predict_proba(X_test)
    np.testing.assert_array_equal(classifier.classes_[p.argmax(axis=1)], classifier.predict(X_test))
    np.testing.assert_array_equal(classifier.decision_function(X_test).argmax(axis=1), p.argmax(axis=1))


def test_labels_named_beforehand(single):
    X, y, X_test, y_test = single
    named = small().partial_fit(X[:50], y[:50], classes=np.arange(40))
    np.testing.assert_array_equal(named.classes_, np.arange(40))
    network = named.network_.output
    named.partial_fit(X, y)
    assert named.network_.output is network
    for _ in range(4):
        named.partial_fit(X, y)
    assert named.score(X_test, y_test) > 0.9
    assert named.history_.batches == -(-X.shape[0] // 32)


def test_several_labels_may_come_in_any_form(several):
    X, Y, X_test, Y_test = several
    names = [set(row) for row in np.split(Y.indices, Y.indptr[1:-1])]
    sparse = small().partial_fit(X, Y).partial_fit(X, Y)
    mixed = small().partial_fit(X, Y).partial_fit(X, names)
    assert_same_weights(sparse, mixed)
    wider = csr_matrix((Y.data, Y.indices + 5, Y.indptr), shape=(Y.shape[0], N_LABELS + 5))
    mixed.partial_fit(X, wider)
    assert mixed.predict(X_test).shape == (X_test.shape[0], N_LABELS + 5)
    assert sparse.score(X_test, Y_test) > 0.5


def test_form_of_partial_fit_stays(single, several):
    one = small().partial_fit(single[0], single[1])
    with pytest.raises(DataError, match="one label per sample, but this y has several labels per sample"):
        one.partial_fit(single[0], several[1])
    with pytest.raises(DataError, match="the labels so far are numbers, those of this y are strings"):
        one.partial_fit(single[0], single[1].astype(str))
    with pytest.raises(DataError, match="several labels per sample, but this y has one label per sample"):
        small().partial_fit(single[0], several[1]).partial_fit(single[0], single[1])


def test_threads_and_seeds(single):
    X, y, _, _ = single
    first = small(random_state=3).fit(X, y)
    for n_jobs in (np.int64(2), -1, -100):
        assert_same_weights(first, small(random_state=3, n_jobs=n_jobs).fit(X, y))
    assert_same_weights(small().fit(X, y), small(random_state=0).fit(X, y))
    drawn = [small(random_state=kind(5)).fit(X, y) for kind in (np.random.RandomState, np.random.default_rng)]
    for other in (*drawn, small(random_state=4).fit(X, y)):
        assert (weights_of(first)["output.weights"] != weights_of(other)["output.weights"]).any()
    with pytest.raises(ValueError, match="n_jobs must not be 0"):
        small(n_jobs=0).fit(X, y)


def test_parameters_come_before_the_configuration(single):
    X, y, _, _ = single
    hidden = HiddenConfig(16, "linear", dropout=0.0)
    config = RunConfig(NetworkConfig(hidden=hidden, seed=7), TrainingConfig(epochs=2, holdout=0.1))
    classifier = SlideClassifier(config=config, n_jobs=1).fit(X, y)
    assert classifier.network_.config == config.network
    assert len(classifier.history_.epochs) == 2
    assert classifier.history_.epochs[-1].quality
    given = {"epochs": np.int64(3), "lr": np.float64(0.01), "dropout": 0.1, "loss": "softmax", "normalize": False}
    classifier.set_params(hidden_units=(8, 24), feature_weights="idf", candidates="full", batch_size=64, **given)
    classifier.fit(X, y)
    network = classifier.network_.config
    assert [(layer.units, layer.activation, layer.dropout) for layer in network.hidden] == [
        (8, "linear", 0.1),
        (24, "linear", 0.1),
    ]
    assert (network.output.loss, network.output.candidates, network.optimizer.lr) == ("softmax", "full", 0.01)
    assert (network.normalize, network.feature_weights, network.seed) == (False, "idf", 7)
    assert len(classifier.history_.epochs) == 3


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"epochs": 0}, r"TrainingConfig.epochs must be an integer from 1"),
        ({"loss": "hinge"}, "OutputConfig.loss must be one of 'softmax', 'bce'"),
        ({"hidden_units": (0,)}, "HiddenConfig.units"),
        ({"random_state": -1}, "NetworkConfig.seed"),
        ({"config": NetworkConfig()}, "config must be a slide.RunConfig, got NetworkConfig"),
    ],
)
def test_wrong_parameters_are_refused(single, params, expected):
    with pytest.raises(ConfigError, match=expected):
        small(**params).fit(single[0], single[1])


def test_wrong_threshold_is_refused(several):
    classifier = small(threshold=1.5).fit(several[0], several[1])
    with pytest.raises(ConfigError, match=r"threshold must be a number from 0 to below 1, got 1\.5"):
        classifier.predict(several[2])


X3, Y3 = np.eye(3), [0, 1, 2]


@pytest.mark.parametrize(
    ("X", "y", "expected"),
    [
        (X3, None, "requires y to be passed"),
        (X3, [0, 1], "X has 3 samples, y has the labels of 2"),
        (X3[0], Y3, "Reshape your data"),
        (X3[:0], [], "0 sample"),
        (X3[:, :0], Y3, r"0 feature\(s\)"),
        (X3 * np.nan, Y3, "NaN"),
        (X3 * 1j, Y3, "Complex data"),
        (X3, [0.5, 1, 2], "continuous"),
        (X3, [np.nan, 1, 2], "NaN"),
        (X3, [None, "a", "b"], "all strings or all numbers; y has NoneType, str"),
        (X3, [{"a"}, {1}, set()], "all strings or all numbers"),
        (X3, [{"a"}, "b", "c"], "mixes samples that have a collection"),
        (X3, [[["a"]], ["b"], ["c"]], "itself a collection"),
        (X3, np.array(Y3, "M8[s]"), "strings or numbers, got datetime64"),
        (X3, np.full((3, 2), "a"), "matrix of 0 and 1"),
        (X3, X3 * 2, "multiclass-multioutput"),
        (X3, csr_matrix((3, 0)), "without columns"),
        (X3, np.zeros((3, 2, 2)), "got an array of shape"),
        (X3, [set(), set(), set()], "no training sample has a label"),
    ],
)
def test_wrong_data_is_refused(X, y, expected):
    with pytest.raises(DataError, match=expected):
        small().fit(X, y)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="string or a real number"):
        small().fit(np.array([[{}, 1], [1, 2]], object), [0, 1])


def test_column_of_labels_warns():
    with pytest.warns(DataConversionWarning, match="column-vector"):
        small().fit(X3, np.array(Y3)[:, np.newaxis])


def test_points_without_labels(several):
    X, Y, X_test, _ = several
    names = names_of(Y)
    names[0], names[5] = set(), set()
    classifier = small().fit(X, names)
    assert classifier.score(X_test[:4], [set()] * 4) == 0
    assert classifier.score(X_test[:2], [{"nobody knows"}] * 2) == 0


def test_score_weighs(single):
    X, y, X_test, y_test = single
    classifier = small(epochs=1).fit(X, y)
    hits = classifier.predict(X_test) == y_test
    assert classifier.score(X_test, y_test, sample_weight=hits * 1.0) == 1


def test_weights_of_samples_are_refused(single):
    for train in (small().fit, small().partial_fit):
        with pytest.raises(TypeError, match="does not weigh samples"):
            train(single[0], single[1], sample_weight=np.ones(len(single[1])))
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            train(single[0], single[1], colour=1)


def test_nothing_before_fit(single):
    for name in ("predict", "predict_proba", "predict_topk", "decision_function"):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            getattr(small(), name)(single[2])
    with pytest.raises(NotFittedError):
        small().save("nowhere")


def test_number_of_features_is_checked(single):
    classifier = small().fit(single[0], single[1])
    for call in (classifier.predict, classifier.predict_proba, lambda X: classifier.partial_fit(X, [0, 1])):
        with pytest.raises(DataError, match="X has 3 features, but SlideClassifier is expecting 400"):
            call(np.ones((2, 3)))


class Frame:
    """What the classifier looks at in a data frame."""

    def __init__(self, values, columns):
        self.values, self.columns, self.shape = np.asarray(values), columns, np.shape(values)

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_names_of_features():
    frame = Frame(X3, ["a", "b", "c"])
    classifier = small().fit(frame, Y3)
    assert classifier.feature_names_in_.tolist() == ["a", "b", "c"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.predict(frame)
    with pytest.raises(DataError, match="same order as they were in fit"):
        classifier.predict(Frame(X3, ["b", "a", "c"]))
    with pytest.raises(DataError, match=r"unseen at fit time:\n- d\n.*seen at fit time, yet now missing:\n- c"):
        classifier.predict(Frame(X3, ["a", "b", "d"]))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        classifier.predict(X3)
    classifier.fit(X3, Y3)
    assert not hasattr(classifier, "feature_names_in_")
    with pytest.warns(UserWarning, match="was fitted without feature names"):
        classifier.predict(frame)
    with pytest.raises(TypeError, match="mixes strings"):
        classifier.fit(Frame(X3, ["a", 1, 2]), Y3)


def test_names_of_labels_are_the_columns_of_a_frame():
    classifier = small().fit(X3, Frame(X3, ["z", "y", "x"]))
    assert classifier.classes_.tolist() == ["z", "y", "x"]
    labels, _ = classifier.predict_topk(X3, 1)
    assert labels.dtype.kind == "U"


def test_pandas_frames(single):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y, X_test, _ = single
    frame = pandas.DataFrame.sparse.from_spmatrix(X, columns=[f"f{i}" for i in range(X.shape[1])])
    dense = frame.sparse.to_dense()
    sparse = small().fit(frame, pandas.Series(y).astype("category"))
    assert_same_weights(small().fit(X, y), sparse)
    assert_same_weights(small().fit(dense, pandas.Series(y)), sparse)
    names = pandas.Series([{label, label + 1} for label in y.tolist()])
    assert small().fit(frame, names).predict_topk(frame.iloc[:3], 2)[0].shape == (3, 2)
    with pytest.warns(UserWarning, match="valid feature names"):
        sparse.predict(X_test)


@pytest.mark.parametrize("copied", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy])
def test_copies_go_on_alike(single, copied):
    X, y, X_test, _ = single
    classifier = small().fit(X, y)
    other = copied(classifier)
    np.testing.assert_array_equal(other.predict_proba(X_test), classifier.predict_proba(X_test))
    assert_same_weights(classifier.partial_fit(X, y + 3), other.partial_fit(X, y + 3))


@pytest.mark.parametrize("moments", [False, True])
def test_saved_and_loaded(several, tmp_path, moments):
    X, Y, X_test, _ = several
    config = RunConfig(NetworkConfig(hidden=HiddenConfig(24), seed=5))
    classifier = small(config=config, hidden_units=np.int64(20), random_state=np.random.RandomState(0), threshold=0.3)
    classifier.fit(X, names_of(Y))
    classifier.save(tmp_path / "model", moments=moments)
    loaded = SlideClassifier.load(tmp_path / "model", n_jobs=1)
    assert loaded.predict(X_test) == classifier.predict(X_test)
    np.testing.assert_array_equal(loaded.classes_, classifier.classes_)
    changed = {"random_state": None, "hidden_units": [20]}
    assert loaded.get_params() == classifier.get_params() | changed
    assert Network.load(tmp_path / "model").n_labels == len(classifier.classes_)
    if moments:
        assert_same_weights(classifier.partial_fit(X, names_of(Y)), loaded.partial_fit(X, names_of(Y)))
    else:
        with pytest.raises(RuntimeError, match="can only predict"):
            loaded.partial_fit(X, [{"new"}] * X.shape[0])
        with pytest.raises(ValueError, match="loaded without the optimizer's moments"):
            loaded.save(tmp_path / "again", moments=True)


@pytest.mark.parametrize("y", [["b", "a", "c"], [2, 0, 5], [True, False, True], X3, csr_matrix(X3)])
def test_saved_labels_keep_their_type(tmp_path, y):
    classifier = small().fit(X3, y)
    classifier.save(tmp_path / "model")
    loaded = SlideClassifier.load(tmp_path / "model")
    assert loaded.classes_.dtype == classifier.classes_.dtype
    assert type(loaded.predict(X3)) is type(classifier.predict(X3))
    assert loaded.predict(X3).dtype == classifier.predict(X3).dtype


def test_saved_names_of_features(tmp_path):
    small().fit(Frame(X3, ["a", "b", "c"]), Y3).save(tmp_path / "model")
    loaded = SlideClassifier.load(tmp_path / "model")
    assert loaded.feature_names_in_.tolist() == ["a", "b", "c"]
    assert loaded.n_features_in_ == 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a.update(format="other"), "format 'other'"),
        (lambda a: a.update(version=99), "version 99"),
        (lambda a: a.pop("labels"), "KeyError: 'labels'"),
        (lambda a: a["labels"].update(labels=[0, 1]), "2 labels, but the network has 3"),
        (lambda a: a["labels"].update(labels=[0, 1, 1]), "distinct"),
        (lambda a: a["labels"].update(labels=[0, [1], 2]), "list of strings or numbers"),
        (lambda a: a["labels"].update(type="M8[s]"), "a type that labels can have"),
        (lambda a: a["labels"].update(type="nonsense"), "nonsense"),
        (lambda a: a["labels"].update(form="table"), "form is 'table'"),
        (lambda a: a["params"].update(colour=1), "colour"),
        (lambda a: a.update(config={"colour": 1}), "colour"),
        (lambda a: a.update(feature_names=["a"]), "1 feature names"),
        (lambda a: a.update(seen="x"), "ValueError"),
    ],
)
def test_damaged_classifiers_are_refused(tmp_path, change, expected):
    small().fit(X3, Y3).save(tmp_path / "model")
    file = tmp_path / "model" / "estimator.json"
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=expected):
        SlideClassifier.load(tmp_path / "model")


def test_other_folders_are_refused(tmp_path):
    Network(3, 3).save(tmp_path / "network")
    with pytest.raises(CheckpointError, match=r"without names of labels; slide\.Network\.load reads"):
        SlideClassifier.load(tmp_path / "network")
    (tmp_path / "network" / "estimator.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"estimator.json"):
        SlideClassifier.load(tmp_path / "network")


def test_scores_that_do_not_fit_are_refused(single, monkeypatch):
    classifier = small().fit(single[0], single[1])

    class Memory:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    with pytest.raises(MemoryError, match=r"200 samples for 30 labels .* call predict_topk"):
        classifier.predict_proba(single[2])
    classifier.predict_topk(single[2])


def test_blocks_of_scores_change_nothing(single, monkeypatch):
    from slide.predict import probabilities

    X, y, X_test, _ = single
    classifier = small(loss="bce").fit(X, y)
    p, (labels, scores) = classifier.predict_proba(X_test), classifier.predict_topk(X_test)
    monkeypatch.setattr(probabilities, "SCORES", 100)
    monkeypatch.setattr(probabilities, "PREDICT_BLOCK", 17)
    np.testing.assert_allclose(classifier.predict_proba(X_test), p, rtol=1e-4)
    np.testing.assert_array_equal(classifier.predict_topk(X_test)[0], labels)
    np.testing.assert_allclose(classifier.predict_topk(X_test)[1], scores, rtol=1e-4)


WITHOUT = """
import sys

sys.modules["sklearn"] = None
from slide import SlideClassifier

classifier = SlideClassifier(hidden_units=8, epochs=20, n_jobs=1)
assert classifier.get_params()["epochs"] == 20
assert repr(classifier.set_params(epochs=30)) == "SlideClassifier(hidden_units=8, epochs=30, n_jobs=1)", classifier
try:
    classifier.set_params(colour=1)
except ValueError as error:
    assert "Invalid parameter 'colour'" in str(error)
else:
    raise AssertionError
try:
    classifier.predict([[1]])
except ValueError as error:
    assert "not fitted" in str(error)
X, y = [[1, 0], [0, 1]] * 10, ["a", "b"] * 10
assert classifier.fit(X, y).predict(X[:2]).tolist() == ["a", "b"]
import copy, pickle
assert pickle.loads(pickle.dumps(classifier)).score(X, y) == 1.0
"""


@pytest.mark.parametrize(
    "program",
    [WITHOUT, "import slide, sys\nassert not {'sklearn', 'scipy.stats', 'slide.estimator'} & set(sys.modules)"],
    ids=["without scikit-learn", "import slide"],
)
def test_in_a_process_of_its_own(program, tmp_path):
    # `python -c` looks for modules in the current folder first.
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", program], check=False, **options)
    assert done.returncode == 0, done.stderr


def test_package_names_what_it_has():
    import slide

    assert "SlideClassifier" in slide.__all__
    with pytest.raises(AttributeError, match="no attribute 'Colour'"):
        slide.Colour  # noqa: B018
