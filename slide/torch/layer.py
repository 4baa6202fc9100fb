"""SampledLinear: the last layer of a network with many labels, as a PyTorch module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from torch import nn

from slide.config import LSHConfig, OutputConfig, RehashConfig, SamplingConfig
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

F = TypeVar("F", bound=Callable[..., Any])


def _eager(method: F) -> F:
    """Keep a method out of ``torch.compile``; unlike ``torch.compiler.disable``, this keeps its signature's types."""
    return torch.compiler.disable(method)


class SampledLogits(NamedTuple):
    """The logits of a batch's candidates, for other losses than the layer's.

    Attributes
    ----------
    ids : int64 tensor [candidates] or [samples, candidates]
        The candidate labels. One row if they are the same for all samples. If samples have candidates of their own, a
        row for each sample: the shared candidates, then its own, and -1 where it has fewer.
    logits : float32 tensor [samples, candidates]
        With the softmax loss, the logits are corrected: a cross-entropy over them estimates that over all labels. Minus
        infinity where a sample has fewer candidates.
    samples, places : int64 tensors [labels]
        For each label of the batch, its sample and the column of its logit. If samples have one label each, `places`
        are the targets of a cross-entropy.
    weights : float32 tensor [candidates] or None
        For each shared candidate, the number of labels that it stands for if it was drawn; None without correction.
    """

    ids: torch.Tensor
    logits: torch.Tensor
    samples: torch.Tensor
    places: torch.Tensor
    weights: torch.Tensor | None


