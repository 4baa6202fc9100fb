"""SlideClassifier: a network as a scikit-learn classifier, for pipelines, searches and labels of any name.

scikit-learn is not needed: without it the class is the same but for what scikit-learn's own base classes add.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import numbers
import os
import warnings
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import ConfigError, RunConfig
from slide.config.dicts import from_dict, to_dict
from slide.data.dataset import DataError
from slide.estimator.features import column_names, names_mismatch, read_features
from slide.estimator.labels import LabelSpace, Targets, read_targets
from slide.files.fields import read_count, read_json, shown
from slide.kernels import parallel
from slide.network import Network
from slide.persist.checks import CheckpointError
from slide.predict import probabilities
from slide.system.guard import reads, trains
from slide.train.records import History

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import DataConversionWarning, NotFittedError
except ModuleNotFoundError:

    class NotFittedError(ValueError, AttributeError):  # type: ignore[no-redef]
        """The estimator is asked for what only ``fit`` can give it."""

    class DataConversionWarning(UserWarning):  # type: ignore[no-redef]
        """Data is taken for something else than it seems to be."""

    class ClassifierMixin:  # type: ignore[no-redef]
        """Nothing: scikit-learn's mixin adds what only scikit-learn asks for."""

    class BaseEstimator:  # type: ignore[no-redef]
        """The parameters of an estimator, which are those of its ``__init__``."""

        def get_params(self, deep: bool = True) -> dict:
            """Return the parameters by name; `deep` is for scikit-learn and changes nothing."""
            return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

        def set_params(self, **params):
            """Set parameters by name and return the estimator; unknown ones raise ValueError."""
            known = self.get_params()
            for name, value in params.items():
                if name not in known:
                    raise ValueError(f"Invalid parameter {name!r} for {self!r}; there are: {', '.join(known)}")
                setattr(self, name, value)
            return self

        def __repr__(self) -> str:
            default = inspect.signature(type(self)).parameters
            changed = {n: v for n, v in self.get_params().items() if v is not default[n].default}
            return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in changed.items())})"


MANIFEST = "estimator.json"
FORMAT = "slide-classifier"
VERSION = 1

PLACES = {
    "epochs": ("training",),
    "batch_size": ("training",),
    "lr": ("network", "optimizer"),
    "loss": ("network", "output"),
    "candidates": ("network", "output"),
    "normalize": ("network",),
    "feature_weights": ("network",),
}
"""The section of a `RunConfig` that each parameter of the same name belongs to."""


