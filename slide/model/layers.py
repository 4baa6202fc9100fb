"""Hidden layers, each the owner of a parameter table of which a batch touches few rows.

A layer turns a `Activations` into the next. `make_hidden` chooses the kind:

- `InputLayer` reads the features and computes every unit; its rows are features.
- `FullLayer` reads a layer below and computes every unit; its rows are units.
- `SampledLayer` reads either and computes the units that a sample finds in hash tables; its rows are units.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import HiddenConfig
from slide.kernels import dtypes
from slide.kernels.bfloat16 import BFloat16View
from slide.kernels.dense import shared_logits, shared_step
from slide.kernels.dropout import drop_pairs, drop_units
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import step_vector
from slide.kernels.sparse import SampleGradient, spmm
from slide.lsh.index import NeuronIndex
from slide.rows.activations import Activations, Ragged
from slide.rows.hogwild import HogwildPairs, TouchedRows
from slide.rows.pairs import Pairs
from slide.rows.passes import Pass
from slide.rows.storage import Storage
from slide.system.buffers import Buffers

NOTHING = np.zeros(0, dtypes.VALUE)


class HiddenLayer:
    """What every hidden layer has.

    `rows_are_units` is False for layers whose rows are features; such rows have no bias.

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
        """From now on sum the gradients of rows that samples read on their own without locks; see `slide.rows.hogwild`."""

    def forward(self, inputs: Activations, now: Pass) -> Activations:
        """Return the layer's output for a training batch; it is valid until the next call.

        Parameters
        ----------
        inputs : Activations
        now : Pass
        """
        raise NotImplementedError

    def predict(self, inputs: Activations, threads: int) -> Activations:
        """Return the layer's output with every unit computed; may be called from several threads at once."""
        raise NotImplementedError

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """Update the parameters after ``forward``.

        Parameters
        ----------
        inputs : Activations
            What ``forward`` was given.
        dout : float32 array [samples, padded_dim]
            The loss's gradient with respect to the layer's output, zero where a ReLU's output is not positive;
            overwritten.
        gradient : SampleGradient or None
            Receives the gradient with respect to `inputs`.
        now : Pass
            What ``forward`` was given; its rule may be another.
        """
        raise NotImplementedError

    def _drop(self, values: np.ndarray, now: Pass) -> None:
        """Drop units from the output or, with the same keys, from its gradient."""
        if self.config.dropout:
            drop_units(values, self.config.dropout, self._seed, now.iteration, now.threads)

    def state(self) -> dict[str, np.ndarray | BFloat16View]:
        """Return writable views of all parameters and of what the optimizer keeps of them, by name."""
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

    def _dense(self, inputs, out, threads):
        columns = inputs.columns
        spmm(self.table, columns.indptr, columns.flat, inputs.values, self.bias, self.relu, out, threads)
        return Activations(out, None, None)

    def forward(self, inputs: Activations, now: Pass) -> Activations:
        """See `HiddenLayer.forward`."""
        self._groups = self._pairs.group(inputs.columns, now.threads)
        self._pairs.catch_up(self._groups, now.rule, now.threads)
        shape = (len(inputs.columns.begin), self.padded_dim)
        out = self._dense(inputs, self._buffers.array(f"{self.name} output", shape, dtypes.VALUE), now.threads)
        self._drop(out.dense, now)
        return out

    def predict(self, inputs: Activations, threads: int) -> Activations:
        """See `HiddenLayer.predict`."""
        return self._dense(inputs, np.empty((len(inputs.columns.begin), self.padded_dim), dtypes.VALUE), threads)

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """See `HiddenLayer.step`; the features themselves have no gradient."""
        self._drop(dout, now)
        self._pairs.step(self._groups, inputs.values, Activations(dout, None, None), None, now)
        bias_gradient = dout.sum(axis=0, dtype=np.float64).astype(dtypes.VALUE)
        step_vector(self.bias, self.bias_moments[0], self.bias_moments[1], bias_gradient, now.rule)

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

    def forward(self, inputs: Activations, now: Pass) -> Activations:
        """See `HiddenLayer.forward`."""
        shape = (len(inputs.dense), self.padded_dim)
        out = self._dense(inputs, self._buffers.array(f"{self.name} output", shape, dtypes.VALUE), now.threads)
        self._drop(out.dense, now)
        return out

    def predict(self, inputs: Activations, threads: int) -> Activations:
        """See `HiddenLayer.predict`."""
        return self._dense(inputs, np.zeros((len(inputs.dense), self.padded_dim), dtypes.VALUE), threads)

    def _dense(self, inputs, out, threads):
        shared_logits(self.table, self._everyone, NOTHING, inputs.dense, out, threads)
        if self.relu:
            np.maximum(out, 0.0, out=out)
        return Activations(out, None, None)

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """See `HiddenLayer.step`."""
        self._drop(dout, now)
        shared_step(self.table, self._everyone, dout, inputs.dense, gradient, now.rule, now.threads)


