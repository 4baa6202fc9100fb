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
from slide.kernels.optim import measure, step_groups
from slide.kernels.sparse import SampleGradient
from slide.model.output import ActiveSet, OutputLayer
from slide.rows.activations import Activations
from slide.rows.optimizer import Optimizer
from slide.rows.passes import Pass
from slide.rows.storage import Storage
from slide.system.blas import one_blas_thread
from slide.system.buffers import Buffers


class Activation(NamedTuple):
    """A batch whose candidates were chosen; it shares no memory with the next one's.

    Attributes
    ----------
    batch : Batch
        Its labels.
    hidden : float32 array [samples, padded_dim]
    active : ActiveSet
        Every sample has room for as many candidates of its own.
    """

    batch: Batch
    hidden: np.ndarray
    active: ActiveSet


class Gradients(NamedTuple):
    """Gradients of a batch; None where nobody asked.

    Attributes
    ----------
    hidden : float32 tensor [samples, dim]
    rows : int64 tensor [rows]
        Each once.
    weights : float32 tensor [rows, dim]
    bias : float32 tensor [rows]
    ascending : bool
        Whether the rows are. If not, those that the batch shares come first, then the others.
    """

    hidden: torch.Tensor | None
    rows: torch.Tensor | None
    weights: torch.Tensor | None
    bias: torch.Tensor | None
    ascending: bool


