"""SampledLinear: the last layer of a network with many labels, as a PyTorch module."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from slide.config import LSHConfig, OutputConfig
from slide.kernels import dtypes
from slide.kernels.search import exact_topk
from slide.predict.indexes import INDEXES, HashIndex, SketchIndex
from slide.predict.masks import Exclusions
from slide.predict.topk import Block, Finder, Masks
from slide.system.blas import one_blas_thread
from slide.system.renames import former_names
from slide.torch import double
from slide.torch.engine import candidates_of_samples
from slide.torch.functions import CandidateLogits, CandidateLosses, NoLosses
from slide.torch.parameters import RowModule
from slide.torch.targets import read_targets

REDUCTIONS = ("mean", "sum", "none")


class SampledLogits(NamedTuple):
    """The logits of a batch's candidates, for losses of one's own.

    Attributes
    ----------
    ids : int64 tensor [candidates] or [samples, candidates]
        The labels that are candidates: the same for all samples, or those and each sample's own, -1 where it has
        fewer.
    logits : float32 tensor [samples, candidates]
        With the softmax loss corrected: a cross-entropy over them estimates that over all labels. Minus infinity where
        a sample has fewer candidates.
    samples, places : int64 tensors [labels]
        Of each label of the batch its sample, and the column of its logit. With one label a sample `places` are the
        targets of a cross-entropy.
    weights : float32 tensor [candidates] or None
        How many labels each candidate stands for that is there because it was drawn; None where nothing is corrected.
    """

    ids: torch.Tensor
    logits: torch.Tensor
    samples: torch.Tensor
    places: torch.Tensor
    weights: torch.Tensor | None


class SampledLinear(RowModule):
    """``nn.Linear`` to many labels and the loss behind it, of which a batch computes a few thousand labels.

    It takes the place of the last layer and of ``CrossEntropyLoss``: ``layer.loss(hidden, targets)`` in place of
    ``criterion(linear(hidden), targets)``. Parameters are float32, on the CPU.

    Parameters
    ----------
    in_features, n_labels : int
    config : OutputConfig, optional
        The candidates and the loss. By default softmax cross-entropy over the batch's labels and 1,024 draws, with the
        logQ correction.
    bias : bool
    sparse : bool, optional
        Whether gradients of the parameters are sparse tensors of the rows that a batch touched, as `RowAdam`,
        ``SparseAdam``, ``SGD`` and ``Adagrad`` of PyTorch take them; other optimizers want False, and step all rows. By
        default all modes but ``candidates="full"``.
    ignore_index : int
        The target that stands for no label.
    seed : int
        Of the first weights, the hash functions and the draws. The same on every process of distributed training, it
        gives all the same weights and draws.
    shard : tuple of int
        ``(rank, processes)``: gives each process draws of its own.
    hugepages : bool or str
        What pages to ask the kernel for; see `slide.NetworkConfig`.
    threads : int, optional
        By default what ``torch.get_num_threads()`` says at every call.
    **options
        Fields of `config` that are to be different, such as ``candidates="lsh+tail", budget=512``.

    Attributes
    ----------
    weight : Parameter [n_labels, in_features]
        A view of the rows that the kernels read, with gaps between rows: what is written here they see.
    bias : Parameter [n_labels] or None
        Likewise.
    passes : int
        Training passes so far: they key the draws.

    Raises
    ------
    ConfigError, ValueError
        A size, field or option is not what it may be.
    MemoryError
        The rows do not fit.

    Notes
    -----
    One thread at a time. ``torch.compile`` leaves the layer to Python: it breaks the graph there.

    While no `set_label_frequency` has said how common labels are, the layer counts those it is trained on, and corrects
    by that.
    """

    def __init__(
        self,
        in_features: int,
        n_labels: int,
        *,
        config: OutputConfig | None = None,
        bias: bool = True,
        sparse: bool | None = None,
        ignore_index: int = -100,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        hugepages: bool | str = "auto",
        threads: int | None = None,
        **options,
    ):
        config = OutputConfig(loss="softmax") if config is None else config
        unknown = sorted(set(options) - {field.name for field in dataclasses.fields(OutputConfig)})
        if unknown:
            raise TypeError(f"SampledLinear has no option {unknown[0]!r}; OutputConfig lists the fields it takes")
        config = dataclasses.replace(config, **options)
        if config.init != "random" or config.label_weights != "none":
            raise ValueError(
                "init and label_weights look at the training data, which the layer does not see: set the weights, and "
                "give weights to loss()"
            )
        if not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard must be a rank and the number of processes above it, got {shard}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be 1 or more, got {threads}")
        super().__init__(in_features, n_labels, config, bias=bias, seed=seed, hugepages=hugepages, threads=threads)
        self.sparse = config.candidates != "full" if sparse is None else sparse
        self.ignore_index, self.shard = ignore_index, tuple(shard)

    def extra_repr(self) -> str:
        """Say what the layer is."""
        rows = f"in_features={self.in_features}, n_labels={self.n_labels}, bias={self.bias is not None}"
        return f"{rows}, candidates={self.config.candidates!r}, loss={self.config.loss!r}"

    @torch.compiler.disable
    def loss(
        self, hidden: torch.Tensor, targets, *, weights: torch.Tensor | None = None, reduction: str = "mean"
    ) -> torch.Tensor:
        """Return the loss over the batch's candidates, which estimates that over all labels.

        Parameters
        ----------
        hidden : float tensor [..., in_features]
            Of any floating type; the layer computes in float32.
        targets : int tensor [...] or [..., m], list, or sparse matrix [samples, n_labels]
            One label for each hidden vector, or up to m, padded with `ignore_index`; a list of each sample's; a
            matrix, of SciPy or sparse of PyTorch, with an entry for each. A sample without labels does not count.
        weights : float tensor [...], optional
            What each sample's loss is multiplied by; the mean is then a weighted one.
        reduction : str
            ``"mean"`` over the samples that have labels, ``"sum"``, or ``"none"``: each sample's, 0 for those without.

        Returns
        -------
        float32 tensor [] or [...]

        Raises
        ------
        IndexError
            A label is out of range.
        ValueError
            Shapes or types do not fit, or a hidden vector is not finite.
        """
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        vectors, leading = self._vectors(hidden)
        found = read_targets(targets, leading, self.n_labels, self.ignore_index)
        n, labelled = len(vectors), np.flatnonzero(np.diff(found.ptr))
        weights = self._sample_weights(weights, leading)
        if not len(labelled):
            # A pass all the same: other processes, whose samples have labels, must go on drawing what this one draws.
            self.passes += self.training
            nothing = NoLosses.apply(vectors, self.weight, self.bias).reshape(leading)
            return nothing if reduction == "none" else nothing.sum()
        kept = None
        if len(labelled) < n:
            kept = torch.from_numpy(labelled)
            vectors, found = vectors.index_select(0, kept), found.of(labelled)
            weights = None if weights is None else weights.index_select(0, kept)
        mean = reduction == "mean" and weights is None
        losses = self._losses(vectors, found, 1.0 / len(labelled) if mean else 1.0)
        if weights is not None:
            losses = losses * weights
        if reduction == "none":
            if kept is not None:
                losses = losses.new_zeros(n).index_copy(0, kept, losses)
            return losses.reshape(leading)
        total = losses.sum()
        return total / weights.sum() if reduction == "mean" and weights is not None else total

    @torch.compiler.disable
    def forward(self, hidden: torch.Tensor, targets) -> SampledLogits:
        """Return the logits of the batch's candidates, for losses of one's own; see ``loss`` for the parameters."""
        vectors, leading = self._vectors(hidden)
        if not len(vectors):
            raise ValueError("there are no hidden vectors to compute logits of")
        found = read_targets(targets, leading, self.n_labels, self.ignore_index)
        samples = torch.from_numpy(np.repeat(np.arange(len(vectors)), np.diff(found.ptr)))
        activation = self._activate(vectors, found)
        active = activation.active
        places = torch.from_numpy(active.places.astype(np.int64))
        ids = torch.from_numpy(active.shared.astype(np.int64))
        if self._in_double:
            scores = self._score_in_double(vectors, activation)
            logits = scores.logits
            if self.config.loss == "softmax":
                logits = logits + scores.stands_for.log()
            logits = logits.masked_fill(~scores.there, -torch.inf)
        else:
            common, own = self._logits(vectors, activation)
            logits = common
        if len(active.own.flat):
            own_ids, there = candidates_of_samples(active)
            ids = torch.cat([ids.expand(len(vectors), -1), own_ids.masked_fill(~there, -1)], 1)
            if not self._in_double:
                logits = torch.cat([common, own.masked_fill(~there, -torch.inf)], 1)
        weights = self._engine.output.candidate_weights(active, len(vectors))
        return SampledLogits(ids, logits, samples, places, torch.from_numpy(weights) if len(weights) else None)

    def _losses(self, vectors, targets, scale):
        """Losses of samples that all have labels, times `scale`."""
        activation = self._activate(vectors, targets)
        if not self._in_double:
            common, own = self._logits(vectors, activation)
            return CandidateLosses.apply(common, own, self._engine, activation, scale, self._threads)
        scores = self._score_in_double(vectors, activation)
        samples = torch.from_numpy(np.repeat(np.arange(len(vectors)), np.diff(targets.ptr)))
        places = torch.from_numpy(activation.active.places.astype(np.int64))
        target = torch.from_numpy(self._engine.output.targets(activation.batch))
        return scale * double.losses(scores, samples, places, target, self.config)

    def _vectors(self, hidden):
        """Hidden vectors as a matrix of the parameters' type, and their shape but for the last dimension."""
        if not isinstance(hidden, torch.Tensor) or not hidden.is_floating_point():
            what = hidden.dtype if isinstance(hidden, torch.Tensor) else type(hidden).__name__
            raise ValueError(f"hidden must be a tensor of a floating type, got {what}")
        if hidden.ndim == 0 or hidden.shape[-1] != self.in_features:
            raise ValueError(f"hidden must be [..., {self.in_features}], got {list(hidden.shape)}")
        if hidden.device.type != "cpu":
            raise ValueError(f"SampledLinear computes on the CPU: give it hidden.cpu(), got hidden on {hidden.device}")
        self._ready()
        leading = tuple(hidden.shape[:-1])
        vectors = hidden.to(self.weight.dtype).reshape(-1, self.in_features)
        # A sum is finite if all of it is; only where it is not the vectors are looked at one by one.
        if not torch.isfinite(vectors.detach().sum()):
            wrong = torch.nonzero(~torch.isfinite(vectors.detach()).all(1))
            if len(wrong):
                raise ValueError(
                    f"hidden vector {int(wrong[0])} of {len(vectors)} has values that are not finite, or too large for "
                    "float32: look for an overflow in the layers before"
                )
        return vectors, leading

    def _sample_weights(self, weights, leading):
        if weights is None:
            return None
        weights = torch.as_tensor(weights)
        if tuple(weights.shape) != leading:
            raise ValueError(f"weights must be {list(leading)}, one for each hidden vector, got {list(weights.shape)}")
        return weights.reshape(-1).to(self.weight.dtype)

    def _activate(self, vectors, targets):
        """Choose a batch's candidates; in training that counts as a pass."""
        engine, batch, threads = self._engine, targets.batch(), self._threads
        if self._in_double and (self.config.uses_tables or self.config.uses_search):
            raise ValueError(
                f"a layer in double precision is there to check gradients, with candidates that do not depend on the "
                f"weights, not {self.config.candidates!r}: call float() on it"
            )
        if self.training or engine.output.label_frequency is None:
            self._count(targets)
        index = engine.output.index
        if index is not None and (self.training or not index.rebuilds):
            with one_blas_thread():
                index.rebuild_if_due(self._steps, threads)
        rank, processes = self.shard
        hidden = engine.pad(vectors.float())
        activation = engine.activate(batch, hidden, self.passes * processes + rank, threads)
        self.passes += self.training
        return activation

    def _logits(self, vectors, activation):
        arguments = self._engine, activation, self._threads, self.sparse
        return CandidateLogits.apply(vectors, self.weight, self.bias, *arguments)

    def _score_in_double(self, vectors, activation):
        active = activation.active
        n, shared = len(vectors), torch.from_numpy(active.shared.astype(np.int64))
        bias = self.bias if self.bias is not None else self.weight.new_zeros(self.n_labels)
        logits = vectors @ self.weight[shared].T + bias[shared]
        there = torch.ones(logits.shape, dtype=torch.bool)
        stands_for = torch.ones(logits.shape, dtype=torch.float64)
        weights = self._engine.output.candidate_weights(active, n)
        if len(weights):
            stands_for *= torch.from_numpy(weights)
            samples, places = active.certain.places()
            stands_for[samples, active.certain.flat[places]] = 1.0
        if len(active.own.flat):
            ids, own_there = candidates_of_samples(active)
            ids = ids.masked_fill(~own_there, 0)
            own = (vectors[:, None, :] * self.weight[ids]).sum(2) + bias[ids]
            logits, there = torch.cat([logits, own], 1), torch.cat([there, own_there], 1)
            stands_for = torch.cat([stands_for, torch.ones(own.shape, dtype=torch.float64)], 1)
        return double.Scores(logits, there, stands_for)

    # Labels' frequencies, and the tables.

    @property
    def _steps(self):
        """What the rebuilds of tables go by: steps of `RowAdam`, or training passes."""
        return self.passes if self._engine.optimizer is None else self._engine.optimizer.step

    @former_names(points="samples")
    def set_label_frequency(self, frequency, *, samples: int | None = None) -> None:
        """Say how common each label is in the training data, for the correction of the logits, and draws by frequency.

        With ``loss="bce"`` the biases of a layer that has not been trained start at the frequencies' log-odds; without
        them training has first to bring all biases down.

        Parameters
        ----------
        frequency : float array [n_labels]
            Share of the training samples that have the label, from 0 to 1.
        samples : int, optional
            How many samples these are.

        Raises
        ------
        ValueError
            Wrong length, or a value outside [0, 1].
        """
        self._ready()
        frequency = torch.as_tensor(frequency).numpy(force=True)
        self._engine.output.set_label_frequency(frequency, samples=samples)
        self._counts = None
        self._count_again = 0
        self._changed()

    def _count(self, targets):
        """Count labels while nobody has said how frequent they are; look at the counts anew when they have doubled."""
        config = self.config
        corrects = config.uses_shared and config.correction == "logq"
        if not self._count_again or not (corrects or config.tail_power):
            return
        if self._counts is None:
            self._counts = np.zeros(self.n_labels, np.int64)
        np.add.at(self._counts, targets.labels, 1)
        self._counted += len(targets.ptr) - 1
        if self._counted >= self._count_again:
            self._count_again = 2 * self._counted
            self._take_counts()

    def rebuild_index(self) -> None:
        """Build the hash tables anew from the weights as they are, whenever the next rebuild is due."""
        index = self._engine.output.index
        if index is None:
            raise ValueError(f"candidates {self.config.candidates!r} have no hash tables; 'lsh' and its kin have")
        self._ready()
        self.settle()
        index.forget()
        with one_blas_thread():
            index.rebuild(self._steps, self._threads)

    # Prediction.

    @torch.compiler.disable
    def full_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return every label's logit, as ``nn.Linear`` does; gradients, if any, are dense.

        Parameters
        ----------
        hidden : float tensor [..., in_features]

        Returns
        -------
        float32 tensor [..., n_labels]
        """
        vectors, leading = self._vectors(hidden)
        self.settle()
        return nn.functional.linear(vectors, self.weight, self.bias).reshape(*leading, self.n_labels)

    @torch.no_grad()
    def full_loss(self, hidden: torch.Tensor, targets, *, reduction: str = "mean") -> torch.Tensor:
        """Return the softmax cross-entropy over every label, to judge by: no gradients, and little memory.

        Parameters
        ----------
        hidden, targets, reduction
            As of ``loss``.

        Raises
        ------
        IndexError, ValueError
            As ``loss`` does, or the layer's loss is not ``"softmax"``.
        """
        if self.config.loss != "softmax":
            raise ValueError("full_loss is the softmax cross-entropy, and the layer's loss is 'bce'")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        vectors, leading = self._vectors(hidden)
        found = read_targets(targets, leading, self.n_labels, self.ignore_index)
        self.settle()
        n, counts = len(vectors), torch.from_numpy(np.diff(found.ptr))
        log_partition = self._log_partition(vectors)
        samples = torch.from_numpy(np.repeat(np.arange(n), counts.numpy()))
        target = torch.from_numpy(self._engine.output.targets(found.batch())).to(vectors.dtype)
        labels = torch.from_numpy(found.labels.astype(np.int64))
        logits = torch.einsum("ld,ld->l", vectors[samples], self.weight[labels])
        if self.bias is not None:
            logits += self.bias[labels]
        losses = vectors.new_zeros(n).index_add_(0, samples, target * (log_partition[samples] - logits))
        if reduction == "none":
            return losses.reshape(leading)
        total = losses.sum(dtype=torch.float64).to(losses.dtype)
        return total / max(1, int((counts > 0).sum())) if reduction == "mean" else total

    def _log_partition(self, vectors):
        if self._in_double:
            return nn.functional.linear(vectors, self.weight, self.bias).logsumexp(1)
        n = len(vectors)
        ids, scores = np.empty((n, 1), dtypes.INDEX), np.empty((n, 1), dtypes.VALUE)
        log_partition = np.empty(n, dtypes.VALUE)
        nobody = np.zeros(0, dtypes.OFFSET), np.zeros(0, dtypes.INDEX)
        with one_blas_thread():
            exact_topk(
                self._engine.table, self._engine.pad(vectors), *nobody, ids, scores, self._threads, log_partition
            )
        return torch.from_numpy(log_partition)

    @torch.no_grad()
    def topk(
        self, hidden: torch.Tensor, k: int, *, mode: str = "exact", candidates: int | None = None, exclude=None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each hidden vector's k labels of highest logit.

        Parameters
        ----------
        hidden : float tensor [..., in_features]
        k : int
        mode : str
            ``"exact"`` scores every label. ``"sketch"`` and ``"lsh"`` search an index for candidates and score these
            exactly, ``"lsh-votes"`` counts hash tables; see ``build_search_index``.
        candidates : int, optional
            Labels that an index proposes, k at least.
        exclude : sparse matrix [samples, n_labels], optional
            Entries that are not zero mark labels that are not to be returned.

        Returns
        -------
        ids : int64 tensor [..., k]
            Best first; -1 where fewer were found.
        logits : float32 tensor [..., k]

        Raises
        ------
        RuntimeError
            There is no index for the mode, or the weights have changed since it was made.
        ValueError
            Shapes or types do not fit, k or `candidates` is not positive, or there is no such mode.
        """
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        vectors, leading = self._vectors(hidden)
        if self._in_double:
            raise ValueError("topk reads float32 parameters: call float() on the layer")
        self.settle()
        engine = self._engine
        finder = Finder.of(
            engine.table, mode, candidates, lambda name: self._search.get(name, engine), self._threads
        )
        ids, scores = np.empty((len(vectors), k), dtypes.INDEX), np.empty((len(vectors), k), dtypes.VALUE)
        masks = Masks(Exclusions(exclude, len(vectors)), None)
        with one_blas_thread():
            finder.find(Block(engine.pad(vectors), slice(0, len(vectors)), ids, scores), masks)
        shape = (*leading, k)
        return torch.from_numpy(ids.astype(np.int64)).reshape(shape), torch.from_numpy(scores).reshape(shape)

    @torch.no_grad()
    def build_search_index(
        self,
        mode: str = "sketch",
        hidden: torch.Tensor | None = None,
        *,
        dims: int = 64,
        coverage: float = 1.0,
        lsh: LSHConfig | None = None,
    ) -> SketchIndex | HashIndex:
        """Prepare ``topk`` in another mode than ``"exact"``, for the weights as they are.

        Parameters
        ----------
        mode : str
            ``"sketch"`` or ``"lsh"``.
        hidden : float tensor [..., in_features], optional
            Hidden vectors like those to come, a few thousand: a sketch needs them.
        dims, coverage, lsh
            See `slide.Network.build_search_index`.

        Raises
        ------
        ValueError
            There is no such index, or it lacks hidden vectors.
        """
        if mode not in INDEXES:
            raise ValueError(f"mode must be one of {', '.join(INDEXES)}, got {mode!r}")
        self._ready()
        self.settle()
        table, options = self._engine.table, {"seed": self.seed, "threads": self._threads}
        with one_blas_thread():
            if mode == "sketch":
                if hidden is None:
                    raise ValueError("a sketch needs hidden vectors like those to come: a few thousand do")
                padded = self._engine.pad(self._vectors(hidden)[0])
                index = SketchIndex(table, padded, dims=dims, coverage=coverage, **options)
            else:
                index = HashIndex(table, lsh or self.config.lsh, **options)
        self._search.add(mode, index, self._engine)
        return index

    def memory_report(self) -> list[dict]:
        """Return one dict for each large buffer; see `slide.system.buffers.Buffers.report`."""
        return self._engine.buffers.report()
