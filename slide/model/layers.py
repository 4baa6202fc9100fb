"""Hidden layers. Each owns a parameter table, and a batch touches few of its rows.

A layer turns one `Activations` into the next. `make_hidden` chooses the kind:

- `InputLayer` reads the features and computes every unit; its rows are features.
- `FullLayer` reads a layer below and computes every unit; its rows are units.
- `SampledLayer` reads either, and computes the units that a sample finds in hash tables; its rows are units.
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
from slide.kernels.optim import step_vector
from slide.kernels.sparse import SampleGradient, spmm
from slide.lsh.index import NeuronIndex
from slide.rows.activations import Activations, Ragged
from slide.rows.hogwild import HogwildPairs
from slide.rows.pairs import Groups, Pairs
from slide.rows.passes import Pass
from slide.rows.storage import MappedStorage, Storage
from slide.system.buffers import Buffers

NOTHING = np.zeros(0, dtypes.VALUE)


class HiddenLayer:
    """What every hidden layer has.

    `rows_are_units` is False for layers whose rows are features; such rows have no bias.

    Parameters
    ----------
    name : str
        Name in memory reports and saved files.
    rows, dim : int
        Number and dimension of the table's rows.
    config : HiddenConfig
        The layer's settings.
    storage : Storage or MappedStorage
        How the rows are kept.
    seed : int
        Seed of the initial weights, the hash functions and the dropout.
    buffers : Buffers
        Owner of the layer's memory.
    threads : int
        Number of threads for the initial weights.

    Attributes
    ----------
    table : RowTable
        The parameters.
    index : NeuronIndex or None
        The hash tables, if training uses them.
    padded_dim : int
        Number of columns of the output: the units rounded up to a multiple of 16.
    """

    rows_are_units = True

    def __init__(
        self,
        name: str,
        rows: int,
        dim: int,
        config: HiddenConfig,
        storage: Storage | MappedStorage,
        seed: int,
        buffers: Buffers,
        threads: int,
    ):
        self.name = name
        self.config = config
        self.relu = config.activation == "relu"
        self.padded_dim = -(-config.units // 16) * 16
        self.index: NeuronIndex | None = None
        # An input of unit length then gives a vector of about unit length, before the ReLU. Larger weights, such as
        # unit variance for each unit, cost several points of P@1: their random part is never unlearnt.
        limit = math.sqrt(3.0 / config.units)
        self.table = storage.make_table(
            rows, dim, name, buffers, limit=limit, seed=seed, threads=threads, biased=self.rows_are_units
        )
        self._seed = seed
        self._buffers = buffers

    def make_index(self) -> None:
        """Make the hash tables in which training looks units up, if the configuration has them."""

    def use_hogwild(self) -> None:
        """Sum the gradients of rows that samples read on their own without locks; see `slide.rows.hogwild`."""

    def forward(self, inputs: Activations, now: Pass) -> Activations:
        """Return the layer's output for a training batch; it is valid until the next call."""
        raise NotImplementedError

    def predict(self, inputs: Activations, threads: int) -> Activations:
        """Return the layer's output with every unit computed; several threads may call this at once."""
        raise NotImplementedError

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """Update the parameters after ``forward``.

        Parameters
        ----------
        inputs : Activations
            The inputs of ``forward``.
        dout : float32 array [samples, padded_dim]
            Gradient of the loss with respect to the layer's output, zero where a ReLU's output is not positive;
            overwritten.
        gradient : SampleGradient or None
            Written: the gradient with respect to `inputs`, which features do not have.
        now : Pass
            The pass of ``forward``, possibly with another rule.
        """
        raise NotImplementedError

    def _drop(self, values: np.ndarray, now: Pass) -> None:
        """Drop units from the output; with the same keys, drop the same units from its gradient."""
        if self.config.dropout:
            drop_units(values, self.config.dropout, self._seed, now.iteration, now.threads)

    def state(self) -> dict[str, np.ndarray | BFloat16View]:
        """Return writable views of the parameters and of what the optimizer keeps of them, by name."""
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
        self._groups: Groups | None = None

    def use_hogwild(self) -> None:
        """See `HiddenLayer.use_hogwild`."""
        self._pairs = HogwildPairs(self.name, self.table, self._buffers)

    def _dense(self, inputs: Activations, out: np.ndarray, threads: int) -> Activations:
        columns, values = inputs.entries
        spmm(self.table, columns.indptr, columns.flat, values, self.bias, self.relu, out, threads)
        return Activations.of_vectors(out)

    def forward(self, inputs: Activations, now: Pass) -> Activations:
        """See `HiddenLayer.forward`."""
        columns, _ = inputs.entries
        self._groups = self._pairs.group(columns, now.threads)
        self._pairs.catch_up(self._groups, now.rule, now.threads)
        shape = (inputs.n_samples, self.padded_dim)
        out = self._dense(inputs, self._buffers.array(f"{self.name} output", shape, dtypes.VALUE), now.threads)
        self._drop(out.vectors, now)
        return out

    def predict(self, inputs: Activations, threads: int) -> Activations:
        """See `HiddenLayer.predict`."""
        return self._dense(inputs, np.empty((inputs.n_samples, self.padded_dim), dtypes.VALUE), threads)

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """See `HiddenLayer.step`; the features themselves have no gradient."""
        assert self._groups is not None, "step comes after forward"
        _, values = inputs.entries
        self._drop(dout, now)
        self._pairs.step(self._groups, values, Activations.of_vectors(dout), None, now)
        bias_gradient = dout.sum(axis=0, dtype=np.float64).astype(dtypes.VALUE)
        step_vector(self.bias, self.bias_moments[0], self.bias_moments[1], bias_gradient, now.rule)

    def state(self) -> dict[str, np.ndarray | BFloat16View]:
        """See `HiddenLayer.state`; the bias belongs to the layer, because rows of features have none."""
        state = {name: array for name, array in self.table.state().items() if not name.startswith("bias")}
        units = self.config.units
        state["bias"] = self.bias[:units]
        if self.table.moments:
            state["bias_m"], state["bias_v"] = self.bias_moments[0, :units], self.bias_moments[1, :units]
        if self.table.accumulates:
            state["bias_accumulator"] = self.bias_moments[1, :units]
        return state