class SampledLinear(RowModule):
    """``nn.Linear`` to many labels together with its loss; a batch computes only a few thousand labels.

    It replaces the last layer and ``CrossEntropyLoss``: ``layer.loss(hidden, targets)`` instead of
    ``criterion(linear(hidden), targets)``. Parameters are float32, on the CPU.

    Parameters
    ----------
    in_features, n_labels : int
        Sizes of the weights.
    config : OutputConfig, optional
        The candidates and the loss. Default: softmax cross-entropy over the batch's labels and 1,024 draws, with the
        logQ correction. `init` and `label_weights` must have their defaults.
    bias : bool
        Whether labels have biases; default True.
    sparse : bool, optional
        Whether gradients of the parameters are sparse tensors of the rows that a batch touched; default: True except
        with ``candidates="full"``. `RowAdam` and PyTorch's ``SparseAdam``, ``SGD`` and ``Adagrad`` take these; other
        optimizers need False, and step all rows.
    ignore_index : int
        The target that stands for no label; default -100.
    seed : int
        Seed of the first weights, the hash functions and the draws; default 0. With the same seed, all processes of
        distributed training have the same weights and draws.
    shard : tuple of int
        ``(rank, processes)``: gives each process draws of its own; default ``(0, 1)``.
    hugepages : bool or str
        Memory pages to ask the kernel for; default ``"auto"``. See `slide.NetworkConfig`.
    threads : int, optional
        Number of threads; default: the result of ``torch.get_num_threads()`` at each call.
    candidates, correction, budget, tail, tail_power, share_labels : optional
        Fields of `slide.OutputConfig` that replace those of `config`, such as ``candidates="lsh+tail", budget=512``.
    loss, targets, label_smoothing, lsh, rehash, sampling : optional
        More such fields.

    Attributes
    ----------
    weight : Parameter [n_labels, in_features]
        A view of the rows that the kernels read, with gaps between rows: they see what is written here.
    bias : Parameter [n_labels] or None
        Such a view of the biases.
    passes : int
        Number of training passes so far, which keys the draws.

    Raises
    ------
    ConfigError, ValueError
        A size, field or option has a value that is not allowed.
    MemoryError
        The rows do not fit into memory.

    Notes
    -----
    Only one thread may use the layer at a time. ``torch.compile`` breaks the graph at the layer, which Python executes.

    Until `set_label_frequency` says how frequent labels are, the layer counts the labels that it is trained on and uses
    the counts for the correction.
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
        candidates: str | None = None,
        correction: str | None = None,
        budget: int | None = None,
        tail: int | None = None,
        tail_power: float | None = None,
        share_labels: bool | None = None,
        loss: str | None = None,
        targets: str | None = None,
        label_smoothing: float | None = None,
        lsh: LSHConfig | None = None,
        rehash: RehashConfig | None = None,
        sampling: SamplingConfig | None = None,
    ):
        fields: dict[str, Any] = {
            "candidates": candidates,
            "correction": correction,
            "budget": budget,
            "tail": tail,
            "tail_power": tail_power,
            "share_labels": share_labels,
            "loss": loss,
            "targets": targets,
            "label_smoothing": label_smoothing,
            "lsh": lsh,
            "rehash": rehash,
            "sampling": sampling,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        config = dataclasses.replace(OutputConfig(loss="softmax") if config is None else config, **given)
        if config.init != "random" or config.label_weights != "none":
            raise ValueError(
                "init and label_weights need the training data, which the layer does not see: set the weights, and "
                "give weights to loss()"
            )
        if not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard must be (rank, processes), with a rank from 0 to processes - 1, got {shard}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be 1 or more, got {threads}")
        super().__init__(in_features, n_labels, config, bias=bias, seed=seed, hugepages=hugepages, threads=threads)
        self.sparse = config.candidates != "full" if sparse is None else sparse
        self.ignore_index, self.shard = ignore_index, tuple(shard)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        config: OutputConfig | None = None,
        sparse: bool | None = None,
        ignore_index: int = -100,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        hugepages: bool | str = "auto",
        threads: int | None = None,
        candidates: str | None = None,
        correction: str | None = None,
        budget: int | None = None,
        tail: int | None = None,
        tail_power: float | None = None,
        share_labels: bool | None = None,
        loss: str | None = None,
        targets: str | None = None,
        label_smoothing: float | None = None,
        lsh: LSHConfig | None = None,
        rehash: RehashConfig | None = None,
        sampling: SamplingConfig | None = None,
    ) -> SampledLinear:
        """Return a layer with copies of a linear layer's weights and biases; the other parameters are the class's."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            config=config,
            bias=linear.bias is not None,
            sparse=sparse,
            ignore_index=ignore_index,
            seed=seed,
            shard=shard,
            hugepages=hugepages,
            threads=threads,
            candidates=candidates,
            correction=correction,
            budget=budget,
            tail=tail,
            tail_power=tail_power,
            share_labels=share_labels,
            loss=loss,
            targets=targets,
            label_smoothing=label_smoothing,
            lsh=lsh,
            rehash=rehash,
            sampling=sampling,
        )
        with torch.no_grad():
            layer.weight.copy_(linear.weight)
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        layer.requires_grad_(linear.weight.requires_grad)
        return layer

    def extra_repr(self) -> str:
        """Return the sizes, the candidates and the loss, for ``repr``."""
        rows = f"in_features={self.in_features}, n_labels={self.n_labels}, bias={self.bias is not None}"
        return f"{rows}, candidates={self.config.candidates!r}, loss={self.config.loss!r}"

    @_eager
    def loss(
        self, hidden: torch.Tensor, targets: object, *, weights: torch.Tensor | None = None, reduction: str = "mean"
    ) -> torch.Tensor:
        """Return the loss over the batch's candidates, which estimates the loss over all labels.

        Parameters
        ----------
        hidden : float tensor [..., in_features]
            Hidden vectors of any floating type; the layer computes in float32.
        targets : int tensor [...] or [..., m], list, or sparse matrix [samples, n_labels]
            One label for each hidden vector; or up to m labels, padded with `ignore_index`; or a list with the labels
            of each sample; or a sparse matrix, of SciPy or PyTorch, with an entry for each label. Samples without
            labels do not count.
        weights : float tensor [...], optional
            Factor of each sample's loss; the mean is then a weighted mean.
        reduction : str
            ``"mean"`` (the default) over the samples that have labels; ``"sum"``; or ``"none"``: each sample's loss, 0
            without labels.

        Returns
        -------
        float32 tensor [] or [...]
            The loss; one for each hidden vector with ``reduction="none"``.

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
            # It counts as a pass: processes whose samples have labels count one, and draws must stay the same on all.
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

    @_eager
    def forward(self, hidden: torch.Tensor, targets: object) -> SampledLogits:
        """Return the logits of the batch's candidates, for other losses; parameters as for ``loss``."""
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
        """Return the losses of samples that all have labels, times `scale`."""
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
        """Return hidden vectors as a matrix of the parameters' type, and their shape without the last dimension."""
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
        # If the sum is finite, all values are; single vectors are checked only if it is not.
        if not torch.isfinite(vectors.detach().sum()):
            wrong = torch.nonzero(~torch.isfinite(vectors.detach()).all(1))
            if len(wrong):
                raise ValueError(
                    f"hidden vector {int(wrong[0])} of {len(vectors)} has values that are not finite or are too large "
                    "for float32: look for an overflow in the layers before"
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
        """Choose a batch's candidates; in training this counts as a pass."""
        engine, batch, threads = self._engine, targets.batch(), self._threads
        if self._in_double and (self.config.uses_tables or self.config.uses_search):
            raise ValueError(
                "a layer in double precision serves to check gradients, with candidates that do not depend on the "
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
    def _steps(self) -> int:
        """The count that rebuilds of tables depend on: steps of `RowAdam` or, without it, training passes."""
        return self.passes if self._engine.optimizer is None else self._engine.optimizer.step

    @former_names(points="samples")
    def set_label_frequency(self, frequency: ArrayLike | torch.Tensor, *, samples: int | None = None) -> None:
        """Set how frequent labels are in the training data, for the correction of logits and for draws by frequency.

        With ``loss="bce"``, the biases of an untrained layer start at the log-odds of the frequencies; without this
        call, training must first bring all biases down.

        Parameters
        ----------
        frequency : float array [n_labels]
            Share of the training samples that have the label, from 0 to 1.
        samples : int, optional
            Number of training samples.

        Raises
        ------
        ValueError
            `frequency` has a wrong length, or a value outside [0, 1].
        """
        self._ready()
        known = torch.as_tensor(frequency).numpy(force=True)
        self._engine.output.set_label_frequency(known, samples=samples)
        self._counts = None
        self._count_again = 0
        self._changed()

    def _count(self, targets):
        """Count labels while no frequencies have been set; the counts are used each time that they have doubled."""
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
        """Build the hash tables from the current weights now, whenever the next rebuild is due."""
        index = self._engine.output.index
        if index is None:
            raise ValueError(f"candidates {self.config.candidates!r} have no hash tables; only modes 'lsh...' have")
        self._ready()
        self.settle()
        index.forget()
        with one_blas_thread():
            index.rebuild(self._steps, self._threads)

    # Prediction.

    @_eager
    def full_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return every label's logit, as ``nn.Linear`` does; gradients, if any, are dense.

        Parameters
        ----------
        hidden : float tensor [..., in_features]
            Hidden vectors.

        Returns
        -------
        float32 tensor [..., n_labels]
            Logits.
        """
        vectors, leading = self._vectors(hidden)
        self.settle()
        return nn.functional.linear(vectors, self.weight, self.bias).reshape(*leading, self.n_labels)

    @torch.no_grad()
    def full_loss(self, hidden: torch.Tensor, targets: object, *, reduction: str = "mean") -> torch.Tensor:
        """Return the softmax cross-entropy over every label, for evaluation: without gradients, in little memory.

        Parameters
        ----------
        hidden, targets, reduction
            As for ``loss``.

        Returns
        -------
        float32 tensor [] or [...]
            As for ``loss``.

        Raises
        ------
        IndexError, ValueError
            As ``loss`` does, or the layer's loss is not ``"softmax"``.
        """
        if self.config.loss != "softmax":
            raise ValueError("full_loss is the softmax cross-entropy, but the layer's loss is 'bce'")
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
        self,
        hidden: torch.Tensor,
        k: int,
        *,
        mode: str = "exact",
        candidates: int | None = None,
        exclude: csr_matrix | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the k labels of highest logit for each hidden vector.

        Parameters
        ----------
        hidden : float tensor [..., in_features]
            Hidden vectors.
        k : int
            Number of labels per hidden vector.
        mode : str
            ``"exact"`` (the default) scores every label. ``"sketch"`` and ``"lsh"`` search an index for candidates and
            score these exactly; ``"lsh-votes"`` counts the hash tables that contain a label. See
            ``build_search_index``.
        candidates : int, optional
            Number of labels that an index proposes per hidden vector, k or more.
        exclude : sparse matrix [samples, n_labels], optional
            Labels that must not be returned: entries that are not zero.

        Returns
        -------
        ids : int64 tensor [..., k]
            Labels, best first; -1 where fewer than k were found.
        logits : float32 tensor [..., k]
            Their logits.

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
        """Build the index of a mode of ``topk`` other than ``"exact"``, from the current weights.

        Parameters
        ----------
        mode : str
            ``"sketch"`` (the default) or ``"lsh"``, whose index ``"lsh-votes"`` searches too.
        hidden : float tensor [..., in_features], optional
            For a sketch, which needs them: a few thousand hidden vectors like those to come.
        dims, coverage, lsh
            As for `slide.Network.build_search_index`.

        Returns
        -------
        SketchIndex or HashIndex
            The index; `nbytes` is its size.

        Raises
        ------
        ValueError
            The mode has no index, or a sketch lacks hidden vectors.
        """
        if mode not in INDEXES:
            raise ValueError(f"mode must be one of {', '.join(INDEXES)}, got {mode!r}")
        self._ready()
        self.settle()
        table, threads = self._engine.table, self._threads
        index: SketchIndex | HashIndex
        with one_blas_thread():
            if mode == "sketch":
                if hidden is None:
                    raise ValueError("a sketch needs hidden vectors like those to come; a few thousand are enough")
                padded = self._engine.pad(self._vectors(hidden)[0])
                index = SketchIndex(table, padded, dims=dims, coverage=coverage, seed=self.seed, threads=threads)
            else:
                index = HashIndex(table, lsh or self.config.lsh, seed=self.seed, threads=threads)
        self._search.add(mode, index, self._engine)
        return index

    def memory_report(self) -> list[dict]:
        """Return one dict for each large buffer; see `slide.system.buffers.Buffers.report`."""
        return self._engine.buffers.report()