class SlideClassifier(ClassifierMixin, BaseEstimator):
    """A network with as many outputs as there are labels, trained by sampling, as a scikit-learn classifier.

    For one label a sample or any number of them, from two labels to millions. `X` may be a SciPy sparse matrix or array,
    anything that NumPy makes an array of, or a data frame, whose sparse columns stay sparse. `y` is one of

    - a list or array of labels, one for each sample: strings or numbers;
    - a list or array of sets, lists or arrays of labels, as many as a sample has;
    - a matrix of 0 and 1 with a column for each label, dense, sparse or a data frame of named columns.

    Parameters that are None are as `config` has them, or the package's defaults without one.

    Parameters
    ----------
    hidden_units : int or sequence of int, optional
        Units of the hidden layer, by default 256, or of each of several, from the features upward.
    epochs : int, optional
        Passes over the data, by default 8. Small data wants more.
    batch_size : int, optional
        By default 128. Small data wants less.
    lr : float, optional
        Learning rate, by default 0.008.
    loss : str, optional
        ``"bce"``: every label is a yes or no of its own. ``"softmax"``: one distribution over all labels. By default,
        without a `config`, softmax where samples have one label each and bce where they may have several.
    candidates : str, optional
        Which outputs a training sample computes, by default ``"uniform"``; see `slide.OutputConfig`.
    dropout : float, optional
        Share of the hidden units that a training sample leaves out, by default 0.2.
    normalize : bool, optional
        Scale every sample's features to unit length first; the default. Right for text and other sparse counts, wrong
        for a few measurements whose size matters.
    feature_weights : str, optional
        ``"idf"`` for features that are raw counts, ``"none"``, the default, otherwise.
    threshold : float
        Where samples may have several labels, ``predict`` gives those whose probability is above it.
    config : RunConfig, optional
        All other settings. Parameters given here come before it.
    random_state : int, RandomState, Generator or None
        Of everything random. None is the seed of the configuration, 0 by default: the same every time.
    n_jobs : int, optional
        Threads, by default all cores this process may use; -1 means the same, -2 one less. The result does not depend
        on it. Where a search runs several fits at once, 1 is best.

    Attributes
    ----------
    classes_ : array [n_labels]
        The labels: ascending, for matrices in the order of the columns. Those of ``predict_proba``'s columns.
    network_ : Network
        Its outputs are in the order in which labels were first seen.
    history_ : History
        Of the last call to ``fit`` or ``partial_fit``.
    n_features_in_ : int
    feature_names_in_ : array of str
        Only if `X` was a data frame with names.

    Notes
    -----
    Samples have no weights: ``fit`` takes no ``sample_weight``.

    Several threads may predict at once. Training is for one thread at a time, and nobody predicts meanwhile but its
    callbacks: the later call raises RuntimeError.

    Pickles and copies hold the network in the package's own format, with the optimizer's moments, so that
    ``partial_fit`` goes on from them. A pickle can do harm when it is loaded; what ``save`` writes cannot.

    Examples
    --------
    >>> from slide import SlideClassifier
    >>> X = [[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 20
    >>> y = [{"red"}, {"green", "leaf"}, {"blue", "sea"}] * 20
    >>> classifier = SlideClassifier(epochs=30, batch_size=10).fit(X, y)
    >>> labels, probabilities = classifier.predict_topk([[0, 1, 0]], k=2)
    >>> sorted(labels[0])
    ['green', 'leaf']
    """

    def __init__(
        self,
        hidden_units=None,
        *,
        epochs=None,
        batch_size=None,
        lr=None,
        loss=None,
        candidates=None,
        dropout=None,
        normalize=None,
        feature_weights=None,
        threshold=0.5,
        config=None,
        random_state=None,
        n_jobs=None,
    ):
        self.hidden_units = hidden_units
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.loss = loss
        self.candidates = candidates
        self.dropout = dropout
        self.normalize = normalize
        self.feature_weights = feature_weights
        self.threshold = threshold
        self.config = config
        self.random_state = random_state
        self.n_jobs = n_jobs

    @trains
    def fit(self, X, y, *, callbacks=(), **unsupported) -> SlideClassifier:
        """Train from the beginning.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
        y : labels
            In any form that the class names.
        callbacks : list of Callback or callable, optional
            Told how training gets on; see `slide.train.callbacks`.

        Raises
        ------
        ConfigError
            A parameter is not what it may be.
        DataError
            `X` or `y` cannot be used, or they do not fit together; a ValueError.
        TypeError
            An argument is not supported, such as ``sample_weight``, or `callbacks` are not a list of callbacks.
        """
        data, targets = self._read(X, y, unsupported)
        run = self._run_config(targets.single)
        self._start(X, data, LabelSpace(targets.labels, targets.form, targets.dtype), run)
        return self._train(data, targets, run, callbacks)

    @trains
    def partial_fit(self, X, y, classes=None, *, callbacks=(), **unsupported) -> SlideClassifier:
        """Train on from where the last call ended: one pass over these samples, at a learning rate that does not fall.

        Labels not known so far get outputs of their own; the others keep what they have learnt. A network that is then
        shown only samples of new labels forgets old ones: mix in some of the former samples.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
            In the first call it sets the number of features.
        y : labels
            In any form; once samples have one label each, or several, it stays so.
        classes : array of labels, optional
            More labels to make outputs for now: growing takes time in proportion to the labels there are, so name all
            that are known. Unlike elsewhere in scikit-learn, others may follow.
        callbacks : list of Callback or callable, optional
            As for ``fit``.

        Raises
        ------
        ConfigError, DataError, TypeError
            As ``fit`` does.
        """
        first = not hasattr(self, "network_")
        data, targets = self._read(X, y, unsupported, reset=first)
        if not first and targets.single != self._labels.single:
            now, then = ("several labels a sample", "one label a sample")[:: -1 if targets.single else 1]
            raise DataError(f"training began with {then}, this y has {now}; give y in the form it had")
        run = self._run_config(targets.single)
        labels = LabelSpace(targets.labels, targets.form, targets.dtype) if first else self._labels
        labels = labels.with_labels(targets.labels)
        if classes is not None:
            labels = labels.with_labels(read_targets(np.asarray(classes).ravel()).labels)
        if first:
            self._start(X, data, labels, run)
        elif len(labels) > len(self._labels):
            self.network_.grow(len(labels))
            self._labels, self.classes_ = labels, labels.classes
        training = dataclasses.replace(
            run.training, epochs=1, schedule="constant", warmup=0, holdout=0, patience=None, keep_best=None
        )
        return self._train(data, targets, dataclasses.replace(run, training=training), callbacks)

    @reads
    def predict(self, X):
        """Return the labels of some samples, in the form that `y` had in training.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)

        Returns
        -------
        labels : array [n], list of list, or matrix [n, n_labels]
            One label a sample, the most probable one, if samples have one each. Otherwise those whose probability is
            above `threshold`: as lists, best first, or as an indicator matrix, dense or sparse like that of training.
            See ``predict_topk`` for a fixed number of labels.

        Raises
        ------
        NotFittedError
            Nothing has been learnt yet.
        DataError
            `X` cannot be used, or has another number of features.
        """
        X = self._features(X)
        network, labels = self._network(), self._labels
        if labels.single:
            outputs, _ = probabilities.best(network, X, 1, single=True)
            return labels.labels[outputs[:, 0]]
        self._check_threshold()
        samples, named = self._seen
        ptr, outputs = probabilities.above(network, X, self.threshold, labels_per_sample=named / samples)
        if labels.form == "collections":
            flat = labels.labels[outputs].tolist()
            return [flat[begin:end] for begin, end in itertools.pairwise(ptr)]
        shape = (X.shape[0], len(labels))
        if labels.form == "indicator":
            out = np.zeros(shape, labels.dtype)
            out[np.repeat(np.arange(len(out)), np.diff(ptr)), outputs] = 1
            return out
        out = csr_matrix((np.ones(len(outputs), labels.dtype), outputs, ptr), shape=shape)
        out.sort_indices()
        return out

    @reads
    def predict_topk(self, X, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Return each sample's k most probable labels, exactly, in memory that does not depend on the number of labels.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
        k : int
            More than there are labels is taken for all.

        Returns
        -------
        labels : array [n, k]
            Best first.
        probabilities : float32 array [n, k]
            As of ``predict_proba``.

        Raises
        ------
        NotFittedError, DataError
            As ``predict`` does.
        ValueError
            k is not positive.
        """
        X = self._features(X)
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        outputs, scores = probabilities.best(self._network(), X, min(k, len(self._labels)), single=self._labels.single)
        return self._labels.labels[outputs], scores

    @reads
    def predict_proba(self, X) -> np.ndarray:
        """Return the probability of every label for every sample.

        With loss ``"bce"`` these are sigmoids, and add up to 1 only where samples have one label each, because they are
        then divided by their sum; with loss ``"softmax"`` they always add up to 1.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)

        Returns
        -------
        float32 array [n, n_labels]
            Columns in the order of `classes_`.

        Raises
        ------
        NotFittedError, DataError
            As ``predict`` does.
        MemoryError
            The array is larger than the memory available; ``predict_topk`` needs little.
        """
        return probabilities.probabilities(self._network(), self._scores(X), single=self._labels.single)

    @reads
    def decision_function(self, X) -> np.ndarray:
        """Return the logit of every label for every sample; of two labels, one a sample, that of the second alone.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)

        Returns
        -------
        float32 array [n, n_labels], or [n] for two labels of which a sample has one
            Columns in the order of `classes_`.

        Raises
        ------
        NotFittedError, DataError, MemoryError
            As ``predict_proba`` does.
        """
        logits = self._scores(X)
        if not self._labels.single or logits.shape[1] != 2:
            return logits
        if self.network_.config.output.loss == "bce":
            probabilities.log_sigmoid(logits)
        return logits[:, 1] - logits[:, 0]

    @reads
    def score(self, X, y, sample_weight=None) -> float:
        """Return P@1: the share of the samples whose most probable label is one of theirs.

        Of samples with one label each that is the accuracy. For other measures pass ``scoring`` to scikit-learn, or
        `slide.metrics` what ``network_.predict`` returns.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
        y : labels
            In any form. Labels that training did not know are never predicted.
        sample_weight : array [n], optional

        Raises
        ------
        NotFittedError, DataError
            As ``predict`` does, or `X` and `y` do not fit together.
        """
        X = self._features(X)
        targets = read_targets(y, DataConversionWarning)
        _check_lengths(X, targets)
        outputs, _ = probabilities.best(self._network(), X, 1, single=self._labels.single)
        hits = self._labels.indicator(targets)[np.arange(X.shape[0]), outputs[:, 0]]
        return float(np.average(np.asarray(hits, np.float64).ravel(), weights=sample_weight))

    @reads
    def save(self, path: str | os.PathLike, *, moments: bool = False) -> None:
        """Write the classifier to a folder of arrays and JSON, which ``load`` reads, and `slide.Network.load` as well.

        Parameters
        ----------
        path : path-like
        moments : bool
            Also write the optimizer's moments: three times the size, and ``partial_fit`` can go on from there.

        Raises
        ------
        NotFittedError
            Nothing has been learnt yet.
        ValueError
            The optimizer's moments are wanted of a classifier that was loaded without them.
        FileExistsError, OSError
            As `slide.Network.save` does.
        """
        network = self._network()
        if moments and not network.trainable:
            raise ValueError("this classifier was loaded without the optimizer's moments; save it without them")
        params = {name: value for name, value in self.get_params().items() if name != "config"}
        params["hidden_units"] = list(_units(params["hidden_units"])) or None
        params = {name: _plain(value) for name, value in params.items()}
        if not isinstance(params["random_state"], int):
            params["random_state"] = None
        names = getattr(self, "feature_names_in_", None)
        about = {
            "format": FORMAT,
            "version": VERSION,
            "params": params,
            "config": None if self.config is None else to_dict(self.config),
            "labels": self._labels.to_plain(),
            "seen": [int(count) for count in self._seen],
            "feature_names": None if names is None else names.tolist(),
        }
        network.save(path, moments=moments, beside={MANIFEST: json.dumps(about).encode()})

    @classmethod
    def load(cls, path: str | os.PathLike, *, n_jobs: int | None = None) -> SlideClassifier:
        """Read a classifier that ``save`` wrote.

        Parameters
        ----------
        path : path-like
            A folder, which may come from anywhere: nothing in it is executed.
        n_jobs : int, optional

        Raises
        ------
        CheckpointError
            The folder is not a saved classifier, or is damaged, incomplete or of another version.
        """
        manifest = Path(path) / MANIFEST
        network = Network.load(path)
        try:
            about = read_json(manifest)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} has no {MANIFEST}: it is a network without the labels' names; slide.Network.load reads it"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{manifest}: {error}") from None
        try:
            return cls._restored(about, network, n_jobs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{manifest}: {type(error).__name__}: {error}") from None

    @classmethod
    def _restored(cls, about, network, n_jobs):
        """Make a classifier of a manifest and a network; a manifest that is wrong raises one of several errors."""
        if about["format"] != FORMAT or about["version"] != VERSION:
            raise ValueError(f"format {about['format']!r} version {about['version']!r} is not {FORMAT!r} {VERSION}")
        config = about["config"]
        self = cls(**(about["params"] | {"config": None if config is None else from_dict(RunConfig, config)}))
        self.n_jobs = n_jobs
        self.network_, self.history_ = network, History()
        self._labels = LabelSpace.from_plain(about["labels"])
        self.classes_ = self._labels.classes
        if len(self._labels) != network.n_labels:
            raise ValueError(f"{len(self._labels):,} labels, the network has {network.n_labels:,}")
        # What fit and predict would refuse is refused while the file can be named.
        self._check_threshold()
        self._run_config(self._labels.single)
        seen = dict(zip(("samples", "labels of samples"), about["seen"], strict=True))
        samples, named = (read_count(seen, name) for name in seen)
        self._seen = (max(samples, 1), named)
        self.n_features_in_ = network.n_features
        names = about["feature_names"]
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
            if self.feature_names_in_.shape != (network.n_features,):
                raise ValueError(f"{len(names):,} feature names, the network has {network.n_features:,} features")
        return self

    def __sklearn_tags__(self):
        """Tell scikit-learn what the classifier takes."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there is something to predict with."""
        return hasattr(self, "network_")

    def _network(self):
        self._check_fitted()
        self.network_.threads = self._threads()
        return self.network_

    def _check_fitted(self):
        if not hasattr(self, "network_"):
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
                "using this estimator."
            )

    def _read(self, X, y, unsupported, reset=True):
        """Return the features and targets of a call to train."""
        if unsupported:
            if "sample_weight" in unsupported:
                raise TypeError(
                    "SlideClassifier does not weigh samples: leave sample_weight out, and repeat samples that are to "
                    "count more"
                )
            raise TypeError(f"fit() got unexpected arguments: {', '.join(unsupported)}")
        data = read_features(X) if reset else self._features(X)
        targets = read_targets(y, DataConversionWarning)
        _check_lengths(data, targets)
        return data, targets

    def _start(self, X, data, labels, run):
        """Make the network of a first call to train."""
        if not len(labels):
            raise DataError("no training sample has a label: there is nothing to learn")
        names = column_names(X)
        network = Network(data.shape[1], len(labels), run.network, threads=self._threads())
        self.n_features_in_ = data.shape[1]
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self._labels, self.classes_, self._seen = labels, labels.classes, (0, 0)
        self.network_ = network

    def _train(self, data, targets, run, callbacks):
        Y = self._labels.indicator(targets)
        self.history_ = self._network().fit(data, Y, config=run.training, callbacks=callbacks)
        samples, named = self._seen
        self._seen = (samples + Y.shape[0], named + Y.nnz)
        return self

    def _features(self, X):
        """Return the features of samples to predict, checked against those of training."""
        self._check_fitted()
        names, fitted = column_names(X), getattr(self, "feature_names_in_", None)
        who = type(self).__name__
        if names is not None and fitted is None:
            warnings.warn(f"X has feature names, but {who} was fitted without feature names", stacklevel=4)
        elif names is None and fitted is not None:
            warnings.warn(
                f"X does not have valid feature names, but {who} was fitted with feature names", stacklevel=4
            )
        elif names is not None and not np.array_equal(names, fitted):
            raise DataError(names_mismatch(fitted, names))
        X = read_features(X)
        if X.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {X.shape[1]} features, but {who} is expecting {self.n_features_in_} features as input"
            )
        return X

    def _scores(self, X):
        X = self._features(X)
        return probabilities.all_logits(self._network(), X, self._labels.order)

    def _threads(self):
        n_jobs = _plain(self.n_jobs)
        if n_jobs is None or n_jobs == 0:
            if n_jobs == 0:
                raise ValueError("n_jobs must not be 0; leave it out for all cores")
            return parallel.resolve_threads()
        if isinstance(n_jobs, int) and n_jobs < 0:
            return max(1, parallel.available_cpus() + 1 + n_jobs)
        return parallel.resolve_threads(n_jobs)

    def _check_threshold(self):
        threshold = self.threshold
        if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real) or not 0 <= threshold < 1:
            raise ConfigError(f"threshold must be a number from 0 to below 1, got {shown(threshold)}")

    def _run_config(self, single):
        """Return the configuration that parameters and `config` make together."""
        run = RunConfig() if self.config is None else self.config
        if not isinstance(run, RunConfig):
            raise ConfigError(
                f"config must be a slide.RunConfig, got {type(run).__name__}; RunConfig.from_toml reads one from a file"
            )
        given = {name: _plain(getattr(self, name)) for name in PLACES}
        if self.config is None and self.loss is None and single:
            given["loss"] = "softmax"
        for name, value in given.items():
            if value is not None:
                run = _changed(run, PLACES[name], **{name: value})
        hidden = run.network.hidden
        units = _units(self.hidden_units)
        if units:
            hidden = [dataclasses.replace(hidden[min(i, len(hidden) - 1)], units=n) for i, n in enumerate(units)]
        dropout = _plain(self.dropout)
        if dropout is not None:
            hidden = [dataclasses.replace(layer, dropout=dropout) for layer in hidden]
        seed = self._seed(run.network.seed)
        return _changed(run, ("network",), hidden=tuple(hidden), seed=seed)

    def _seed(self, otherwise):
        state = self.random_state
        if state is None:
            return otherwise
        if isinstance(state, np.random.Generator):
            return int(state.integers(2**31))
        if isinstance(state, np.random.RandomState):
            return int(state.randint(2**31 - 1))
        return _plain(state)


def _changed(config, sections, **changes):
    """Return a configuration with fields of one of its sections changed."""
    if not sections:
        return dataclasses.replace(config, **changes)
    inner = _changed(getattr(config, sections[0]), sections[1:], **changes)
    return dataclasses.replace(config, **{sections[0]: inner})


def _units(hidden_units):
    """The units of each hidden layer, none where the parameter was left out."""
    if hidden_units is None:
        return ()
    many = isinstance(hidden_units, (list, tuple, np.ndarray))
    return tuple(_plain(units) for units in (hidden_units if many else (hidden_units,)))


def _plain(value):
    """NumPy's numbers, such as a search draws, as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _check_lengths(X: csr_matrix, targets: Targets) -> None:
    if X.shape[0] != targets.Y.shape[0]:
        raise DataError(
            f"Found input variables with inconsistent numbers of samples: X has {X.shape[0]:,} samples, y names the "
            f"labels of {targets.Y.shape[0]:,}"
        )