class Engine:
    """An output layer's rows, and what is done with them.

    Parameters
    ----------
    n_labels, dim : int
    config : OutputConfig
    biased : bool
    seed : int
    hugepages : bool or str
    threads : int
        For drawing the first weights.

    Attributes
    ----------
    output : OutputLayer
    biased : bool
    optimizer : Optimizer or None
        Makes the steps that rows get in place, and knows what they owe; None while no `RowAdam` has the layer.
    step, weights_version : int
        What search indexes are told apart by: every change of the weights counts as one from outside, so that the step
        stays 0.
    steps_in_backward : bool
        Whether the backward pass takes the step of each row it visits.
    stepped : bool
        Whether it has done so since the optimizer last counted a step.
    lr_factor : callable
        Returns what the optimizer's learning rate is multiplied by now.
    """

    def __init__(
        self, n_labels: int, dim: int, config: OutputConfig, *, biased: bool, seed: int, hugepages, threads: int
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
    def table(self):
        """The RowTable."""
        return self.output.table

    def optimize(self, config: OptimizerConfig, threads: int) -> None:
        """Start an optimizer: rows get moments, all zero, where they have none.

        The rows then lie elsewhere, and what looked at them must look again.
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
        owed = None if self.optimizer is None else self.optimizer.owed()
        if owed is not None:
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
        """Choose a batch's candidates.

        Parameters
        ----------
        batch : Batch
        hidden : float32 array [samples, padded_dim]
        key : int
            Keys the draws, with the seed.
        threads : int
        """
        with one_blas_thread():
            active = self.output.activate(batch, Activations(hidden, None, None), key, threads)
        own, certain, places = active.own, active.certain, active.places.copy()
        # The layer's own arrays are written to by the next batch, which may come before this one's backward pass.
        own = own._replace(flat=own.flat.copy())
        certain = certain._replace(flat=places if certain.flat is active.places else certain.flat.copy())
        shared = active.shared if self.output.config.candidates == "full" else active.shared.copy()
        return Activation(batch, hidden, ActiveSet(shared, own, certain, places))

    def logits(self, activation: Activation, threads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of the shared candidates [samples, shared], and of samples' own [samples, room]."""
        active, n = activation.active, len(activation.hidden)
        common = torch.empty((n, len(active.shared)))
        now = self._pass(threads)
        inputs = Activations(activation.hidden, None, None)
        with one_blas_thread():
            groups = self._group(active, threads)
            own = self.output.logits(active, groups, inputs, common.numpy(), now)
        room = len(own) // max(1, n)
        own = torch.from_numpy(own).reshape(n, room).clone()
        if room:
            # Room that a sample does not use holds anything.
            own.masked_fill_(torch.arange(room) >= torch.from_numpy(active.own.lengths)[:, None], 0.0)
        return common, own

    def losses(self, activation: Activation, common: np.ndarray, own: np.ndarray, scale: float, threads: int):
        """Return samples' losses; what they were made from becomes their gradients times `scale`."""
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
        """Return gradients from those of the logits, at the weights as they are.

        Parameters
        ----------
        activation : Activation
        common, own : float32 tensors
            With respect to what ``logits`` returned.
        threads : int
        for_hidden, for_rows : bool
            What is asked for.
        """
        active, hidden, dim = activation.active, activation.hidden, self.table.dim
        groups = self._group(active, threads) if len(active.own.flat) else None
        n_shared, deltas = len(active.shared), own.reshape(-1).numpy()
        n_rows = n_shared + (groups.n_groups if groups else 0)
        to_hidden = rows = weights = bias = None
        if for_hidden:
            to_hidden = np.empty(hidden.shape, dtypes.VALUE)
        if for_rows:
            rows = np.empty(n_rows, np.int64)
            weights, bias = np.empty((n_rows, hidden.shape[1]), dtypes.VALUE), np.empty(n_rows, dtypes.VALUE)
            rows[:n_shared] = active.shared
        with one_blas_thread():
            shared_gradients(self.table, active.shared, common.numpy(), hidden, to_hidden, weights, bias, threads)
        if groups and for_hidden:
            gradient, of_own = self._gathered(len(hidden)), np.empty_like(to_hidden)
            step_groups(self.table, groups, deltas, hidden, gradient, measure(), threads)
            gradient.sum_into(of_own, None, threads)
            to_hidden += of_own
        if groups and for_rows:
            rows[n_shared:] = groups.rows_in_place
            row_gradients(groups, deltas, hidden, weights[n_shared:], bias[n_shared:], threads)
        return Gradients(
            None if to_hidden is None else torch.from_numpy(to_hidden)[:, :dim],
            None if rows is None else torch.from_numpy(rows),
            None if rows is None else torch.from_numpy(weights)[:, :dim],
            None if rows is None else torch.from_numpy(bias),
            not groups or not n_shared,
        )

    def step_now(self, activation: Activation, common: torch.Tensor, own: torch.Tensor, threads: int) -> torch.Tensor:
        """Step the rows of a batch by the gradients of its logits, and return the hidden vectors' gradient.

        Raises
        ------
        RuntimeError
            The optimizer has not counted the last such step yet.
        """
        if self.stepped:
            raise RuntimeError(
                "RowAdam(step_in_backward=True) takes one backward pass for each step(): to add up the gradients of "
                "several leave step_in_backward out"
            )
        active, hidden = activation.active, activation.hidden
        gradient = self._gathered(len(hidden))
        with one_blas_thread():
            self.output.step_by(
                self._group(active, threads),
                own.reshape(-1).numpy(),
                active.shared,
                common.numpy(),
                Activations(hidden, None, None),
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
        """Step rows by their gradients.

        Parameters
        ----------
        rows : int32 array [n]
            Ascending, each once.
        weights : float32 tensor [n, dim]
        bias : float32 array [n]
        lr_factor : float
        threads : int
        """
        rule = self.optimizer.rule(lr_factor)
        if rule.owed is not None:
            catch_up(self.table, rows, rule.owed, threads)
        step_rows(self.table, rows, self.pad(weights), bias, rule, threads)

    def _pass(self, threads: int, lr_factor: float = 1.0) -> Pass:
        """Return what the output layer needs to know of a pass; without an optimizer no row is ever behind."""
        rule = measure() if self.optimizer is None else self.optimizer.rule(lr_factor)
        return Pass(rule, 0, threads)

    def _gathered(self, n):
        """Where samples' gradients are gathered, empty and with room for n of them."""
        if self._gradient is None or self._gradient.n_samples < n:
            self._gradient = SampleGradient(n, self.table.padded_dim, hugepages=self.buffers.hugepages)
            self.buffers.add("hidden gradient", self._gradient.buffer_owner)
        self._gradient.clear()
        return self._gradient

    def _group(self, active, threads):
        """Pairs grouped by row; those of the last batch still are."""
        if self._grouped is not active or not len(active.own.flat):
            self._groups = self.output.group(active, threads)
            self._grouped = active
        return self._groups


def candidates_of_samples(active: ActiveSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids of the candidates that samples have for themselves, int64 [samples, room], and which are there."""
    lengths = torch.from_numpy(active.own.lengths)
    ids = torch.from_numpy(active.own.flat.astype(np.int64)).reshape(len(lengths), -1)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]