class SampledLayer(HiddenLayer):
    """Features or a layer below to a sparse vector: a sample computes the units it finds in hash tables.

    The others are zero. In prediction every unit is computed.
    """

    def __init__(self, name: str, dim: int, config: HiddenConfig, *rest):
        super().__init__(name, config.units, dim, config, *rest)
        self._pairs = Pairs(name, self.table, self._buffers)
        self._everyone = np.arange(config.units, dtype=dtypes.INDEX)
        self._active: tuple[PairGroups | TouchedRows, Ragged] | None = None

    def make_index(self) -> None:
        """See `HiddenLayer.make_index`."""
        config = self.config
        self.index = NeuronIndex(
            self.table, config.lsh, config.rehash, config.sampling, self._seed, self._buffers, name=self.name
        )

    def use_hogwild(self) -> None:
        """See `HiddenLayer.use_hogwild`."""
        self._pairs = HogwildPairs(self.name, self.table, self._buffers)

    def forward(self, inputs: Activations, now: Pass) -> Activations:
        """See `HiddenLayer.forward`."""
        n = len(inputs.dense) if inputs.dense is not None else len(inputs.columns.begin)
        nobody = Ragged(np.zeros(0, dtypes.INDEX), np.zeros(n, dtypes.OFFSET), np.zeros(n, dtypes.OFFSET))
        units = self.index.draw(self._pairs, inputs, nobody, self.config.budget, now.iteration, now.threads)
        groups = self._pairs.group(units, now.threads)
        values = self._pairs.logits(groups, units, inputs, now)
        if self.relu:
            np.maximum(values, 0.0, out=values)
        self._drop_active(values, units, now)
        out = self._buffers.array(f"{self.name} output", (n, self.padded_dim), dtypes.VALUE)
        out.fill(0.0)
        samples, places = units.places()
        out[samples, units.flat[places]] = values[places]
        self._active = (groups, units)
        return Activations(out, units, values)

    def predict(self, inputs: Activations, threads: int) -> Activations:
        """See `HiddenLayer.predict`."""
        if inputs.dense is not None:
            out = np.zeros((len(inputs.dense), self.padded_dim), dtypes.VALUE)
            shared_logits(self.table, self._everyone, NOTHING, inputs.dense, out, threads)
        else:
            out = self._of_features(inputs)
        if self.relu:
            np.maximum(out, 0.0, out=out)
        return Activations(out, None, None)

    def _of_features(self, inputs):
        """All units' sums of sparse features."""
        columns = inputs.columns
        shape = (len(columns.begin), self.table.dim)
        features = csr_matrix((inputs.values, columns.flat, columns.indptr), shape=shape)
        out = np.zeros((len(columns.begin), self.padded_dim), dtypes.VALUE)
        out[:, : self.config.units] = features @ np.asarray(self.table.weights).T + self.table.bias
        return out

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """See `HiddenLayer.step`."""
        groups, units = self._active
        samples, places = units.places()
        deltas = self._buffers.array(f"{self.name} deltas", units.flat.shape, dtypes.VALUE)
        deltas[places] = dout[samples, units.flat[places]]
        self._drop_active(deltas, units, now)
        self._pairs.step(groups, deltas, inputs, gradient, now)

    def _drop_active(self, values: np.ndarray, units: Ragged, now: Pass) -> None:
        """Do what ``_drop`` does for the units that samples compute."""
        if self.config.dropout:
            drop_pairs(values, *units, self.config.dropout, self._seed, now.iteration, now.threads)


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
