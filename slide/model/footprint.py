"""What a network takes in memory, reckoned before anything is allocated, and whether there is that much."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psutil

try:
    import resource
except ImportError:  # pragma: no cover - Windows has no such limits
    resource = None
from scipy.sparse import csr_matrix

from slide.config import NetworkConfig, TrainingConfig
from slide.data.statistics import longest_rows
from slide.families import make_hasher
from slide.hogwild import HogwildPairs
from slide.hugepages.cgroups import memory_limit
from slide.index import NeuronIndex
from slide.info import hugepage_mode
from slide.kernels.grouping import MOST_PARTS, PairGroups
from slide.kernels.memory import HUGEPAGE
from slide.storage import Storage

if TYPE_CHECKING:
    from slide.network import Network

OVERRIDE = "SLIDE_MEMORY_CHECK"
"""Environment variable that, set to ``off``, lets a network be made whatever the memory available."""

PAGE = 4096
SHARED_ROWS, PAIR_VISITS = 128, 1024 // 5
"""Shared rows, and pairs of a row each, that make a task, which has a part of a gradient to itself."""


class BatchShape(NamedTuple):
    """The most that a batch can have.

    Attributes
    ----------
    points : int
    features, labels : int
        Of all its points.
    labels_of_a_point : int
    """

    points: int
    features: int
    labels: int
    labels_of_a_point: int

    @classmethod
    def of(cls, X: csr_matrix, Y: csr_matrix, batch_size: int) -> BatchShape:
        """Return the shape that no batch of some points exceeds.

        Parameters
        ----------
        X : csr_matrix, shape (n, n_features)
        Y : csr_matrix, shape (n, n_labels)
        batch_size : int
        """
        features, (of_a_point, labels) = longest_rows(X, batch_size)[1], longest_rows(Y, batch_size)
        return cls(min(batch_size, X.shape[0]), features, labels, of_a_point)


def bytes_needed(
    n_features: int, n_labels: int, config: NetworkConfig, *, trainable: bool = True, batch: BatchShape | None = None
) -> dict[str, int]:
    """Return the bytes of a network's large arrays by name; see `slide.network.Network.bytes_needed`."""
    storage = Storage.of(config, trainable=trainable)
    needs, dim = {}, n_features
    layers = [(f"hidden.{i}", layer.units, layer) for i, layer in enumerate(config.hidden)]
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


def _label_arrays(config, n_labels):
    """What an output layer keeps of each label besides its row."""
    return {
        "output places": 4 * n_labels if config.uses_shared and config.uses_own else 0,
        "output label frequency": 8 * n_labels,
        "output cumulative frequency": 8 * n_labels if config.uses_tail and config.tail_power else 0,
        "output label weights": 4 * n_labels if config.label_weights != "none" else 0,
        "output everyone": 4 * n_labels if config.candidates == "full" else 0,
    }


def _batch_arrays(config, n_labels, batch):
    """What training writes to for a batch, by the names of the memory report."""
    n, needs = batch.points, {}
    output = config.output
    shared = (batch.labels if output.uses_labels_of_batch else 0) + (output.tail if output.uses_tail else 0)
    shared = n_labels if output.candidates == "full" else min(n_labels, shared)
    searches = output.uses_tables or output.uses_search
    own = n * max(min(output.budget, n_labels) if searches else 0, batch.labels_of_a_point) if output.uses_own else 0
    # Of the room for parts of each layer's gradient, as much as the layer above has tasks.
    parts = [_parts(0, n * min(layer.budget, layer.units)) if layer.uses_tables else _parts(layer.units, 0)
             for layer in config.hidden[1:]]
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


