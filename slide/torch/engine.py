"""The rows behind a `SampledLinear`: their candidates, logits and gradients, as arrays, without autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from slide.config import OptimizerConfig, OutputConfig
from slide.data.batches import Batch
from slide.kernels import dtypes
from slide.kernels.catch_up import catch_up
from slide.kernels.dense import shared_gradients
from slide.kernels.gradients import row_gradients, step_rows
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import measure, step_groups
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient
from slide.model.output import ActiveSet, OutputLayer
from slide.rows.activations import Activations
from slide.rows.optimizer import Optimizer
from slide.rows.passes import Pass
from slide.rows.storage import Storage
from slide.system.blas import one_blas_thread
from slide.system.buffers import Buffers


class Activation(NamedTuple):
    """A batch whose candidates have been chosen; it shares no memory with the next batch.

    Attributes
    ----------
    batch : Batch
        The labels.
    hidden : float32 array [samples, padded_dim]
        The hidden vectors.
    active : ActiveSet
        The candidates. All samples have room for the same number of candidates of their own.
    """

    batch: Batch
    hidden: np.ndarray
    active: ActiveSet


class Gradients(NamedTuple):
    """Gradients of a batch; None if they were not asked for.

    Attributes
    ----------
    hidden : float32 tensor [samples, dim]
        Gradients of the hidden vectors.
    rows : int64 tensor [rows]
        The rows that the next two belong to, each once.
    weights : float32 tensor [rows, dim]
        Gradients of the weights.
    bias : float32 tensor [rows]
        Gradients of the biases.
    ascending : bool
        Whether the rows ascend. If not, those that the batch shares come first, then the others; both parts ascend.
    """

    hidden: torch.Tensor | None
    rows: torch.Tensor | None
    weights: torch.Tensor | None
    bias: torch.Tensor | None
    ascending: bool


class Engine:
    """An output layer's rows, and all computations with them; see `slide.torch.SampledLinear` for the parameters.

    Attributes
    ----------
    output : OutputLayer
    biased : bool
        Whether labels have biases.
    optimizer : Optimizer or None
        Makes the steps of rows, and knows which steps they are behind with; None while the layer has no `RowAdam`.
    step, weights_version : int
        Search indexes are valid for one pair of these. Every change of the weights raises the version, so that the step
        stays 0.
    steps_in_backward : bool
        Whether the backward pass takes the step of each row that it visits.
    stepped : bool
        Whether it has done so since the optimizer last counted a step.
    lr_factor : callable
        Returns the current factor of the optimizer's learning rate.
    """

    def __init__(
        self,
        n_labels: int,
        dim: int,
        config: OutputConfig,
        *,
        biased: bool,
        seed: int,
        hugepages: bool | str,
        threads: int,
    ):
        self._options = config, biased, seed
        self.biased = biased
        self.buffers = Buffers(hugepages=hugepages)
        self.output = self._make(n_labels, dim, Storage(), threads)
        self.output.make_index()
        self.optimizer: Optimizer | None = None
        self.step, self.weights_version = 0, 0
        self.steps_in_backward = self.stepped = False
        self.lr_factor: Callable[[], float] = lambda: 1.0
        self._gradient: SampleGradient | None = None
        self._grouped: ActiveSet | None = None

    def _make(self, n_labels, dim, storage, threads):
        config, biased, seed = self._options
        return OutputLayer(n_labels, dim, config, storage, seed, self.buffers, threads, biased=biased)

    @property
    def table(self) -> RowTable:
        """The rows."""
        return self.output.table

    def optimize(self, config: OptimizerConfig, threads: int) -> None:
        """Start an optimizer with moments of zero.

        If the rows had no moments, they are moved in memory: views of them must be made again.
        """
        self.settle(threads)
        table = self.table
        if table.moments < 2:
            larger = self._make(table.n_rows, table.dim, Storage(2), threads)
            larger.take_over(self.output)
            self.output = larger
        else:
            for name, array in table.state().items():
                if name not in ("weights", "bias"):
                    array[...] = 0
        if self.output.index is not None:
            self.output.index.reset()
        self.optimizer, self.stepped = Optimizer(config), False

    def settle(self, threads: int) -> None:
        """Let all rows catch up with the steps that skipped them."""
        if self.optimizer is not None and (owed := self.optimizer.owed()) is not None:
            catch_up(self.table, None, owed, threads)
            self.optimizer.settled()

    def catch_up(self, rows: np.ndarray, threads: int) -> None:
        """Let some rows, ascending and each once, catch up."""
        owed = None if self.optimizer is None else self.optimizer.owed()
        if owed is not None:
            catch_up(self.table, rows.astype(dtypes.INDEX, copy=False), owed, threads)

    def pad(self, hidden: torch.Tensor) -> np.ndarray:
        """Return float32 vectors as the kernels read them: a view where they have as many columns as rows are wide."""
        hidden, width = hidden.detach(), self.table.padded_dim
        if hidden.shape[1] == width:
            return hidden.contiguous().numpy()
        padded = np.zeros((hidden.shape[0], width), dtypes.VALUE)
        padded[:, : hidden.shape[1]] = hidden.numpy()
        return padded

    def activate(self, batch: Batch, hidden: np.ndarray, key: int, threads: int) -> Activation:
        """Choose the candidates of a batch with hidden vectors [samples, padded_dim]; seed and `key` key the draws."""
        with one_blas_thread():
            active = self.output.activate(batch, Activations.of_vectors(hidden), key, threads)
        own, certain, places = active.own, active.certain, active.places.copy()
        # The next batch, which may come before this one's backward pass, overwrites the layer's own arrays.
        own = own._replace(flat=own.flat.copy())
        certain = certain._replace(flat=places if certain.flat is active.places else certain.flat.copy())
        shared = active.shared if self.output.config.candidates == "full" else active.shared.copy()
        return Activation(batch, hidden, ActiveSet(shared, own, certain, places))

    def logits(self, activation: Activation, threads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of the shared candidates [samples, shared], and of samples' own [samples, room]."""
        active, n = activation.active, len(activation.hidden)
        common = torch.empty((n, len(active.shared)))
        now = self._pass(threads)
        inputs = Activations.of_vectors(activation.hidden)
        with one_blas_thread():
            groups = self._group(active, threads)
            own = self.output.logits(active, groups, inputs, common.numpy(), now)
        room = len(own) // max(1, n)
        own = torch.from_numpy(own).reshape(n, room).clone()
        if room:
            # Places that a sample does not use have arbitrary values.
            own.masked_fill_(torch.arange(room) >= torch.from_numpy(active.own.lengths)[:, None], 0.0)
        return common, own

    def losses(
        self, activation: Activation, common: np.ndarray, own: np.ndarray, scale: float, threads: int
    ) -> torch.Tensor:
        """Return samples' losses; the logits are overwritten with their gradients times `scale`."""
        loss, hit = np.empty((2, len(activation.hidden)), dtypes.VALUE)
        self.output.cross_entropy(
            activation.batch, activation.active, common, own.reshape(-1), scale, loss, hit, threads
        )
        return torch.from_numpy(loss)

    def gradients(
        self,
        activation: Activation,
        common: torch.Tensor,
        own: torch.Tensor,
        threads: int,
        *,
        for_hidden: bool,
        for_rows: bool,
    ) -> Gradients:
        """Return gradients, from those of the logits that ``logits`` returned, with the current weights."""
        active, hidden, dim = activation.active, activation.hidden, self.table.dim
        groups = self._group(active, threads) if len(active.own.flat) else None
        n_shared, deltas = len(active.shared), own.reshape(-1).numpy()
        n_rows = n_shared + (groups.n_groups if groups else 0)
        to_hidden = np.empty(hidden.shape, dtypes.VALUE) if for_hidden else None
        weights = np.empty((n_rows, hidden.shape[1]), dtypes.VALUE) if for_rows else None
        bias = np.empty(n_rows, dtypes.VALUE) if for_rows else None
        with one_blas_thread():
            shared_gradients(self.table, active.shared, common.numpy(), hidden, to_hidden, weights, bias, threads)
        if groups and to_hidden is not None:
            gradient, of_own = self._gathered(len(hidden)), np.empty_like(to_hidden)
            step_groups(self.table, groups, deltas, hidden, gradient, measure(), threads)
            gradient.sum_into(of_own, None, threads)
            to_hidden += of_own
        to_vectors = None if to_hidden is None else torch.from_numpy(to_hidden)[:, :dim]
        ascending = not groups or not n_shared
        if weights is None or bias is None:
            return Gradients(to_vectors, None, None, None, ascending)
        rows = np.empty(n_rows, np.int64)
        rows[:n_shared] = active.shared
        if groups:
            rows[n_shared:] = groups.rows_in_place
            row_gradients(groups, deltas, hidden, weights[n_shared:], bias[n_shared:], threads)
        arrays = torch.from_numpy(rows), torch.from_numpy(weights)[:, :dim], torch.from_numpy(bias)
        return Gradients(to_vectors, *arrays, ascending)

    def step_now(self, activation: Activation, common: torch.Tensor, own: torch.Tensor, threads: int) -> torch.Tensor:
        """Step the rows of a batch by the gradients of its logits, and return the hidden vectors' gradient.

        Raises
        ------
        RuntimeError
            The optimizer has not yet counted the last such step.
        """
        if self.stepped:
            raise RuntimeError(
                "RowAdam(step_in_backward=True) takes one backward pass for each step(): to add up the gradients of "
                "several passes, leave step_in_backward out"
            )
        active, hidden = activation.active, activation.hidden
        gradient = self._gathered(len(hidden))
        with one_blas_thread():
            self.output.step_by(
                self._group(active, threads),
                own.reshape(-1).numpy(),
                active.shared,
                common.numpy(),
                Activations.of_vectors(hidden),
                gradient,
                self._pass(threads, self.lr_factor()),
            )
        to_hidden = np.empty(hidden.shape, dtypes.VALUE)
        gradient.sum_into(to_hidden, None, threads)
        self.stepped = True
        return torch.from_numpy(to_hidden)[:, : self.table.dim]

    def step_rows(
        self, rows: np.ndarray, weights: torch.Tensor, bias: np.ndarray, lr_factor: float, threads: int
    ) -> None:
        """Step rows, int32 [n], ascending and each once, by their gradients: float32 [n, dim] and [n]."""
        assert self.optimizer is not None, "RowAdam has started one"
        rule = self.optimizer.rule(lr_factor)
        if rule.owed is not None:
            catch_up(self.table, rows, rule.owed, threads)
        step_rows(self.table, rows, self.pad(weights), bias, rule, threads)

    def _pass(self, threads: int, lr_factor: float = 1.0) -> Pass:
        """Return the description of a pass for the output layer; without an optimizer, no row is ever behind."""
        rule = measure() if self.optimizer is None else self.optimizer.rule(lr_factor)
        return Pass(rule, 0, threads)

    def _gathered(self, n: int) -> SampleGradient:
        """Return an empty sum of gradients for n samples."""
        if self._gradient is None or self._gradient.n_samples < n:
            self._gradient = SampleGradient(n, self.table.padded_dim, hugepages=self.buffers.hugepages)
            self.buffers.add("hidden gradient", self._gradient.buffer_owner)
        self._gradient.clear()
        return self._gradient

    def _group(self, active: ActiveSet, threads: int) -> PairGroups:
        """Return the pairs grouped by row; those of the last batch are kept."""
        if self._grouped is not active or not len(active.own.flat):
            self._groups = self.output.group(active, threads)
            self._grouped = active
        return self._groups


def candidates_of_samples(active: ActiveSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids of samples' own candidates, int64 [samples, room], and which of the places are used."""
    lengths = torch.from_numpy(active.own.lengths)
    ids = torch.from_numpy(active.own.flat.astype(np.int64)).reshape(len(lengths), -1)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]
