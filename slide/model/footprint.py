"""The memory that a network takes, computed before anything is allocated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import HiddenConfig, NetworkConfig, OutputConfig
from slide.data.statistics import longest_rows
from slide.kernels.grouping import MOST_PARTS, PairGroups
from slide.lsh.families import make_hasher
from slide.lsh.index import NeuronIndex
from slide.rows.hogwild import HogwildPairs
from slide.rows.storage import Storage

SHARED_ROWS, PAIR_VISITS = 128, 1024 // 5
"""Size of a task, in shared rows and in pairs; each task has its own part of the gradient."""


class BatchShape(NamedTuple):
    """The largest size of a batch.

    Attributes
    ----------
    samples : int
        Number of samples.
    features, labels : int
        Number of non-zero features, and of labels, of all samples together.
    labels_of_a_sample : int
        Number of labels of one sample.
    """

    samples: int
    features: int
    labels: int
    labels_of_a_sample: int

    @classmethod
    def of(cls, X: csr_matrix, Y: csr_matrix, batch_size: int) -> BatchShape:
        """Return the shape that no batch of these samples exceeds.

        Parameters
        ----------
        X : csr_matrix, shape (n, n_features)
            Features of the samples.
        Y : csr_matrix, shape (n, n_labels)
            Labels of the samples.
        batch_size : int
            Largest number of samples of a batch.
        """
        features, (of_a_sample, labels) = longest_rows(X, batch_size)[1], longest_rows(Y, batch_size)
        return cls(min(batch_size, X.shape[0]), features, labels, of_a_sample)


def bytes_needed(
    n_features: int, n_labels: int, config: NetworkConfig, *, trainable: bool = True, batch: BatchShape | None = None
) -> dict[str, int]:
    """Return the bytes of a network's large arrays by name; see `slide.network.Network.bytes_needed`."""
    storage = Storage.of(config, trainable=trainable)
    needs: dict[str, int] = {}
    dim = n_features
    layers: list[tuple[str, int, HiddenConfig | OutputConfig]] = [
        (f"hidden.{i}", layer.units, layer) for i, layer in enumerate(config.hidden)
    ]
    for name, rows, layer in (*layers, ("output", n_labels, config.output)):
        full_input = name == "hidden.0" and layer.candidates == "full"
        shape = (dim, rows) if full_input else (rows, dim)
        needs[f"{name} weights"] = storage.bytes_needed(*shape)
        if config.update == "hogwild" and trainable and (full_input or layer.uses_own):
            needs[f"{name} row gradients"] = HogwildPairs.bytes_needed(*shape)
        if layer.uses_tables and trainable:
            hasher = make_hasher(layer.lsh, dim, rows, np.random.default_rng(0))
            needs[f"{name} tables"] = NeuronIndex.bytes_needed(rows, layer.lsh, hasher.bucket_bits)
        dim = rows
    if config.feature_weights != "none":
        needs["feature weights"] = 4 * n_features
    needs.update(_label_arrays(config.output, n_labels))
    if batch is not None:
        needs.update(_batch_arrays(config, n_labels, batch))
    return {name: size for name, size in needs.items() if size}


def _label_arrays(config: OutputConfig, n_labels: int) -> dict[str, int]:
    """Return the bytes of what an output layer keeps of each label in addition to its row."""
    return {
        "output places": 4 * n_labels if config.uses_shared and config.uses_own else 0,
        "output label frequency": 8 * n_labels,
        "output cumulative frequency": 8 * n_labels if config.uses_tail and config.tail_power else 0,
        "output label weights": 4 * n_labels if config.label_weights != "none" else 0,
        "output everyone": 4 * n_labels if config.candidates == "full" else 0,
    }


def _batch_arrays(config: NetworkConfig, n_labels: int, batch: BatchShape) -> dict[str, int]:
    """Return the bytes that training writes to for a batch, by the names of the memory report."""
    n, output = batch.samples, config.output
    needs: dict[str, int] = {}
    shared = (batch.labels if output.uses_labels_of_batch else 0) + (output.tail if output.uses_tail else 0)
    shared = n_labels if output.candidates == "full" else min(n_labels, shared)
    searches = output.uses_tables or output.uses_search
    own = n * max(min(output.budget, n_labels) if searches else 0, batch.labels_of_a_sample) if output.uses_own else 0
    # A layer's gradient has one part for each task of the layer above.
    parts = [
        _parts(0, n * min(layer.budget, layer.units)) if layer.uses_tables else _parts(layer.units, 0)
        for layer in config.hidden[1:]
    ]
    parts.append(_parts(shared, own))
    for i, layer in enumerate(config.hidden):
        name, width = f"hidden.{i}", 4 * n * (-(-layer.units // 16) * 16)
        needs[f"{name} output"] = needs[f"{name} gradient sum"] = width
        needs[f"{name} gradient"] = parts[i] * width
        if layer.uses_tables:
            pairs = n * min(layer.budget, layer.units)
            needs[f"{name} candidates"] = needs[f"{name} logits"] = needs[f"{name} deltas"] = 4 * pairs
            needs[f"{name} pairs"] = _pairs(pairs)
        elif i == 0:
            needs[f"{name} pairs"] = _pairs(batch.features)
    if config.input_dropout:
        needs["kept features"] = needs["kept feature values"] = 4 * batch.features
        needs["kept feature offsets"] = 8 * (n + 1)
    needs["output shared logits"] = 4 * n * shared
    needs["output candidates"] = needs["output logits"] = 4 * own
    needs["output shared candidates"] = 4 * own if shared else 0
    needs["output corrections"] = 8 * n_labels if output.correction == "logq" and output.uses_shared else 0
    needs["output label places"], needs["output losses"] = 4 * batch.labels, 8 * n
    needs["output pairs"] = _pairs(own)
    return needs


def _parts(shared: int, pairs: int) -> int:
    return min(MOST_PARTS, -(-shared // SHARED_ROWS)) + min(MOST_PARTS, -(-pairs // PAIR_VISITS))


def _pairs(count: int) -> int:
    return PairGroups.bytes_needed(count + count // 8)


def n_parameters(widths: Sequence[int]) -> int:
    """Return the number of weights and biases between layers of these widths: features, hidden units, labels."""
    return sum((below + 1) * above for below, above in itertools.pairwise(widths))
