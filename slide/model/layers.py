"""Hidden layers, each the owner of a parameter table of which a batch touches few rows.

A layer turns a `Signal` into the next. `make_hidden` chooses the kind:

- `InputLayer` reads the features and computes every unit; its rows are features.
- `FullLayer` reads a layer below and computes every unit; its rows are units.
- `SampledLayer` reads either and computes the units that a sample finds in hash tables; its rows are units.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_matrix

from slide.buffers import Buffers
from slide.config import HiddenConfig
from slide.hogwild import HogwildPairs, TouchedRows
from slide.index import NeuronIndex
from slide.kernels import dtypes
from slide.kernels.bfloat16 import BFloat16View
from slide.kernels.dense import shared_logits, shared_step
from slide.kernels.dropout import drop_pairs, drop_units
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import StepRule, step_vector
from slide.kernels.sparse import SampleGradient, spmm
from slide.signals import Pairs, Runs, Signal
from slide.storage import Storage

NOTHING = np.zeros(0, dtypes.VALUE)


class HiddenLayer:
    """What every hidden layer has.

    A kind of layer whose rows are no units says so in `rows_are_units`; its rows have no biases.

    Parameters
    ----------
    name : str
        For memory reports and saved files.
    rows, dim : int
        Of the parameter table.
    config : HiddenConfig
    storage : Storage
        Of the table.
    seed : int
    buffers : Buffers
    threads : int

    Attributes
    ----------
    table : RowTable
    index : NeuronIndex or None
    padded_dim : int
        Columns of the output: the units rounded up to a multiple of 16.
    """

    rows_are_units = True

    def __init__(
        self,
        name: str,
        rows: int,
        dim: int,
        config: HiddenConfig,
        storage: Storage,
        seed: int,
        buffers: Buffers,
        threads: int,
    ):
        self.name = name
        self.config = config
        self.relu = config.activation == "relu"
        self.padded_dim = -(-config.units // 16) * 16
        self.index: NeuronIndex | None = None
        # A unit-length input then gives a vector of about unit length, before the ReLU. Larger weights, such as unit
        # variance for each unit, cost several points of P@1: what is random in them is never unlearnt.
        limit = math.sqrt(3.0 / config.units)
        self.table = storage.make_table(
            rows, dim, name, buffers, limit=limit, seed=seed, threads=threads, biased=self.rows_are_units
        )
        self._seed = seed
        self._buffers = buffers

    def make_index(self) -> None:
        """Make the hash tables that training looks units up in, where the configuration wants them."""

    def use_hogwild(self) -> None:
        """From now on sum the gradients of rows that samples read on their own without locks; see `slide.hogwild`."""

    def forward(self, signal: Signal, rule: StepRule, iteration: int, threads: int) -> Signal:
        """Return the layer's output for a training batch; it is valid until the next call.

        Parameters
        ----------
        signal : Signal
        rule : StepRule
            Of the batch: rows pay what they owe before they are read.
        iteration : int
            Keys the sampling and the dropout.
        threads : int
        """
        raise NotImplementedError

    def predict(self, signal: Signal, threads: int) -> Signal:
        """Return the layer's output with every unit computed; may be called from several threads at once."""
        raise NotImplementedError

    def step(
        self,
        signal: Signal,
        dout: np.ndarray,
        gradient: SampleGradient | None,
        rule: StepRule,
        iteration: int,
        threads: int,
    ) -> None:
        """Update the parameters after ``forward``.

        Parameters
        ----------
        signal : Signal
            What ``forward`` was given.
        dout : float32 array [samples, padded_dim]
            The loss's gradient with respect to the layer's output, zero where a ReLU's output is not positive;
            overwritten.
        gradient : SampleGradient or None
            Receives the gradient with respect to `signal`.
        rule : StepRule
        iteration : int
            What ``forward`` was given.
        threads : int
        """
        raise NotImplementedError

    def _drop(self, values, iteration, threads):
        """Drop units from the output or, with the same keys, from its gradient."""
        if self.config.dropout:
            drop_units(values, self.config.dropout, self._seed, iteration, threads)

    def state(self) -> dict[str, np.ndarray | BFloat16View]:
        """Return writable views of all parameters and of what the optimiser keeps of them, by name."""
        return self.table.state()


