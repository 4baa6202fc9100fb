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
from slide.data.dataset import MatrixLike
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
        Numbers from 1 to 2**31 - 1.
    config : NetworkConfig, optional
        Settings of layers and optimizer; default ``NetworkConfig()``.
    threads : int, optional
        Number of threads; default: all cores that this process may use. The weights do not depend on it, unless
        ``config.update`` is ``"hogwild"``.
    trainable : bool
        Whether the network can be trained; default True. False saves about two thirds of the memory: there are no
        optimizer moments and no hash tables, and the network can only predict.
    storage : MappedStorage, optional
        Rows of parameters that already exist, for a network that is not trainable; `load` passes it.
    comm : mpi4py communicator, optional
        The ranks that have the network together. The result is then a `slide.distributed.DistributedNetwork`.
    distribution : DistributionConfig, optional
        With `comm`: which part each rank has, and what the ranks exchange.

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
        The parameters need more memory than is available; the message lists what needs it. The environment variable
        ``SLIDE_MEMORY_CHECK=off`` skips this check. Or ``config.hugepages`` requires pages that the system does not
        give.

    Notes
    -----
    Several threads may predict at once. Only one thread may train, and no other thread may predict meanwhile: the later
    call raises RuntimeError and leaves the earlier one undisturbed. Callbacks may predict.

    Prediction reads weights that are up to date with every step (see ``settle``). Hash tables are built from rows that
    may be behind; rows that no sample reads change less and less.

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
        """Make a network or, with a communicator, the part of a network that this rank has."""
        if comm is None:
            return super().__new__(cls)
        # It is no Network, so Python does not call Network.__init__ on it.
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
        X: csr_matrix | np.ndarray,
        k: int = 5,
        *,
        exclude: csr_matrix | None = None,
        allowed: ArrayLike | csr_matrix | None = None,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each sample's k best labels, among all labels or, faster, among those that a search index finds.

        Needs memory for one block of hidden vectors and scores, whatever the numbers of samples and labels, and for a
        copy of the weights of `allowed` labels. Several threads may call it at once.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features); or dense array [n_features], one sample
            Features. For a single sample, a float32 ``csr_matrix`` of one row or a float32 array is fastest.
        k : int
            Number of labels per sample; default 5.
        exclude : sparse matrix, shape (n, any), optional
            Labels that must not be predicted: the columns of a sample's non-zero entries. Columns past the last label
            are ignored. A recommender whose items are both features and labels passes `X` itself.
        allowed : array of label ids, array of bool [n_labels] or sparse matrix, shape (n, n_labels), optional
            The only labels that may be predicted: the same for all samples, or the columns of a sample's non-zero
            entries. Only these are scored, so a few take little time. `exclude` applies to them as well.
        mode : str
            ``"exact"`` (the default) scores every label. With ``"sketch"`` and ``"lsh"``, the index of that name
            proposes labels and only these are scored, exactly; some of the best may be missed. ``"lsh-votes"`` scores
            no label: the best labels are those that most of the hash tables of ``"lsh"`` contain. See
            ``build_search_index``.
        candidates : int, optional
            Number of labels that an index proposes per sample, k or more. More candidates find more of the best labels
            and take longer.

        Returns
        -------
        ids : int32 array [n, k], or [k] for one sample
            Labels, best first, equal scores in order of id; -1 where fewer than k may be predicted or were found.
        scores : float32 array of the same shape
            Logits, or with ``"lsh-votes"`` numbers of tables; minus infinity where there is no label.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        RuntimeError
            There is no index for the mode, or the network has been trained since the index was made, or another thread
            is training it.
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
        X: csr_matrix | np.ndarray,
        Y: csr_matrix | np.ndarray,
        *,
        ks: Iterable[int] = (1, 3, 5),
        inv_propensity: np.ndarray | None = None,
        mask_inputs: bool = False,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> dict[str, float]:
        """Measure the quality of predictions: P@k, nDCG@k, R@k and, given propensities, PSP@k.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
            Features.
        Y : sparse or dense matrix, shape (n, n_labels)
            True labels: entries that are positive.
        ks : iterable of int
            Depths; default 1, 3 and 5.
        inv_propensity : float array [n_labels], optional
            Inverse propensities: ``slide.metrics.propensities`` of the training labels.
        mask_inputs : bool
            Never predict a label whose id is one of the sample's features; default False.
        mode, candidates
            As for ``predict``.

        Returns
        -------
        dict of str to float
            Fractions from 0 to 1 by name, such as ``"P@1"``.

        Raises
        ------
        DataError, RuntimeError, ValueError
            As ``predict`` does, or `X` and `Y` do not have the same number of rows.
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
        X: csr_matrix | np.ndarray | None = None,
        *,
        dims: int = 64,
        coverage: float = 1.0,
        lsh: LSHConfig | None = None,
    ) -> SketchIndex | HashIndex:
        """Build what ``predict`` searches in a mode other than ``"exact"``; it is not saved with the network.

        Parameters
        ----------
        mode : str
            ``"sketch"`` (the default): every label's vector in few dimensions of seven bits each, all of which are
            scanned. ``"lsh"``: hash tables; mode ``"lsh-votes"`` searches them too.
        X : sparse or dense matrix, shape (n, n_features), optional
            For a sketch: samples like those to predict, such as a few thousand of the training samples.
        dims : int
            For a sketch: dimensions; default 64. More dimensions find more of the best labels for the same number of
            candidates, and take longer.
        coverage : float
            For a sketch: share of the best labels of `X` that the scanned labels must contain; default 1.0, all labels
            are scanned. Below 1, only the labels that are likely for most samples are; the others are never predicted.
        lsh : LSHConfig, optional
            For hash tables: their settings; default ``config.output.lsh``.

        Returns
        -------
        SketchIndex or HashIndex
            The index; `nbytes` is its size.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        ValueError
            The mode has no index, a sketch lacks `X`, `X` has no samples or does not fit the network, or `dims` or
            `coverage` is out of range.
        """
        if index_of(mode) not in INDEXES:
            raise ValueError(f"only the modes {' and '.join(INDEXES)} have an index, got {mode!r}")
        self.layers.settle()
        index = topk.build_index(self.layers, index_of(mode), X, dims, coverage, lsh)
        self._search.add(mode, index, self.layers)
        return index

    def search_index(self, mode: str) -> SketchIndex | HashIndex:
        """Return the index that ``build_search_index`` made for a mode.

        Parameters
        ----------
        mode : str
            ``"sketch"``, ``"lsh"`` or ``"lsh-votes"``.

        Raises
        ------
        RuntimeError
            There is no such index, or the weights have changed since.
        """
        return self._search.get(mode, self.layers)

    @reads
    def output_matrix(self, *, centred: bool = True) -> np.ndarray:
        """Return the output layer as a plain matrix for other libraries to search.

        The best labels are the rows that have the largest inner products with ``hidden_vectors(X, append_one=True)``.
        See `slide.persist.vectors.output_matrix`.

        Parameters
        ----------
        centred : bool
            Subtract the mean of all rows, which changes no ranking; default True.

        Returns
        -------
        float32 array [n_labels, units + 1]
            Weights, and the bias in the last column.
        """
        return vectors.output_matrix(self.layers, centred=centred)

    # Training.

    @former_names(own_points="own_samples")
    def fit(
        self,
        X: MatrixLike,
        Y: MatrixLike,
        *,
        config: TrainingConfig | None = None,
        validation: tuple[MatrixLike, MatrixLike] | None = None,
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
            Features. Matrices that `slide.data.load` mapped into memory are read a window at a time; see
            `slide.data.order`.
        Y : sparse or dense matrix, shape (n, n_labels)
            Labels: entries that are positive.
        config : TrainingConfig, optional
            Settings of the run; default ``TrainingConfig()`` or, with `resume`, those of the run to be resumed.
        validation : pair of matrices, optional
            Features and labels on which quality is measured after each epoch: P, nDCG, R and, from 3 training samples
            on, PSP, with the propensities of the training labels. ``config.eval_points`` of the samples are drawn at
            random if there are more. Without `validation`, the share ``config.holdout`` of the training samples is
            held out and measured on, which copies data that is in memory. With `validation`, ``config.holdout`` has no
            effect.
        mask_inputs : bool
            In these measurements, never predict a label whose id is one of the sample's features; default False.
        label_weights : float array [n_labels], optional
            A factor for each label's target or, with one-vs-all losses, for its own term: finite, 0 or more, not
            rescaled. Replaces the weights that ``network.config.output.label_weights`` names.
        callbacks : iterable of Callback or callable, optional
            Called at the start, after every batch and epoch, and at the end; each may end the run. A plain function is
            called with the `Progress` after every batch, and ends the run if it returns True. See
            `slide.train.callbacks`.
        checkpoints : Checkpoints, optional
            Where and when to write checkpoints, for `resume`; they do not change the weights. See `slide.Checkpoints`.
        resume : path-like, optional
            A checkpoint, or a folder of checkpoints, of which the newest is taken. The run goes on from there and
            reaches the same bits as without the interruption, whatever the network has learnt meanwhile. All other
            arguments must be those that the run began with, but `config` may be left out.
        comm : mpi4py communicator, optional
            The ranks that train the network together. All of them have this network and the data.
        distribution : DistributionConfig, optional
            With `comm`: which part each rank has, and what the ranks exchange.
        own_samples : bool
            With `comm`: whether `X` and `Y` are the samples of this rank alone; default False. See
            `slide.distributed.own_rows`.

        Returns
        -------
        History
            The epochs, and how the run ended.

        Raises
        ------
        CheckpointError
            `resume` is no checkpoint of a run, or is damaged; the network must then not be used.
        ConfigError
            ``config.patience`` or ``config.keep_best`` is set and there is nothing to measure quality on, or
            ``config.monitor`` cannot be measured on this data, or a setting differs from the run to be resumed.
        DataError
            The data is not finite, has no samples, does not fit the network, or is not that of the run to be resumed.
        MemoryError
            Training needs more memory, in addition to the network, than is available; nothing has begun.
        FileExistsError
            The folder for checkpoints has those of another run.
        NumericalFault
            Something became NaN or infinite, or soon would have; a FloatingPointError. The message names layer, batch
            and the newest checkpoint, whose network is always finite. See ``config.on_fault``.
        RuntimeError
            The network is not trainable, or another thread trains it or predicts with it; see `slide.system.guard`.
        ValueError
            `label_weights` have the wrong length, are negative or not finite, or there are too few samples to estimate
            propensities.
        TypeError
            `callbacks` is not a list of callbacks.

        Notes
        -----
        The order of the data is drawn anew for each epoch from the network's seed and the epoch's number, so the same
        call on a network in the same state gives the same weights to the bit, with any number of threads. The samples
        that are held out are drawn from the seed alone.

        With ``config.keep_best``, the default with ``config.patience``, the weights and biases of the best epoch are
        copied, 4 bytes each. They are put back when the run ends, also when a callback ends it. ``network.step``, the
        optimizer's moments and the history remain those of the whole run. Training can go on: the moments belong to the
        last weights and not to the best, but fade over the first batches.

        The schedule of the learning rate covers all planned epochs, also where `patience` ends the run before. A
        decaying run that stops early thus never reaches the low rates at its end, which improve quality. Such a run
        shows how many epochs to plan for a run without `patience`.
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
        blocks: Iterable[tuple[MatrixLike, MatrixLike]],
        *,
        config: TrainingConfig | None = None,
        label_frequency: np.ndarray | None = None,
        label_weights: np.ndarray | None = None,
        callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
    ) -> History:
        """Train on an iterator, once and in its order; one block and one batch are in memory at a time.

        Parameters
        ----------
        blocks : iterable of (X, Y)
            Features and labels of any number of samples, as ``fit`` takes them. Blocks are cut and joined to batches of
            ``config.batch_size``: the weights do not depend on where one block ends and the next begins. Neighbours in
            the stream share a batch, so the stream should be in random order.
        config : TrainingConfig, optional
            Only `batch_size`, `max_batches`, `schedule`, `warmup`, `final_lr`, `decay_batches` and `on_fault` have an
            effect. The schedule covers `max_batches`. Without it the length of the run is unknown, and
            ``"inverse_sqrt"`` replaces linear and cosine. Where the data changes with time, ``"constant"`` keeps up.
        label_frequency : float array [n_labels], optional
            Share of the samples that have each label. By default it is counted along the stream, on top of what the
            network knows from earlier training.
        label_weights : float array [n_labels], optional
            As for ``fit``.
        callbacks : iterable of Callback or callable, optional
            As for ``fit``; the stream is one epoch. ``Progress.batches`` is 0 where the length of the run is unknown.

        Returns
        -------
        History
            One epoch, without quality.

        Raises
        ------
        ConfigError
            The configuration asks for something that needs all of the data, or its length.
        DataError
            The stream has no samples, or a block cannot be used: the message has its number, counted from 1. The
            network keeps what it learnt from the batches before, and training can go on with another stream.
        NumericalFault
            Something became NaN or infinite, or soon would have; a FloatingPointError. See ``config.on_fault``.
        RuntimeError
            As for ``fit``.
        ValueError
            `label_frequency` or `label_weights` have the wrong length or values out of range.
        TypeError
            `callbacks` is not a list of callbacks.

        Notes
        -----
        The same stream gives the same weights to the bit, with any number of threads. Exceptions of the iterator reach
        the caller.

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
            The folder or file to write.
        moments : bool
            Also write the optimizer's moments (or what it accumulates) and what the hash tables are built from, so that
            training can go on from there; default False. With Adam the size is three times as large, or more.
        serving : bool
            Write rows as the kernels read them, so that ``load(mmap=True)`` opens the folder at once, whatever its
            size; default False.
        beside : dict of str to bytes, optional
            More files for the folder, by name; ``load`` does not read them.

        Raises
        ------
        FileExistsError
            `path` exists and is neither a saved network nor an empty folder nor a folder with only a history.
        NumericalFault
            Something in the network is not finite; what was at `path` before is unchanged.
        OSError
            The folder cannot be written; what was at `path` before is unchanged.
        RuntimeError
            Another thread trains the network; use `slide.Checkpoints` to save during training.
        ValueError
            `moments` is combined with `serving`, or the network has no moments.
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
            Predict from the file itself, which must have been saved with ``serving=True``; default False. Nothing is
            read before it is needed: a network of any size opens at once, and processes on one machine share its
            memory. Only the sizes of the rows are checked. The network cannot be trained.

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
        """Pickle and copy the network as ``save`` writes it, with the optimizer's moments if it has any."""
        return _unpacked, (archive.pack(self.save, moments=self.trainable),)


def _unpacked(packed: bytes) -> Network:
    """Return the network in a pickle."""
    return archive.unpack(packed, Network)


# gather() makes a Network from the parts that ranks have, but ranks/ is below this file and cannot import the class.
ranks.DistributedNetwork.whole = Network