def _parts(shared, pairs):
    return min(MOST_PARTS, -(-shared // SHARED_ROWS)) + min(MOST_PARTS, -(-pairs // PAIR_VISITS))


def _pairs(count):
    return PairGroups.bytes_needed(count + count // 8)


def resident(needs: dict[str, int], hugepages: str = "auto") -> int:
    """Return the bytes of memory that arrays take up once they are written to: whole pages each.

    Parameters
    ----------
    needs : dict
        Of ``bytes_needed``.
    hugepages : str
        Of the configuration; where the system gives none pages are small all the same.
    """
    huge = hugepages != "off" and hugepage_mode() in ("always", "madvise")
    pages = [HUGEPAGE if huge and size >= HUGEPAGE else PAGE for size in needs.values()]
    return sum(-(-size // page) * page for size, page in zip(needs.values(), pages, strict=True))


def available() -> tuple[int, str]:
    """Return the bytes that may still be allocated, and what says so: the machine, a control group, or a ulimit."""
    limit, found = memory_limit(), [(psutil.virtual_memory().available, "free")]
    if limit.available is not None:
        found.append((limit.available, f"left by the limit of control group {limit.group}, {_gib(limit.limit)}"))
    return min([*found, *_left_by_ulimits()], key=lambda each: each[0])


def _left_by_ulimits():
    """What the process's own limits leave it, which count addresses whether or not anything is there."""
    if resource is None:
        return []
    memory, left = psutil.Process().memory_info(), []
    for name, option, used in (("RLIMIT_AS", "-v", memory.vms), ("RLIMIT_DATA", "-d", getattr(memory, "data", 0))):
        soft = resource.getrlimit(getattr(resource, name))[0]
        if soft != resource.RLIM_INFINITY:
            left.append((max(0, soft - used), f"left by the limit {name} (ulimit {option}), {_gib(soft)}"))
    return left


def check_fit(needs: dict[str, int], hugepages: str = "auto", instead: str | None = None) -> None:
    """Refuse what is larger than the memory available, unless the environment says not to look.

    Parameters
    ----------
    needs : dict
        Of ``bytes_needed``.
    hugepages : str
        Of the configuration.
    instead : str, optional
        What helps; by default what makes networks smaller.

    Raises
    ------
    MemoryError
        The message adds up what is needed and says what is available, why, and what to do.
    """
    total = resident(needs, hugepages)
    if os.environ.get(OVERRIDE) == "off":
        return
    free, source = available()
    if total <= free:
        return
    if instead is None:
        tables = any(name.endswith(" tables") for name in needs)
        fewer = f"fewer hidden units{' or tables (network.output.lsh.l)' if tables else ''}"
        instead = f"choose {fewer}, the precision bf16 or the optimiser adagrad or sgd"
    raise MemoryError(
        f"{arithmetic(needs, total)} are needed, {_gib(free)} are {source}; {instead}, "
        f"or set {OVERRIDE}=off to try all the same"
    )


def training_needs(
    n_features: int, n_labels: int, config: NetworkConfig, training: TrainingConfig, batch: BatchShape
) -> dict[str, int]:
    """Return the bytes of a network's large arrays and of all that training it takes besides, by name.

    Parameters
    ----------
    n_features, n_labels : int
    config : NetworkConfig
    training : TrainingConfig
    batch : BatchShape
    """
    needs = bytes_needed(n_features, n_labels, config, batch=batch)
    if training.keeps_best:
        units = [layer.units for layer in config.hidden]
        needs["copy of the best weights"] = 4 * n_parameters([n_features, *units, n_labels])
    return needs


def check_training(network: Network, X: csr_matrix, Y: csr_matrix, training: TrainingConfig) -> None:
    """Refuse to train a new network where what that takes besides is more than the memory available.

    Parameters
    ----------
    network : Network
        One that was trained before has that memory already.
    X, Y : csr_matrix
    training : TrainingConfig

    Raises
    ------
    MemoryError
        As ``check_fit`` does.
    """
    if network.step:
        return
    sizes, batch = (network.n_features, network.n_labels, network.config), BatchShape.of(X, Y, training.batch_size)
    there = bytes_needed(*sizes)
    more = {name: size for name, size in training_needs(*sizes, training, batch).items() if name not in there}
    check_fit(more, network.config.hugepages, "choose a smaller TrainingConfig.batch_size")


def arithmetic(needs: dict[str, int], total: int) -> str:
    """Return a sum in words: the arrays of any size, the many small ones together, and the total.

    Parameters
    ----------
    needs : dict
    total : int
    """
    always = " weights", " tables"
    large = {name: size for name, size in needs.items() if 100 * size >= total or name.endswith(always)}
    rest = total - sum(large.values())
    terms = [f"{_gib(size)} {name}" for name, size in large.items()]
    if rest > 0:
        terms.append(f"{_gib(rest)} smaller arrays and the rest of their pages")
    return f"{' + '.join(terms)} = {_gib(total)}"


def _gib(size):
    return f"{size / 2**30:.2f} GiB"


def n_parameters(widths: Sequence[int]) -> int:
    """Return the number of weights and biases of layers between these widths.

    Parameters
    ----------
    widths : sequence of int
        Features, units of each hidden layer, labels.
    """
    return sum((below + 1) * above for below, above in itertools.pairwise(widths))
