"""Network: sparse features, hidden layers and a huge sampled output."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix

from slide.config import LSHConfig, NetworkConfig, TrainingConfig
from slide.config.distribution import DistributionConfig
from slide.model.base import BaseNetwork, BatchStats
from slide.model.stack import LayerStack
from slide.model.stepper import Stepper
from slide.persist import archive, saved_network, vectors
from slide.predict import topk
from slide.predict.indexes import INDEXES, HashIndex, SearchIndexes, SketchIndex, index_of
from slide.ranks import network as ranks
from slide.rows.storage import MappedStorage
from slide.system.guard import reads
from slide.system.renames import former_names
from slide.train import loop, stream
from slide.train.callbacks import Callback
from slide.train.checkpoints import Checkpoints
from slide.train.records import History, Progress

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["BatchStats", "Network"]


class Network(BaseNetwork):
    """A network from `n_features` sparse features over one or more hidden layers to `n_labels` outputs.

    Parameters
    ----------
    n_features, n_labels : int
        From 1 to 2**31 - 1.
    config : NetworkConfig, optional
        By default that of ``NetworkConfig()``.
    threads : int, optional
        By default all cores that this process may use. The weights do not depend on it, unless ``config.update`` is
        ``"hogwild"``.
    trainable : bool
        False leaves out the optimizer's moments and the hash tables, about two thirds of the memory; the network can
        then only predict.
    storage : MappedStorage, optional
        Where the rows of parameters are already, for a network that is not trainable; `load` passes it.
    comm : mpi4py communicator, optional
        The ranks that have the network together. The result is then a `slide.distributed.DistributedNetwork`.
    distribution : DistributionConfig, optional
        With `comm`: what each rank has, and what they exchange.

    Attributes
    ----------
    layers : LayerStack
        The layers, from the features upward: ``for layer in network.layers``.

    Raises
    ------
    ConfigError
        With `comm`: the configuration cannot be distributed over these ranks.
    ValueError
        A size is out of range.
    MemoryError
        The parameters need more memory than is available, which the message adds up (the environment variable
        ``SLIDE_MEMORY_CHECK=off`` skips this check), or ``config.hugepages`` requires pages that the system does not
        give.

    Notes
    -----
    Several threads may predict at once. They may not train at once, nor predict while another thread trains: the later
    call raises RuntimeError and leaves the earlier one undisturbed. Callbacks may predict.

    Prediction reads weights that are up to date with every step (see ``settle``). Hash tables are built from rows as
    they are, which may be behind: rows that no sample reads change less and less.

    Examples
    --------
    >>> import numpy as np
    >>> from slide import Network, TrainingConfig
    >>> network = Network(3, 3)
    >>> history = network.fit(np.eye(3), np.eye(3), config=TrainingConfig(epochs=100))
    >>> ids, scores = network.predict(np.eye(3), k=1)
    >>> ids.ravel().tolist()
    [0, 1, 2]
    """

    def __new__(
        cls,
        n_features: int,
        n_labels: int,
        config: NetworkConfig | None = None,
        *,
        threads: int | None = None,
        trainable: bool = True,
        storage: MappedStorage | None = None,
        comm: MPI.Comm | None = None,
        distribution: DistributionConfig | None = None,
    ) -> Network:
        """Make a network or, where there is a communicator, the part of a network that this rank has."""
        if comm is None:
            return super().__new__(cls)
        # What Python then calls no __init__ of: it is made already.
        return ranks.DistributedNetwork(  # type: ignore[return-value]
            n_features, n_labels, config, comm=comm, distribution=distribution, threads=threads
        )

    def __init__(
        self,
        n_features: int,
        n_labels: int,
        config: NetworkConfig | None = None,
        *,
        threads: int | None = None,
        trainable: bool = True,
        storage: MappedStorage | None = None,
        comm: MPI.Comm | None = None,
        distribution: DistributionConfig | None = None,
    ):
        layers = LayerStack(
            n_features, n_labels, config or NetworkConfig(), threads=threads, trainable=trainable, storage=storage
        )
        super().__init__(layers, Stepper(layers.buffers, len(layers.hidden)))
        self._search = SearchIndexes()

    # Prediction.

    @reads
    def predict(
        self,
        X: csr_matrix,
        k: int = 5,
        *,
        exclude: csr_matrix | None = None,
        allowed: ArrayLike | csr_matrix | None = None,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each sample's k best labels, of all or, faster, of those that a search index finds.

        Memory is one block of hidden vectors and of scores, whatever the numbers of samples and labels, and a copy of
        the weights of `allowed` labels. May be called from several threads at once.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features); or dense array [n_features], one sample
            A single sample in float32 is taken fastest as a ``csr_matrix`` of one row or as an array.
        k : int
        exclude : sparse matrix, shape (n, any), optional
            Labels that must not be predicted are the columns of a sample's non-zero entries; columns past the last
            label are ignored. For a recommender whose items are both features and labels: `X` itself.
        allowed : array of label ids, array of bool [n_labels] or sparse matrix, shape (n, n_labels), optional
            Labels that alone may be predicted: the same for all samples, or a sample's non-zero entries. Only these are
            scored: few take little time. `exclude` holds for them as well.
        mode : str
            ``"exact"`` scores every label. ``"sketch"`` and ``"lsh"`` let the index of that name propose some and score
            these exactly; they may miss some of the best. ``"lsh-votes"`` scores no label: the best are those that
            most of the hash tables of ``"lsh"`` find. See ``build_search_index``.
        candidates : int, optional
            Labels that an index proposes for a sample, k at least. More find more and take longer.

        Returns
        -------
        ids : int32 array [n, k], or [k] of one sample
            Best first, equal scores in order of id; -1 where fewer than k labels may be predicted, or were found.
        scores : float32 array of the same shape
            Logits, or with ``"lsh-votes"`` numbers of tables; minus infinity where there is no label.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        RuntimeError
            There is no index for the mode, or the network has been trained since it was made, or another thread trains
            it now.
        ValueError
            The number of columns does not fit the network, `exclude` or `allowed` do not fit the samples, an allowed
            label is out of range, k or `candidates` is not positive, or there is no such mode.
        """
        return topk.predict(
            self.layers,
            X,
            k,
            exclude=exclude,
            allowed=allowed,
            mode=mode,
            candidates=candidates,
            indexes=self._search,
        )

    @reads
    def evaluate(
        self,
        X: csr_matrix,
        Y: csr_matrix,
        *,
        ks: Iterable[int] = (1, 3, 5),
        inv_propensity: np.ndarray | None = None,
        mask_inputs: bool = False,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> dict[str, float]:
        """Return P@k, nDCG@k, R@k and, given propensities, PSP@k of the prediction.

        Parameters
        ----------
        X : matrix, shape (n, n_features)
        Y : matrix, shape (n, n_labels)
        ks : iterable of int
        inv_propensity : float array [n_labels], optional
            From ``slide.metrics.propensities`` of the training labels.
        mask_inputs : bool
            Never predict a label whose id is one of the sample's features.
        mode, candidates
            As for ``predict``.

        Raises
        ------
        DataError, RuntimeError, ValueError
            As ``predict`` does, or `X` and `Y` do not fit.
        """
        return topk.evaluate(
            self.layers,
            X,
            Y,
            ks=ks,
            inv_propensity=inv_propensity,
            mask_inputs=mask_inputs,
            mode=mode,
            candidates=candidates,
            indexes=self._search,
        )

    @reads
    def build_search_index(
        self,
        mode: str = "sketch",
        X: csr_matrix | None = None,
        *,
        dims: int = 64,
        coverage: float = 1.0,
        lsh: LSHConfig | None = None,
    ) -> SketchIndex | HashIndex:
        """Make what ``predict`` searches in a mode other than ``"exact"``; nothing of it is saved with the network.

        Parameters
        ----------
        mode : str
            ``"sketch"``: every label's vector in few dimensions of seven bits each, all of which are scanned.
            ``"lsh"``: hash tables, which the mode ``"lsh-votes"`` searches too.
        X : sparse or dense matrix, shape (n, n_features), optional
            Of sketches: samples like those to predict, such as a few thousand of the training samples.
        dims : int
            Of sketches: more find more for the same number of candidates, and take longer.
        coverage : float
            Of sketches: below 1 only the labels that are likely for most samples are scanned, as many as hold this share
            of the best labels of `X`; the others are never predicted.
        lsh : LSHConfig, optional
            Of hash tables; by default ``config.output.lsh``.

        Returns
        -------
        SketchIndex or HashIndex
            Has its size, in `nbytes`.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        ValueError
            There is no such mode, `X` is missing, has no samples or does not fit the network, or `dims` or `coverage` is
            out of range.
        """
        if index_of(mode) not in INDEXES:
            raise ValueError(f"only the modes {' and '.join(INDEXES)} have an index, got {mode!r}")
        self.layers.settle()
        index = topk.build_index(self.layers, index_of(mode), X, dims, coverage, lsh)
        self._search.add(mode, index, self.layers)
        return index

    def search_index(self, mode: str) -> SketchIndex | HashIndex:
        """Return what ``build_search_index`` made for a mode.

        Raises
        ------
        RuntimeError
            There is no such index, or the weights have changed since.
        """
        return self._search.get(mode, self.layers)

    @reads
    def output_matrix(self, *, centred: bool = True) -> np.ndarray:
        """Return the output layer as a plain matrix for other libraries to search.

        Its rows with the largest inner products with ``hidden_vectors(X, append_one=True)`` are the best labels. See
        `slide.persist.vectors.output_matrix`.

        Parameters
        ----------
        centred : bool
            Subtract the mean of all rows, which changes no ranking.

        Returns
        -------
        float32 array [n_labels, units + 1]
        """
        return vectors.output_matrix(self.layers, centred=centred)

    # Training.

    @former_names(own_points="own_samples")
    def fit(
        self,
        X: csr_matrix,
        Y: csr_matrix,
        *,
        config: TrainingConfig | None = None,
        validation: tuple[csr_matrix, csr_matrix] | None = None,
        mask_inputs: bool = False,
        label_weights: np.ndarray | None = None,
        callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
        checkpoints: Checkpoints | None = None,
        resume: str | os.PathLike | None = None,
        comm: MPI.Comm | None = None,
        distribution: DistributionConfig | None = None,
        own_samples: bool = False,
    ) -> History:
        """Train on a data set.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
            Matrices that `slide.data.load` mapped into memory are read a window at a time; see `slide.data.order`.
        Y : sparse or dense matrix, shape (n, n_labels)
            Positive where a sample has a label.
        config : TrainingConfig, optional
        validation : pair of matrices, optional
            On at most ``config.eval_points`` of these, drawn at random, quality is measured at the end of epochs: P, nDCG,
            R and, from 3 training samples on, PSP, with the propensities of the training labels. Without `validation` they
            are measured on the share ``config.holdout`` of the training samples, from which nothing is then learnt; that
            copies data that is in memory. With `validation` ``config.holdout`` has no effect.
        mask_inputs : bool
            In those evaluations never predict a label whose id is one of the sample's features.
        label_weights : float array [n_labels], optional
            What each label's target, or with one-vs-all losses its own term, is multiplied by: finite, 0 or more, and used
            as they are. They take the place of those that ``network.config.output.label_weights`` names.
        callbacks : iterable of Callback or callable, optional
            Told of the start, of every batch and epoch, and of the end; each may end the run. A plain function is called
            with the `Progress` after every batch, and ends the run if it returns True. See `slide.train.callbacks`.
        checkpoints : Checkpoints, optional
            Where and when to write what `resume` takes; see `slide.train.checkpoints.Checkpoints`. With or without them the run is the
            same to the bit.
        resume : path-like, optional
            A checkpoint, or a folder of which the newest is taken. The run goes on from there to the bits that it would
            have reached uninterrupted, whatever the network has learnt meanwhile; everything else must be what the run
            began with. `config` may be left out.

        comm : mpi4py communicator, optional
            Its ranks, which all have this network and the data, train it together.
        distribution : DistributionConfig, optional
            With several ranks: what each rank has, and what they exchange.
        own_samples : bool
            With several ranks: `X` and `Y` are the samples of this rank alone; see `slide.distributed.own_rows`.

        Returns
        -------
        History

        Raises
        ------
        CheckpointError
            What is to be resumed is no checkpoint of a run, or is damaged; the network is then not to be used.
        ConfigError
            ``config.patience`` or ``config.keep_best`` is set and there is nothing to measure quality on, or
            ``config.monitor`` cannot be measured on this data, or a setting is not that of the run to be resumed.
        DataError
            The data is not finite, has no samples, does not fit the network, or is not that of the run to be resumed.
        MemoryError
            What training takes besides the network is more than the memory that is available; nothing has begun.
        FileExistsError
            The folder for checkpoints has those of another run.
        NumericalFault
            Something became NaN or infinite, or soon would have; a FloatingPointError. The message names layer and batch,
            and the newest checkpoint, which is never of a network that is not finite. See ``config.on_fault``.
        RuntimeError
            Another thread trains the network or predicts with it; see `slide.system.guard`. Or it is not trainable.
        ValueError
            `label_weights` are not as they should be, or there are too few samples to estimate propensities.
        TypeError
            `callbacks` are not a list of callbacks.

        Notes
        -----
        The order of the data is drawn anew for each epoch from the network's seed and the epoch's number, so the same
        call on a network in the same state gives the same weights to the bit, at any number of threads. The samples that
        are held out are drawn from the seed alone.

        Where the best epoch is kept its weights and biases are copied, 4 bytes each, and put back when the run ends, by
        itself or by a callback, with later batches behind it. ``network.step``, the optimizer's moments and the history
        remain those of the whole run. The network can be trained on: the moments, which belong to the last weights and not
        to the best, fade over the first batches.

        The schedule of the learning rate goes over the epochs planned, also where `patience` ends the run before: a
        decaying run that stops early never sees the low rates at its end, which are worth quality. Such a run tells how
        many epochs to plan for one without `patience`.
        """
        if comm is not None:
            return ranks.fit(
                self,
                X,
                Y,
                comm=comm,
                distribution=distribution,
                own_samples=own_samples,
                config=config,
                validation=validation,
                mask_inputs=mask_inputs,
                label_weights=label_weights,
                callbacks=callbacks,
                checkpoints=checkpoints,
                resume=resume,
            )
        if distribution is not None or own_samples:
            raise ValueError("distribution and own_samples are for training on several ranks: give fit comm= too")
        return loop.fit(
            self,
            X,
            Y,
            config=config,
            validation=validation,
            mask_inputs=mask_inputs,
            label_weights=label_weights,
            callbacks=callbacks,
            checkpoints=checkpoints,
            resume=resume,
        )

    def fit_stream(
        self,
        blocks: Iterable[tuple[csr_matrix, csr_matrix]],
        *,
        config: TrainingConfig | None = None,
        label_frequency: np.ndarray | None = None,
        label_weights: np.ndarray | None = None,
        callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
    ) -> History:
        """Train on an iterator, once through and in its order; a block and a batch are in memory at a time.

        Parameters
        ----------
        blocks : iterable of (X, Y)
            Features and labels of any number of samples, as ``fit`` takes them. They are cut and joined to batches of
            ``config.batch_size``: the weights do not depend on where one block ends and the next begins. Neighbours in the
            stream share a batch, so it should be in random order.
        config : TrainingConfig, optional
            Of it `batch_size`, `max_batches`, `schedule`, `warmup`, `final_lr`, `decay_batches` and `on_fault` count. The
            schedule goes over `max_batches`; without them nobody knows how long the run will be, and ``"inverse_sqrt"``
            takes the place of linear and cosine. Where what is to be learnt changes with time, ``"constant"`` keeps up.
        label_frequency : float array [n_labels], optional
            Share of the samples that has each label, where it is known. By default it is counted as the stream goes, on top
            of what the network knows from former training.
        label_weights : float array [n_labels], optional
            As for ``fit``.
        callbacks : iterable of Callback or callable, optional
            As for ``fit``; the end of the stream is that of the one epoch. ``Progress.batches`` is 0 where nobody knows how
            many will come.

        Returns
        -------
        History
            Of one epoch, without quality.

        Raises
        ------
        ConfigError
            The configuration asks for something that needs all of the data, or its length.
        DataError
            A block cannot be used: the message has its number, counted from 1. What the batches before it have taught
            stays, and training can go on with another stream. Also if the stream has no samples.
        NumericalFault
            Something became NaN or infinite, or soon would have; a FloatingPointError. See ``config.on_fault``.
        RuntimeError
            As for ``fit``.
        ValueError
            `label_frequency` or `label_weights` are not as they should be.
        TypeError
            `callbacks` are not a list of callbacks.

        Notes
        -----
        The same stream gives the same weights to the bit, at any number of threads. Whatever the iterator raises comes
        through.

        Examples
        --------
        >>> import numpy as np
        >>> from slide import Network, TrainingConfig
        >>> blocks = ((np.eye(3)[i % 3 : i % 3 + 1], np.eye(3)[i % 3 : i % 3 + 1]) for i in range(600))
        >>> network = Network(3, 3)
        >>> network.fit_stream(blocks, config=TrainingConfig(batch_size=20)).batches
        30
        """
        return stream.fit_stream(
            self,
            blocks,
            config=config,
            label_frequency=label_frequency,
            label_weights=label_weights,
            callbacks=callbacks,
        )

    # Saved networks.

    @reads
    def save(
        self,
        path: str | os.PathLike,
        *,
        moments: bool = False,
        serving: bool = False,
        beside: dict[str, bytes] | None = None,
    ) -> None:
        """Write the network to a folder of arrays and JSON, or to a file whose name ends in ``.safetensors``.

        A saved network of that name is replaced once the new one is complete. See `slide.persist.saved_network` for the
        format.

        Parameters
        ----------
        path : path-like
        moments : bool
            Also write the optimizer's moments, or what it accumulates, and what the hash tables are built from: with
            Adam three times the size and more, and training can go on from there.
        serving : bool
            Write rows as the kernels read them, so that ``load(mmap=True)`` opens the folder at once, whatever its size.
        beside : dict of bytes, optional
            More files for the folder, by name, which ``load`` does not look at.

        Raises
        ------
        FileExistsError
            `path` exists and is no saved network, nor empty or with a history alone.
        NumericalFault
            Something in the network is not finite; what was at `path` before is as it was.
        OSError
            The folder cannot be written; what was at `path` before is as it was.
        RuntimeError
            Another thread trains the network; see `slide.Checkpoints` for saving on the way.
        ValueError
            `moments` are asked for together with `serving`, or of a network that has none.
        """
        saved_network.save(self.layers, path, moments=moments, serving=serving, beside=beside)

    @classmethod
    def load(cls, path: str | os.PathLike, *, threads: int | None = None, mmap: bool = False) -> Network:
        """Read a saved network.

        Parameters
        ----------
        path : path-like
            A folder that ``save`` wrote, a checkpoint of a run, or a ``.safetensors`` file. It may come from anywhere:
            nothing in it is executed, and every array is checked before it is used.
        threads : int, optional
            As for `Network`.
        mmap : bool
            Predict from the file itself, which was saved with ``serving=True``: nothing is read before it is needed, so
            that a network of any size opens at once, and processes on one machine share its memory. Only the sizes of
            the rows are checked. The network cannot be trained.

        Returns
        -------
        Network
            Ready to predict; ready to train on if it was saved with its moments.

        Raises
        ------
        CheckpointError
            The folder is not a saved network, or is damaged, incomplete or of another version, or cannot be mapped.
        """
        return saved_network.load(path, cls, threads=threads, mmap=mmap)

    def __reduce__(self):
        """Pickle and copy as what ``save`` writes, with the optimizer's moments where there are any."""
        return _unpacked, (self._packed(),)

    @reads
    def _packed(self) -> bytes:
        return archive.pack(self.layers)


def _unpacked(packed: bytes) -> Network:
    """Return the network in a pickle."""
    return archive.unpack(packed, Network)


# What gather() makes of the parts that ranks have: the class stands above the wing that needs it.
ranks.DistributedNetwork.whole = Network
