"""Settings of hash tables: the hash family, what a sample takes from its buckets, and when tables are rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from slide.config.checks import (
    ConfigError,
    check_choice,
    check_integer,
    check_name,
    check_number,
    check_section,
)

SEARCHES: list[Callable[..., LSHConfig]] = []
"""Searches for `LSHConfig.auto`, which calls the last one: `slide.lsh.tuning`, a wing above, adds its own here."""


@dataclass(frozen=True)
class LSHConfig:
    """Settings of the hash family and of the tables of a sampled layer.

    Parameters
    ----------
    family : str
        ``"simhash"``, the default (cosine similarity), ``"wta"`` (rank order), ``"dwta"`` (rank order, with zeros as
        missing values), ``"minhash"`` (overlap of the largest coordinates), or a name given to `slide.register_family`.
    k : int, optional
        Number of hash codes in a bucket index. By default so many that a bucket holds a few dozen neurons.
    l : int
        Number of tables, by default 50.
    projection : str
        SimHash only: ``"hadamard"``, the default (fast random rotations), or ``"sparse"`` (random +1, 0, -1 at density
        1/3, as in the paper).
    bin_size : int
        WTA, DWTA and MinHash: number of coordinates that one code looks at, by default 8.
    code_bits : int, optional
        WTA and DWTA: number of bits kept of a code, by default enough to tell all places of a bin apart. MinHash:
        number of bits of a code, by default 8.
    top : int, optional
        MinHash only: number of a vector's largest coordinates that make its set, by default a quarter of all.
    bucket_bits : int, optional
        Largest number of bits of a bucket index; longer concatenated codes are mixed down. By default there is one
        bucket for every four neurons.
    capacity : int, optional
        Largest number of neurons that a bucket keeps, by default all. With a capacity, every rebuild reads all codes
        again.
    insertion : str
        Neurons that a full bucket keeps: ``"fifo"``, the default (the last ones, by id), or ``"reservoir"`` (random
        ones, all with the same probability).

    Raises
    ------
    ConfigError
        A field has a value that it may not have.
    """

    family: str = "simhash"
    k: int | None = None
    l: int = 50  # noqa: E741
    projection: str = "hadamard"
    bin_size: int = 8
    code_bits: int | None = None
    top: int | None = None
    bucket_bits: int | None = None
    capacity: int | None = None
    insertion: str = "fifo"

    def __post_init__(self) -> None:
        """Check every field."""
        check_name(self, "family")
        check_integer(self, "k", 1, 32, optional=True)
        check_integer(self, "l", 1, 1024)
        check_choice(self, "projection", ("hadamard", "sparse"))
        check_integer(self, "bin_size", 2, 256)
        check_integer(self, "code_bits", 1, 8, optional=True)
        check_integer(self, "top", 1, 2**31 - 1, optional=True)
        check_integer(self, "bucket_bits", 1, 30, optional=True)
        check_integer(self, "capacity", 1, 2**31 - 1, optional=True)
        check_choice(self, "insertion", ("fifo", "reservoir"))

    @classmethod
    def auto(cls, weights: Any, queries: np.ndarray, **options: Any) -> LSHConfig:
        """Return the tables that find the most for their time among these neurons.

        `slide.lsh.tune` does the search, and also returns the policy and the budget that go with the tables. A layer
        uses the tables if its `candidates` come from tables, such as ``"lsh+tail"`` of an output layer.

        Parameters
        ----------
        weights : float32 array [n, dim], or layer
            Weights of the neurons, or the layer that has them.
        queries : float32 array [n, dim]
            Inputs of the layer, such as hidden vectors of training samples.
        **options
            Options of `slide.lsh.tune`.

        Returns
        -------
        LSHConfig

        Raises
        ------
        RuntimeError
            `slide.lsh`, which does the search, has not been imported; ``slide.LSHConfig`` imports it.
        """
        if not SEARCHES:
            raise RuntimeError("LSHConfig.auto needs the search of slide.lsh: import slide.lsh first")
        return SEARCHES[-1](weights, queries, **options)


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of the choice among the neurons that a sample finds in the hash tables.

    Parameters
    ----------
    policy : str
        ``"vanilla"``, the default (tables in random order until the budget is reached), ``"topk"`` (neurons found in
        the most tables), ``"threshold"`` (neurons found in `min_tables` tables or more; the most frequent ones if there
        are more than the budget), or a name given to `slide.register_policy`.
    min_tables : int
        Threshold only: number of tables that a neuron must be found in, by default 2.
    fill : str
        If fewer neurons than the budget are found, ``"none"``, the default, leaves the set smaller, and ``"uniform"``
        fills it up with neurons drawn uniformly from the rest.

    Raises
    ------
    ConfigError
        A field has a value that it may not have.
    """

    policy: str = "vanilla"
    min_tables: int = 2
    fill: str = "none"

    def __post_init__(self) -> None:
        """Check every field."""
        check_name(self, "policy")
        check_integer(self, "min_tables", 1, 1024)
        check_choice(self, "fill", ("none", "uniform"))


@dataclass(frozen=True)
class RehashConfig:
    """Settings of the schedule by which the tables of a sampled layer are rebuilt.

    Parameters
    ----------
    schedule : str
        ``"exponential"``, the default and the paper's: the t-th rebuild comes after
        ``period * sum(exp(decay * i) for i < t)`` batches. ``"fixed"``: every `period` batches. ``"drift"``: every
        `period` batches the bucket indices of some random neurons are compared with the tables, which are rebuilt if at
        least the share `drift` of them has changed.
    period : int
        Number of batches until the first rebuild (N0 in the paper), by default 50.
    decay : float
        Growth of the gaps between rebuilds (lambda in the paper), by default 0.1.
    drift : float
        Share of changed bucket indices from which tables are rebuilt, by default 0.1.
    renew : int, optional
        Number of rebuilds after which new hash functions are drawn. By default they stay the same.

    Raises
    ------
    ConfigError
        A field has a value that it may not have.
    """

    schedule: str = "exponential"
    period: int = 50
    decay: float = 0.1
    drift: float = 0.1
    renew: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        check_choice(self, "schedule", ("exponential", "fixed", "drift"))
        check_integer(self, "period", 1, 10**9)
        check_number(self, "decay", 0, 10)
        check_number(self, "drift", 0, 1)
        check_integer(self, "renew", 1, 10**9, optional=True)


class _HasTables(Protocol):
    """A layer's configuration, with the sections about hash tables."""

    @property
    def lsh(self) -> LSHConfig: ...

    @property
    def sampling(self) -> SamplingConfig: ...


def check_tables(config: _HasTables) -> None:
    """Check the sections that every layer with hash tables has."""
    check_section(config, "lsh", LSHConfig)
    check_section(config, "rehash", RehashConfig)
    check_section(config, "sampling", SamplingConfig)
    if config.sampling.policy == "threshold" and config.sampling.min_tables > config.lsh.l:
        raise ConfigError(
            f"SamplingConfig.min_tables must be at most the number of tables, {config.lsh.l}, "
            f"got {config.sampling.min_tables}"
        )