class FullLayer(HiddenLayer):
    """Dense to dense: a matrix product computes every unit. The rows are the units; every step reaches all of them."""

    def __init__(self, name: str, dim: int, config: HiddenConfig, *rest):
        super().__init__(name, config.units, dim, config, *rest)
        self._everyone = np.arange(config.units, dtype=dtypes.INDEX)

    def forward(self, inputs: Activations, now: Pass) -> Activations:
        """See `HiddenLayer.forward`."""
        shape = (inputs.n_samples, self.padded_dim)
        out = self._dense(inputs, self._buffers.array(f"{self.name} output", shape, dtypes.VALUE), now.threads)
        self._drop(out.vectors, now)
        return out

    def predict(self, inputs: Activations, threads: int) -> Activations:
        """See `HiddenLayer.predict`."""
        return self._dense(inputs, np.zeros((inputs.n_samples, self.padded_dim), dtypes.VALUE), threads)

    def _dense(self, inputs: Activations, out: np.ndarray, threads: int) -> Activations:
        shared_logits(self.table, self._everyone, NOTHING, inputs.vectors, out, threads)
        if self.relu:
            np.maximum(out, 0.0, out=out)
        return Activations.of_vectors(out)

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """See `HiddenLayer.step`."""
        assert gradient is not None, "a full layer reads a layer below, which needs its gradient"
        self._drop(dout, now)
        shared_step(self.table, self._everyone, dout, inputs.vectors, gradient, now.rule, now.threads)


class SampledLayer(HiddenLayer):
    """Features or a layer below to a vector with few non-zero units: those that a sample finds in hash tables.

    Prediction computes every unit.
    """

    def __init__(self, name: str, dim: int, config: HiddenConfig, *rest):
        super().__init__(name, config.units, dim, config, *rest)
        self._pairs = Pairs(name, self.table, self._buffers)
        self._everyone = np.arange(config.units, dtype=dtypes.INDEX)
        self._active: tuple[Groups, Ragged] | None = None

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
        assert self.index is not None, "training needs make_index()"
        n = inputs.n_samples
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
        return Activations.of_vectors(out)

    def _of_features(self, inputs: Activations) -> np.ndarray:
        """Return all units' sums of sparse features."""
        columns, values = inputs.entries
        shape = (inputs.n_samples, self.table.dim)
        features: csr_matrix = csr_matrix((values, columns.flat, columns.indptr), shape=shape)
        out = np.zeros((inputs.n_samples, self.padded_dim), dtypes.VALUE)
        out[:, : self.config.units] = features @ np.asarray(self.table.weights).T + self.table.bias
        return out

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """See `HiddenLayer.step`."""
        assert self._active is not None, "step comes after forward"
        groups, units = self._active
        samples, places = units.places()
        deltas = self._buffers.array(f"{self.name} deltas", units.flat.shape, dtypes.VALUE)
        deltas[places] = dout[samples, units.flat[places]]
        self._drop_active(deltas, units, now)
        self._pairs.step(groups, deltas, inputs, gradient, now)

    def _drop_active(self, values: np.ndarray, units: Ragged, now: Pass) -> None:
        """Drop units as ``_drop`` does, from values for the units that samples compute."""
        if self.config.dropout:
            drop_pairs(values, *units, self.config.dropout, self._seed, now.iteration, now.threads)


def make_hidden(name: str, dim: int, config: HiddenConfig, *rest, reads_features: bool) -> HiddenLayer:
    """Return the layer that a configuration asks for.

    `dim` is the number of columns that the layer reads, `rest` are storage, seed, buffers and threads, as for
    `HiddenLayer`. Only the first layer reads features.
    """
    if config.candidates == "lsh":
        return SampledLayer(name, dim, config, *rest)
    return (InputLayer if reads_features else FullLayer)(name, dim, config, *rest)