class InputLayer(HiddenLayer):
    """Sparse features to a dense vector; the rows are the features."""

    rows_are_units = False

    def __init__(self, name: str, n_features: int, config: HiddenConfig, *rest):
        super().__init__(name, n_features, config.units, config, *rest)
        kept = self.padded_dim if self.table.moments or self.table.accumulates else 0
        self.bias = np.zeros(self.padded_dim, dtypes.VALUE)
        self.bias_moments = np.zeros((2, kept), dtypes.VALUE)
        self._pairs = Pairs(name, self.table, self._buffers)
        self._groups: PairGroups | TouchedRows | None = None

    def use_hogwild(self) -> None:
        """See `HiddenLayer.use_hogwild`."""
        self._pairs = HogwildPairs(self.name, self.table, self._buffers)

    def _dense(self, signal, out, threads):
        columns = signal.columns
        spmm(self.table, columns.indptr, columns.flat, signal.values, self.bias, self.relu, out, threads)
        return Signal(out, None, None)

    def forward(self, signal: Signal, rule: StepRule, iteration: int, threads: int) -> Signal:
        """See `HiddenLayer.forward`."""
        self._groups = self._pairs.group(signal.columns, threads)
        self._pairs.catch_up(self._groups, rule, threads)
        shape = (len(signal.columns.begin), self.padded_dim)
        out = self._dense(signal, self._buffers.array(f"{self.name} output", shape, dtypes.VALUE), threads)
        self._drop(out.dense, iteration, threads)
        return out

    def predict(self, signal: Signal, threads: int) -> Signal:
        """See `HiddenLayer.predict`."""
        return self._dense(signal, np.empty((len(signal.columns.begin), self.padded_dim), dtypes.VALUE), threads)

    def step(
        self,
        signal: Signal,
        dout: np.ndarray,
        gradient: SampleGradient | None,
        rule: StepRule,
        iteration: int,
        threads: int,
    ) -> None:
        """See `HiddenLayer.step`; the features themselves have no gradient."""
        self._drop(dout, iteration, threads)
        self._pairs.step(self._groups, signal.values, Signal(dout, None, None), None, rule, threads)
        bias_gradient = dout.sum(axis=0, dtype=np.float64).astype(dtypes.VALUE)
        step_vector(self.bias, self.bias_moments[0], self.bias_moments[1], bias_gradient, rule)

    def state(self) -> dict[str, np.ndarray | BFloat16View]:
        """See `HiddenLayer.state`; the bias is the layer's, a feature's row has none."""
        state = {name: array for name, array in self.table.state().items() if not name.startswith("bias")}
        units = self.config.units
        state["bias"] = self.bias[:units]
        if self.table.moments:
            state["bias_m"], state["bias_v"] = self.bias_moments[0, :units], self.bias_moments[1, :units]
        if self.table.accumulates:
            state["bias_accumulator"] = self.bias_moments[1, :units]
        return state


class FullLayer(HiddenLayer):
    """Dense to dense, every unit by a matrix product; the rows are the units, and every step reaches all of them."""

    def __init__(self, name: str, dim: int, config: HiddenConfig, *rest):
        super().__init__(name, config.units, dim, config, *rest)
        self._everyone = np.arange(config.units, dtype=dtypes.INDEX)

    def forward(self, signal: Signal, rule: StepRule, iteration: int, threads: int) -> Signal:
        """See `HiddenLayer.forward`."""
        shape = (len(signal.dense), self.padded_dim)
        out = self._dense(signal, self._buffers.array(f"{self.name} output", shape, dtypes.VALUE), threads)
        self._drop(out.dense, iteration, threads)
        return out

    def predict(self, signal: Signal, threads: int) -> Signal:
        """See `HiddenLayer.predict`."""
        return self._dense(signal, np.zeros((len(signal.dense), self.padded_dim), dtypes.VALUE), threads)

    def _dense(self, signal, out, threads):
        shared_logits(self.table, self._everyone, NOTHING, signal.dense, out, threads)
        if self.relu:
            np.maximum(out, 0.0, out=out)
        return Signal(out, None, None)

    def step(
        self,
        signal: Signal,
        dout: np.ndarray,
        gradient: SampleGradient | None,
        rule: StepRule,
        iteration: int,
        threads: int,
    ) -> None:
        """See `HiddenLayer.step`."""
        self._drop(dout, iteration, threads)
        shared_step(self.table, self._everyone, dout, signal.dense, gradient, rule, threads)


