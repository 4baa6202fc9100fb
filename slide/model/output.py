"""The output layer: a neuron for each of many labels, of which a sample computes a few hundred."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from slide.config import OutputConfig
from slide.data.batches import Batch
from slide.kernels import dtypes
from slide.kernels.active import label_places
from slide.kernels.bfloat16 import BFloat16View, blocks
from slide.kernels.dense import shared_logits, shared_step
from slide.kernels.losses import ActiveSets, logistic_cross_entropy, remove_offsets, softmax_cross_entropy
from slide.kernels.rows import RowTable
from slide.kernels.sampling import split_shared
from slide.kernels.sparse import SampleGradient
from slide.lsh.index import NeuronIndex
from slide.model.shared_candidates import SharedCandidates
from slide.rows.activations import Activations, Ragged
from slide.rows.hogwild import HogwildPairs
from slide.rows.pairs import Groups, Pairs
from slide.rows.passes import Pass
from slide.rows.storage import MappedStorage, Storage
from slide.system.buffers import Buffers
from slide.system.renames import former_names

NOTHING = np.zeros(0, dtypes.VALUE)
NOBODY = np.zeros(0, dtypes.INDEX)


@dataclass(frozen=True)
class OutputStats:
    """Figures of a batch in the output layer; `slide.network.BatchStats` describes them."""

    loss: float
    precision: float
    active: float


class ActiveSet(NamedTuple):
    """The neurons that the samples of a batch compute.

    Attributes
    ----------
    shared : int32 array [shared]
        Neurons that all samples compute, ascending.
    own : Ragged
        Other neurons that each sample computes on its own.
    certain : Ragged
        Places in `shared` of the neurons that a sample would compute in any case, so that they stand for no others.
    places : int32 array
        Place of each label of the batch in its sample's active set: the shared neurons, then its own.
    """

    shared: np.ndarray
    own: Ragged
    certain: Ragged
    places: np.ndarray


class OutputLayer:
    """A dense hidden vector to many labels, of which a sample computes a few hundred; the rows are neurons.

    Parameters
    ----------
    n_labels, dim : int
        Number of neurons and dimension of their weights.
    config : OutputConfig
        The layer's settings.
    storage : Storage or MappedStorage
        How the rows are kept.
    seed : int
        Seed of the initial weights, the hash functions and the draws.
    buffers : Buffers
        Owner of the layer's memory.
    threads : int
        Number of threads for the initial weights.
    biased : bool
        Whether neurons have biases. Default: True.

    Attributes
    ----------
    name : str
        ``"output"``, in memory reports and saved files.
    table : RowTable
        The parameters.
    index : NeuronIndex or None
        The hash tables, if training uses them.
    """

    rows_are_units = True

    def __init__(
        self,
        n_labels: int,
        dim: int,
        config: OutputConfig,
        storage: Storage | MappedStorage,
        seed: int,
        buffers: Buffers,
        threads: int,
        *,
        biased: bool = True,
    ):
        self.name = "output"
        self.config = config
        self.seed = seed
        self._biased = biased
        self.table = storage.make_table(
            n_labels, dim, "output", buffers, limit=1.0 / math.sqrt(dim), seed=seed, threads=threads, biased=biased
        )
        self.index: NeuronIndex | None = None
        self._shared = SharedCandidates(n_labels, config, seed)
        self._has_own = config.uses_own
        self._place = np.full(n_labels if config.uses_shared and self._has_own else 0, -1, dtypes.INDEX)
        buffers.note("output places", self._place)
        self._label_weights: np.ndarray | None = None
        self._buffers = buffers
        self._pairs = Pairs("output", self.table, buffers)
        self._active: tuple[Groups, np.ndarray, np.ndarray, np.ndarray] | None = None

    def make_index(self) -> None:
        """Make the hash tables in which training looks neurons up, if the configuration has them."""
        if self.config.uses_tables:
            config = self.config
            self.index = NeuronIndex(
                self.table, config.lsh, config.rehash, config.sampling, self.seed, self._buffers, name="output"
            )

    def use_hogwild(self) -> None:
        """See `slide.model.layers.HiddenLayer.use_hogwild`."""
        if self._has_own:
            self._pairs = HogwildPairs("output", self.table, self._buffers)

    def take_over(self, smaller: OutputLayer) -> None:
        """Go on from a layer with fewer labels, which come first here, unchanged.

        `smaller` has the same configuration, dimension and optimizer, and its rows are up to date. It must not be used
        afterwards.
        """
        n = smaller.table.n_rows
        target = self.state()
        for name, array in smaller.state().items():
            for block in blocks(array.shape):
                target[name][block] = array[block]
        if smaller.table.bias.any() or smaller.table.last_step.any():
            new_labels(self.table, n, self.config.loss)
        fresh = self.table.n_rows - n
        if smaller.label_frequency is not None:
            # No sample so far had one of the new labels.
            frequency, samples = smaller.label_frequency
            self._shared.set_frequency(np.append(frequency, np.zeros(fresh)), samples)
        if smaller._label_weights is not None:
            self._label_weights = np.append(smaller._label_weights, np.ones(fresh, dtypes.VALUE))
        if smaller.index is not None:
            self.make_index()
            assert self.index is not None
            self.index.rebuild_seconds = smaller.index.rebuild_seconds

    @former_names(points="samples")
    def set_label_frequency(
        self, frequency: np.ndarray, *, samples: float | None = None, start_biases: bool = True
    ) -> None:
        """Set how common each label is, for the logQ correction, draws by frequency, and the first biases.

        With one-vs-all losses the biases of an untrained layer start at the log-odds of these frequencies, as the prior
        of Lin et al. (*Focal loss for dense object detection*, ICCV 2017). A bias of 0 says yes to every label with
        probability 1/2. The loss of the many wrong labels would then drown everything else until their biases are down.

        Parameters
        ----------
        frequency : float array [n_labels]
            Share of the training samples that have each label.
        samples : float, optional
            Number of training samples. A label that occurs in none of these samples counts as half an occurrence
            wherever a zero is not allowed. Default: 1 / frequency of the rarest label.
        start_biases : bool
            False leaves the biases as they are. Default: True.

        Raises
        ------
        ValueError
            `frequency` has the wrong length or a value outside [0, 1], or `samples` is below 1.
        """
        shared = self._shared
        shared.set_frequency(frequency, samples)
        assert shared.frequency is not None
        self._buffers.note("output label frequency", shared.frequency)
        untrained = start_biases and self._biased and not self.table.bias.any() and not self.table.last_step.any()
        if self.config.loss == "bce" and untrained:
            likely = np.clip(shared.frequency, shared.floor, 1 - shared.floor)
            self.table.bias[:] = np.log(likely) - np.log1p(-likely)

    def expect_batches_of(self, n: int) -> None:
        """Compute the logQ corrections for batches of n samples now, as training does at the first one of this size."""
        self._shared.offsets(NOBODY, n)

    @property
    def label_frequency(self) -> tuple[np.ndarray, float] | None:
        """Share of the training samples that have each label, and the number of these samples; None if not set."""
        return None if self._shared.frequency is None else (self._shared.frequency, 0.5 / self._shared.floor)

    def set_label_weights(self, weights: np.ndarray | None) -> None:
        """Set the factor of each label's target or, with one-vs-all losses, of its own term.

        `weights` is a float array [n_labels], or None for 1 each.

        Raises
        ------
        ValueError
            The shape is wrong, or a value is negative or not finite.
        """
        if weights is not None:
            weights = np.asarray(weights, np.float64)
            n_labels = self.table.n_rows
            if weights.shape != (n_labels,):
                raise ValueError(f"label_weights must be one for each of {n_labels} labels, got shape {weights.shape}")
            with np.errstate(over="ignore"):
                narrow = weights.astype(dtypes.VALUE)
            wrong = np.flatnonzero(~(np.isfinite(narrow) & (weights >= 0)))
            if len(wrong):
                raise ValueError(
                    f"label_weights must be finite and 0 or more, got {weights[wrong[0]]} for label {wrong[0]}"
                )
            weights = narrow
        self._label_weights = weights

    def forward(self, batch: Batch, inputs: Activations, now: Pass) -> OutputStats:
        """Compute the active neurons, the loss and its gradient with respect to their logits, which ``step`` uses.

        `inputs` is the output of the last hidden layer.

        Raises
        ------
        RuntimeError
            The configuration needs the labels' frequencies or weights, and they were not set.
        """
        n = len(batch)
        active = self.activate(batch, inputs, now.iteration, now.threads)
        common = self._buffers.array("output shared logits", (n, len(active.shared)), dtypes.VALUE)
        groups = self.group(active, now.threads)
        own = self.logits(active, groups, inputs, common, now)
        loss, precision = self._losses(batch, active, common, own, now.threads)
        self._active = (groups, own, active.shared, common)
        return OutputStats(loss, precision, len(active.shared) + int(active.own.lengths.sum()) / n)

    def _losses(
        self, batch: Batch, active: ActiveSet, common: np.ndarray, own: np.ndarray, threads: int
    ) -> tuple[float, float]:
        """Turn the logits into their gradients; return mean loss and share of hits of the samples that have labels."""
        loss, hit = self._buffers.array("output losses", (2, len(batch)), dtypes.VALUE)
        labelled = max(1, int(np.count_nonzero(np.diff(batch.label_ptr))))
        self.cross_entropy(batch, active, common, own, 1.0 / labelled, loss, hit, threads)
        return float(loss.sum(dtype=np.float64)) / labelled, float(hit.sum()) / labelled

    def activate(self, batch: Batch, inputs: Activations, iteration: int, threads: int) -> ActiveSet:
        """Choose the neurons that a batch computes, as the first part of ``forward``; valid until the next call."""
        shared = self._shared.ids(batch.labels, iteration)
        own, certain = self._own_pairs(batch, inputs, shared, iteration, threads)
        places = self._buffers.array("output label places", batch.labels.shape, dtypes.INDEX)
        label_places(shared, batch.label_ptr, batch.labels, places)
        if certain is None:
            certain = Ragged(places, batch.label_ptr[:-1], batch.label_ptr[1:])
        return ActiveSet(shared, own, certain, places)

    def group(self, active: ActiveSet, threads: int) -> Groups:
        """Group the neurons that samples compute on their own by row; the groups are valid until the next call."""
        return self._pairs.group(active.own, threads)

    def logits(
        self,
        active: ActiveSet,
        groups: Groups,
        inputs: Activations,
        common: np.ndarray,
        now: Pass,
    ) -> np.ndarray:
        """Compute the active neurons' logits; for a softmax, with the logQ correction.

        Logits of the neurons that all samples share are written to `common`, a float32 array [samples, shared]. Those
        of the others are returned, parallel to ``active.own.flat``; they are valid until the next call.
        """
        own = self._pairs.logits(groups, active.own, inputs, now)
        offsets = NOTHING
        if self.config.loss == "softmax":
            offsets = self._shared.offsets(active.shared, len(common))
            self._buffers.note("output corrections", self._shared.corrections)
        shared_logits(self.table, active.shared, offsets, inputs.vectors, common, now.threads, now.rule.owed)
        if len(offsets):
            certain = active.certain
            remove_offsets(common, offsets, certain.begin, certain.end, certain.flat, now.threads)
        return own

    def cross_entropy(
        self,
        batch: Batch,
        active: ActiveSet,
        common: np.ndarray,
        own: np.ndarray,
        scale: float,
        loss: np.ndarray,
        hit: np.ndarray,
        threads: int,
    ) -> None:
        """Turn logits into samples' losses and, in place, into the gradients with respect to them.

        Parameters
        ----------
        batch : Batch
        active : ActiveSet
        common, own : float32 arrays
            What ``logits`` wrote and returned; overwritten.
        scale : float
            The gradients' factor.
        loss, hit : float32 arrays [samples]
            Written: the losses in nats, and 1 where the highest active logit is a label's, else 0.
        threads : int
        """
        cross_entropy = softmax_cross_entropy if self.config.loss == "softmax" else logistic_cross_entropy
        cross_entropy(self._active_sets(batch, active, common, own), scale, loss, hit, threads)

    def _active_sets(self, batch: Batch, active: ActiveSet, common: np.ndarray, own: np.ndarray) -> ActiveSets:
        """Return the logits, the labels among them and their targets, as the kernels in `losses` take them."""
        stands_for = None
        if self.config.label_smoothing or self.config.loss != "softmax":
            stands_for = self._shared.weights(active.shared, len(common))
            self._buffers.note("output corrections", self._shared.corrections)
        return ActiveSets(
            common,
            len(active.shared),
            own,
            active.own.begin,
            active.own.end,
            batch.label_ptr,
            active.places,
            self.targets(batch),
            smoothing=self.config.label_smoothing,
            weight=stands_for,
            certain=active.certain,
        )

    def candidate_weights(self, active: ActiveSet, n: int) -> np.ndarray:
        """Return how many neurons each shared one stands for in a batch of n samples; empty without a correction."""
        return self._shared.weights(active.shared, n)

    def targets(self, batch: Batch) -> np.ndarray:
        """Return the target of each label of the batch in its sample's loss, a float32 array [labels]."""
        if self._label_weights is None and self.config.label_weights != "none":
            raise RuntimeError("label weights by propensity need set_label_weights() before training")
        if self._label_weights is None:
            targets = np.ones(len(batch.labels), dtypes.VALUE)
        else:
            targets = self._label_weights[batch.labels]
        if self.config.loss == "softmax" and self.config.targets == "mean":
            targets /= np.repeat(batch.label_counts(), np.diff(batch.label_ptr))
        return targets

    def scale_deltas(self, factor: float) -> None:
        """Multiply the gradient that ``step`` starts from, and so the gradient of every parameter of the network."""
        assert self._active is not None, "scale_deltas comes after forward"
        _, own, _, common = self._active
        # Places without a pair may hold anything, even infinity.
        with np.errstate(invalid="ignore"):
            own *= factor
            common *= factor

    def step(self, inputs: Activations, gradient: SampleGradient, now: Pass) -> None:
        """Update the parameters after ``forward``, and write the gradient with respect to its `inputs` to `gradient`.

        `now` is the pass of ``forward``, possibly with another rule.
        """
        assert self._active is not None, "step comes after forward"
        self.step_by(*self._active, inputs, gradient, now)

    def step_by(
        self,
        groups: Groups,
        own: np.ndarray,
        shared: np.ndarray,
        common: np.ndarray,
        inputs: Activations,
        gradient: SampleGradient,
        now: Pass,
    ) -> None:
        """Do what ``step`` does, for a batch with these active neurons and gradients of their logits."""
        self._pairs.step(groups, own, inputs, gradient, now)
        shared_step(self.table, shared, common, inputs.vectors, gradient, now.rule, now.threads)

    def _own_pairs(
        self, batch: Batch, inputs: Activations, shared: np.ndarray, iteration: int, threads: int
    ) -> tuple[Ragged, Ragged | None]:
        """Return the neurons of each sample alone, and the places of the shared ones that it found itself.

        The places are None if samples have no neurons of their own, or share none.
        """
        n, budget = len(batch), self.config.budget
        if not self._has_own:
            nowhere = self._buffers.array("output no pairs", (n,), dtypes.OFFSET)
            return Ragged(NOBODY, nowhere, nowhere), None
        labels = Ragged(batch.labels, batch.label_ptr[:-1], batch.label_ptr[1:])
        if self.config.uses_tables:
            assert self.index is not None, "training needs make_index()"
            own = self.index.draw(self._pairs, inputs, labels, budget, iteration, threads)
        elif self.config.uses_search:
            own = self._pairs.best(inputs, labels, budget, threads)
        else:
            own = self._pairs.lay_out(labels, np.zeros((n, 0), dtypes.INDEX))
        if not len(shared):
            return own, None
        counts, taken = own.lengths, np.zeros(n, dtypes.OFFSET)
        places = self._pairs.room("shared candidates", n, len(own.flat) // n)
        self._place[shared] = np.arange(len(shared), dtype=dtypes.INDEX)
        try:
            split_shared(self._place, own.flat.reshape(n, -1), counts, places, taken, threads)
        finally:
            self._place[shared] = -1
        return own._replace(end=own.begin + counts), Ragged(places.reshape(-1), own.begin, own.begin + taken)

    def state(self) -> dict[str, np.ndarray | BFloat16View]:
        """Return writable views of the parameters and of what the optimizer keeps of them, by name."""
        return self.table.state()


UNSEEN = 0.1
"""With init "mean", and for new labels: scale of the random weights of labels that have no training samples, so that
they do not outscore the others."""


def new_labels(table: RowTable, first: int, loss: str) -> None:
    """Start the rows of new labels in a trained layer so that they do not replace known labels in predictions.

    With the loss ``"bce"`` new labels have the mean bias of all others, and random weights, at `UNSEEN` of their
    length, which tell them apart. With a softmax only differences between logits count, and a trained label scores far
    below 0 for samples that do not have it. So the mean of all rows is added, which scores a sample as an average label
    does (Hewitt, *Initializing New Word Embeddings for Pretrained Language Models*, 2021). Without it new labels would
    at first be the best ones for a quarter of all samples, in a test that added 40 labels to 80. With bce the mean row
    would only be more to unlearn.

    The rows of `table` from `first` on have random weights, which are replaced, and zeros.
    """
    weights, bias = table.weights, table.bias
    new = UNSEEN * weights[first:]
    if loss == "softmax":
        new += weights[:first].mean(axis=0, dtype=np.float64)
    weights[first:] = new
    bias[first:] = bias[:first].mean(dtype=np.float64)
