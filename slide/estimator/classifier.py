"""SlideClassifier: a network as a scikit-learn classifier, for pipelines, searches and labels with any names.

scikit-learn is optional: without it, only what its own base classes add is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import numbers
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix

from slide.config import ConfigError, RunConfig
from slide.config.dicts import from_dict, to_dict
from slide.data.dataset import DataError
from slide.estimator.base import BaseEstimator, ClassifierMixin, DataConversionWarning, NotFittedError
from slide.estimator.features import column_names, names_mismatch, read_features
from slide.estimator.labels import LabelSpace, Targets, read_targets
from slide.files.fields import read_count, read_json, shown
from slide.kernels import parallel
from slide.network import Network
from slide.persist.checks import CheckpointError
from slide.predict import probabilities
from slide.system.guard import reads, trains
from slide.train.callbacks import Callback
from slide.train.records import History, Progress

MANIFEST = "estimator.json"
FORMAT = "slide-classifier"
VERSION = 1

P = ParamSpec("P")
R = TypeVar("R")

PLACES: dict[str, tuple[str, ...]] = {
    "epochs": ("training",),
    "batch_size": ("training",),
    "lr": ("network", "optimizer"),
    "loss": ("network", "output"),
    "candidates": ("network", "output"),
    "normalize": ("network",),
    "feature_weights": ("network",),
}
"""The section of a `RunConfig` that has a setting, by the setting's name, which is also a parameter's."""


def _refusing_weights(method: Callable[P, R]) -> Callable[P, R]:
    """Return a method that, called with ``sample_weight``, says what to do instead."""

    @functools.wraps(method)
    def refusing(*args: P.args, **kwargs: P.kwargs) -> R:
        if "sample_weight" in kwargs:
            raise TypeError(
                "SlideClassifier does not weigh samples: leave sample_weight out, and repeat the samples that are to "
                "count more"
            )
        return method(*args, **kwargs)

    return refusing


class SlideClassifier(ClassifierMixin, BaseEstimator):
    """A network with as many outputs as there are labels, trained by sampling, as a scikit-learn classifier.

    For samples with one label each or any number of labels, out of two labels or millions. `X` may be a SciPy sparse
    matrix or array, anything that NumPy makes an array of, or a data frame, whose sparse columns stay sparse. `y` is
    one of

    - a list or array of labels, one for each sample: strings or numbers;
    - a list or array with a set, list or array of labels for each sample;
    - a matrix of 0 and 1 with a column for each label: dense, sparse or a data frame with named columns.

    Parameters that are None are as in `config` or, without a `config`, have the defaults below.

    Parameters
    ----------
    hidden_units : int or sequence of int, optional
        Units of the hidden layer, default 256, or of each of several hidden layers, from the features upward.
    epochs : int, optional
        Passes over the data; default 8. Small data needs more.
    batch_size : int, optional
        Samples per batch; default 128. Small data needs fewer.
    lr : float, optional
        Learning rate; default 0.008.
    loss : str, optional
        ``"bce"``: every label is a yes or no of its own. ``"softmax"``: one distribution over all labels. Default,
        without a `config`: softmax if samples have one label each, bce if they may have several.
    candidates : str, optional
        The outputs that a training sample computes; default ``"uniform"``. See `slide.OutputConfig`.
    dropout : float, optional
        Share of the hidden units that a training sample leaves out; default 0.2.
    normalize : bool, optional
        Whether to scale every sample's features to unit length first; default True. This suits text and other sparse
        counts, but not a few measurements whose size matters.
    feature_weights : str, optional
        ``"none"`` (the default), or ``"idf"`` for features that are raw counts.
    threshold : float
        Probability above which ``predict`` returns a label, where samples may have several labels; default 0.5.
    config : RunConfig, optional
        All other settings. The parameters above override it.
    random_state : int, RandomState, Generator or None
        Seed of everything random. None (the default) takes the seed of the configuration, 0 by default, so that every
        call gives the same result.
    n_jobs : int, optional
        Number of threads; default: all cores that this process may use. -1 means the same, -2 one fewer. The result
        does not depend on it. If a search fits several estimators at once, 1 is best.

    Attributes
    ----------
    classes_ : array [n_labels]
        The labels, in the order of the columns of ``predict_proba``: ascending or, if `y` was a matrix, in the order of
        its columns.
    network_ : Network
        The network. Its outputs are in the order in which the labels were first seen.
    history_ : History
        History of the last call to ``fit`` or ``partial_fit``.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : array of str
        Names of the features; only if `X` was a data frame with names.

    Notes
    -----
    Samples have no weights: ``fit`` takes no ``sample_weight``.

    Several threads may predict at once. Only one thread may train, and no other thread may predict meanwhile: the later
    call raises RuntimeError. Callbacks may predict.

    Pickles and copies hold the network in the package's own format, with the optimizer's moments, so that
    ``partial_fit`` can go on. Loading a pickle can execute code; loading what ``save`` wrote cannot.

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

    classes_: np.ndarray
    network_: Network
    history_: History
    n_features_in_: int
    feature_names_in_: np.ndarray
    _labels: LabelSpace
    _seen: tuple[int, int]  # training samples, and labels of these, in all calls

    def __init__(
        self,
        hidden_units: int | Sequence[int] | None = None,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        loss: str | None = None,
        candidates: str | None = None,
        dropout: float | None = None,
        normalize: bool | None = None,
        feature_weights: str | None = None,
        threshold: float = 0.5,
        config: RunConfig | None = None,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        n_jobs: int | None = None,
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

    @_refusing_weights
    @trains
    def fit(
        self, X: object, y: object, *, callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = ()
    ) -> SlideClassifier:
        """Train from the beginning.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
            Features.
        y : labels
            Labels of the samples, in any form that the class lists.
        callbacks : list of Callback or callable, optional
            Callbacks of the run; see `slide.train.callbacks`.

        Returns
        -------
        SlideClassifier
            The classifier itself.

        Raises
        ------
        ConfigError
            A parameter of the class has a value that is not allowed.
        DataError
            `X` or `y` cannot be used, or they do not fit together; a ValueError.
        TypeError
            ``sample_weight`` is given, or `callbacks` is not a list of callbacks.
        """
        data, targets = self._read(X, y)
        run = self._run_config(targets.single)
        self._start(X, data, LabelSpace(targets.labels, targets.form, targets.dtype), run)
        return self._train(data, targets, run, callbacks)

    @_refusing_weights
    @trains
    def partial_fit(
        self,
        X: object,
        y: object,
        classes: ArrayLike | None = None,
        *,
        callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
    ) -> SlideClassifier:
        """Go on training: one pass over these samples, with a constant learning rate.

        Labels that are new get outputs of their own; the others keep what they have learnt. A network that then sees
        only samples of new labels forgets old ones: mix in some of the earlier samples.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
            Features. The first call sets their number.
        y : labels
            Labels of the samples, in any form. Whether samples have one label each or several must be the same in all
            calls.
        classes : array of labels, optional
            More labels to make outputs for now. Adding outputs takes time in proportion to the labels that exist, so
            name all known labels. Unlike elsewhere in scikit-learn, later calls may bring others.
        callbacks : list of Callback or callable, optional
            As for ``fit``.

        Returns
        -------
        SlideClassifier
            The classifier itself.

        Raises
        ------
        ConfigError, DataError, TypeError
            As ``fit`` does.
        """
        first = not hasattr(self, "network_")
        data, targets = self._read(X, y, reset=first)
        if not first and targets.single != self._labels.single:
            now, then = ("several labels per sample", "one label per sample")[:: -1 if targets.single else 1]
            raise DataError(f"training began with {then}, but this y has {now}; give y in the form it had then")
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
    def predict(self, X: object) -> np.ndarray | list[list] | csr_matrix:
        """Return the labels of samples, in the form that `y` had in training.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
            Features.

        Returns
        -------
        labels : array [n], list of list, or matrix [n, n_labels]
            If samples have one label each, the most probable label of each sample. If they may have several, all labels
            whose probability is above `threshold`: as lists, best first, or as an indicator matrix, dense or sparse as
            in training. See ``predict_topk`` for a fixed number of labels.

        Raises
        ------
        NotFittedError
            The classifier has not been trained.
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
        matrix = csr_matrix((np.ones(len(outputs), labels.dtype), outputs, ptr), shape=shape)
        matrix.sort_indices()
        return matrix

    @reads
    def predict_topk(self, X: object, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Return each sample's k most probable labels, exactly; the memory does not depend on the number of labels.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
            Features.
        k : int
            Number of labels per sample, default 5; if there are fewer, all labels.

        Returns
        -------
        labels : array [n, k]
            Labels, best first.
        probabilities : float32 array [n, k]
            Their probabilities; see ``predict_proba``.

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
    def predict_proba(self, X: object) -> np.ndarray:
        """Return the probability of every label for every sample.

        With loss ``"softmax"`` the probabilities of a sample add up to 1. With loss ``"bce"`` they are sigmoids; if
        samples have one label each, they are divided by their sum, so that they add up to 1.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
            Features.

        Returns
        -------
        float32 array [n, n_labels]
            Probabilities; the columns are in the order of `classes_`.

        Raises
        ------
        NotFittedError, DataError
            As ``predict`` does.
        MemoryError
            The array is larger than the memory that is available; ``predict_topk`` needs little.
        """
        return probabilities.probabilities(self._network(), self._scores(X), single=self._labels.single)

    @reads
    def decision_function(self, X: object) -> np.ndarray:
        """Return the logit of every label for every sample or, for two labels of which a sample has one, one number.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
            Features.

        Returns
        -------
        float32 array [n, n_labels] or [n]
            Logits; the columns are in the order of `classes_`. For two labels of which a sample has one: the logit of
            the second label minus that of the first.

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
    def score(self, X: object, y: object, sample_weight: ArrayLike | None = None) -> float:
        """Return P@1: the share of the samples whose most probable label is one of their labels.

        If samples have one label each, this is the accuracy. For other metrics, pass ``scoring`` to scikit-learn, or
        pass the result of ``network_.predict`` to `slide.metrics`.

        Parameters
        ----------
        X : matrix or data frame, shape (n, n_features)
            Features.
        y : labels
            Labels of the samples, in any form. Labels that did not occur in training are never predicted.
        sample_weight : array [n], optional
            Weight of each sample; default: all equal.

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
        weights = None if sample_weight is None else np.asarray(sample_weight)
        return float(np.average(np.asarray(hits, np.float64).ravel(), weights=weights))

    @reads
    def save(self, path: str | os.PathLike, *, moments: bool = False) -> None:
        """Write the classifier to a folder of arrays and JSON; `slide.Network.load` can read the folder too.

        Parameters
        ----------
        path : path-like
            The folder to write.
        moments : bool
            Also write the optimizer's moments, so that ``partial_fit`` can go on from there; default False. The folder
            is then three times as large.

        Raises
        ------
        NotFittedError
            The classifier has not been trained.
        ValueError
            `moments` is True, but the classifier was loaded without them.
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
            The folder. It may come from anywhere: nothing in it is executed.
        n_jobs : int, optional
            As for the class.

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
                f"{path} has no {MANIFEST}: it is a network without names of labels; slide.Network.load reads it"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{manifest}: {error}") from None
        try:
            return cls._restored(about, network, n_jobs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{manifest}: {type(error).__name__}: {error}") from None

    @classmethod
    def _restored(cls, about: Any, network: Network, n_jobs: int | None) -> SlideClassifier:
        """Make a classifier from a manifest and a network; a wrong manifest raises one of several errors."""
        if about["format"] != FORMAT or about["version"] != VERSION:
            raise ValueError(f"format {about['format']!r} version {about['version']!r} is not {FORMAT!r} {VERSION}")
        config = about["config"]
        self = cls(**(about["params"] | {"config": None if config is None else from_dict(RunConfig, config)}))
        self.n_jobs = n_jobs
        self.network_, self.history_ = network, History()
        self._labels = LabelSpace.from_plain(about["labels"])
        self.classes_ = self._labels.classes
        if len(self._labels) != network.n_labels:
            raise ValueError(f"{len(self._labels):,} labels, but the network has {network.n_labels:,}")
        # Checked here, where the message can name the file, and not only in fit and predict.
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
                raise ValueError(f"{len(names):,} feature names, but the network has {network.n_features:,} features")
        return self

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn needs to know: sparse features and several labels per sample are supported."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether the classifier has been trained."""
        return hasattr(self, "network_")

    def _network(self) -> Network:
        self._check_fitted()
        self.network_.threads = self._threads()
        return self.network_

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
                "using this estimator."
            )

    def _read(self, X: object, y: object, reset: bool = True) -> tuple[csr_matrix, Targets]:
        """Return the features and targets of a call to train."""
        data = read_features(X) if reset else self._features(X)
        targets = read_targets(y, DataConversionWarning)
        _check_lengths(data, targets)
        return data, targets

    def _start(self, X: object, data: csr_matrix, labels: LabelSpace, run: RunConfig) -> None:
        """Make the network in the first call to train."""
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

    def _train(
        self,
        data: csr_matrix,
        targets: Targets,
        run: RunConfig,
        callbacks: Iterable[Callback | Callable[[Progress], bool | None]],
    ) -> SlideClassifier:
        Y = self._labels.indicator(targets)
        self.history_ = self._network().fit(data, Y, config=run.training, callbacks=callbacks)
        samples, named = self._seen
        self._seen = (samples + Y.shape[0], named + Y.nnz)
        return self

    def _features(self, X: object) -> csr_matrix:
        """Return the features of samples, checked against those of training."""
        self._check_fitted()
        names, fitted = column_names(X), getattr(self, "feature_names_in_", None)
        who = type(self).__name__
        if names is not None and fitted is None:
            warnings.warn(f"X has feature names, but {who} was fitted without feature names", stacklevel=4)
        elif names is None and fitted is not None:
            warnings.warn(
                f"X does not have valid feature names, but {who} was fitted with feature names", stacklevel=4
            )
        elif names is not None and fitted is not None and not np.array_equal(names, fitted):
            raise DataError(names_mismatch(fitted, names))
        data = read_features(X)
        if data.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {data.shape[1]} features, but {who} is expecting {self.n_features_in_} features as input"
            )
        return data

    def _scores(self, X: object) -> np.ndarray:
        return probabilities.all_logits(self._network(), self._features(X), self._labels.order)

    def _threads(self) -> int:
        n_jobs = _plain(self.n_jobs)
        if n_jobs is None or n_jobs == 0:
            if n_jobs == 0:
                raise ValueError("n_jobs must not be 0; leave it out for all cores")
            return parallel.resolve_threads()
        if isinstance(n_jobs, int) and n_jobs < 0:
            return max(1, parallel.available_cpus() + 1 + n_jobs)
        return parallel.resolve_threads(n_jobs)

    def _check_threshold(self) -> None:
        threshold = self.threshold
        if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real) or not 0 <= threshold < 1:
            raise ConfigError(f"threshold must be a number from 0 to below 1, got {shown(threshold)}")

    def _run_config(self, single: bool) -> RunConfig:
        """Return `config` with the parameters in place; `single` says whether samples have one label each."""
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
        hidden = list(run.network.hidden)
        units = _units(self.hidden_units)
        if units:
            hidden = [dataclasses.replace(hidden[min(i, len(hidden) - 1)], units=n) for i, n in enumerate(units)]
        dropout = _plain(self.dropout)
        if dropout is not None:
            hidden = [dataclasses.replace(layer, dropout=dropout) for layer in hidden]
        seed = self._seed(run.network.seed)
        return _changed(run, ("network",), hidden=tuple(hidden), seed=seed)

    def _seed(self, default: int) -> int:
        state = self.random_state
        if state is None:
            return default
        if isinstance(state, np.random.Generator):
            return int(state.integers(2**31))
        if isinstance(state, np.random.RandomState):
            return int(state.randint(2**31 - 1))
        return _plain(state)


def _changed(config: Any, sections: tuple[str, ...], **changes: Any) -> Any:
    """Return a configuration with fields of one of its sections changed."""
    if not sections:
        return dataclasses.replace(config, **changes)
    inner = _changed(getattr(config, sections[0]), sections[1:], **changes)
    return dataclasses.replace(config, **{sections[0]: inner})


def _units(hidden_units: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return the units of each hidden layer; none if the parameter was left out."""
    if hidden_units is None:
        return ()
    many = hidden_units if isinstance(hidden_units, (list, tuple, np.ndarray)) else (hidden_units,)
    return tuple(_plain(units) for units in many)


def _plain(value: Any) -> Any:
    """Return NumPy's numbers, which a search may draw, as Python's; other values unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def _check_lengths(X: csr_matrix, targets: Targets) -> None:
    if X.shape[0] != targets.Y.shape[0]:
        raise DataError(
            f"Found input variables with inconsistent numbers of samples: X has {X.shape[0]:,} samples, y has the "
            f"labels of {targets.Y.shape[0]:,}"
        )