class SampledLayer(HiddenLayer):
    """Features or a layer below to a sparse vector: a sample computes the units it finds in hash tables.

    The others are zero. In prediction every unit is computed.
    """

    def __init__(self, name: str, dim: int, config: HiddenConfig, *rest):
        super().__init__(name, config.units, dim, config, *rest)
        self._pairs = Pairs(name, self.table, self._buffers)
        self._everyone = np.arange(config.units, dtype=dtypes.INDEX)
        self._active: tuple[PairGroups | TouchedRows, Runs] | None = None

    def make_index(self) -> None:
        """See `HiddenLayer.make_index`."""
        config = self.config
        self.index = NeuronIndex(
            self.table, config.lsh, config.rehash, config.sampling, self._seed, self._buffers, name=self.name
        )

    def use_hogwild(self) -> None:
        """See `HiddenLayer.use_hogwild`."""
        self._pairs = HogwildPairs(self.name, self.table, self._buffers)

    def forward(self, signal: Signal, rule: StepRule, iteration: int, threads: int) -> Signal:
        """See `HiddenLayer.forward`."""
        n = len(signal.dense) if signal.dense is not None else len(signal.columns.begin)
        nobody = Runs(np.zeros(0, dtypes.INDEX), np.zeros(n, dtypes.OFFSET), np.zeros(n, dtypes.OFFSET))
        units = self._pairs.draw(self.index, signal, nobody, self.config.budget, iteration, threads)
        groups = self._pairs.group(units, threads)
        values = self._pairs.logits(groups, units, signal, threads, rule)
        if self.relu:
            np.maximum(values, 0.0, out=values)
        self._drop_active(values, units, iteration, threads)
        out = self._buffers.array(f"{self.name} output", (n, self.padded_dim), dtypes.VALUE)
        out.fill(0.0)
        samples, places = units.places()
        out[samples, units.flat[places]] = values[places]
        self._active = (groups, units)
        return Signal(out, units, values)

    def predict(self, signal: Signal, threads: int) -> Signal:
        """See `HiddenLayer.predict`."""
        if signal.dense is not None:
            out = np.zeros((len(signal.dense), self.padded_dim), dtypes.VALUE)
            shared_logits(self.table, self._everyone, NOTHING, signal.dense, out, threads)
        else:
            out = self._of_features(signal)
        if self.relu:
            np.maximum(out, 0.0, out=out)
        return Signal(out, None, None)

    def _of_features(self, signal):
        """All units' sums of sparse features."""
        columns = signal.columns
        shape = (len(columns.begin), self.table.dim)
        features = csr_matrix((signal.values, columns.flat, columns.indptr), shape=shape)
        out = np.zeros((len(columns.begin), self.padded_dim), dtypes.VALUE)
        out[:, : self.config.units] = features @ np.asarray(self.table.weights).T + self.table.bias
        return out

    def step(
        self,
        signal: Signal,
        dout: np.ndarray,
        gradient: SampleGradient | None,
        rule: StepRule,
        iteration: int,
        threads: int,
    ) -> None:
        """See `HiddenLayer.step`."""
        groups, units = self._active
        samples, places = units.places()
        deltas = self._buffers.array(f"{self.name} deltas", units.flat.shape, dtypes.VALUE)
        deltas[places] = dout[samples, units.flat[places]]
        self._drop_active(deltas, units, iteration, threads)
        self._pairs.step(groups, deltas, signal, gradient, rule, threads)

    def _drop_active(self, values, units, iteration, threads):
        """``_drop`` for the units that samples compute."""
        if self.config.dropout:
            drop_pairs(
                values, units.flat, units.begin, units.end, self.config.dropout, self._seed, iteration, threads
            )


def make_hidden(name: str, dim: int, config: HiddenConfig, *rest, reads_features: bool) -> HiddenLayer:
    """Return the layer that a configuration asks for.

    Parameters
    ----------
    name : str
    dim : int
        Columns of what it reads.
    config : HiddenConfig
    *rest
        Storage, seed, buffers and threads, as for `HiddenLayer`.
    reads_features : bool
        Whether it is the first layer.
    """
    if config.candidates == "lsh":
        return SampledLayer(name, dim, config, *rest)
    return (InputLayer if reads_features else FullLayer)(name, dim, config, *rest)
