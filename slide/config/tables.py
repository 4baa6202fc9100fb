"""Configuration of hash tables: the hash family, what a sample takes from its buckets, and when they are rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slide.config.checks import (
    ConfigError,
    check_choice,
    check_integer,
    check_name,
    check_number,
    check_section,
)

SEARCHES: list[Callable[..., LSHConfig]] = []
"""What ``LSHConfig.auto`` calls: `slide.lsh.tuning`, which stands above this module, adds its search here."""


@dataclass(frozen=True)
class LSHConfig:
    """The hash family and the tables of a sampled layer.

    Parameters
    ----------
    family : str
        ``"simhash"`` (cosine similarity), ``"wta"`` (rank order), ``"dwta"`` (rank order, zeros counting as missing),
        ``"minhash"`` (overlap of the largest coordinates), or a name given to `slide.lsh.families.register_family`.
    k : int, optional
        Hash codes in a bucket index. By default so many that a bucket holds a few dozen neurons.
    l : int
        Tables.
    projection : str
        SimHash only: ``"hadamard"`` (fast random rotations) or ``"sparse"`` (random +1, 0, -1 at density 1/3, the
        paper's).
    bin_size : int
        WTA, DWTA and MinHash: coordinates that one code looks at.
    code_bits : int, optional
        WTA and DWTA: bits kept of a code, by default as many as tell all places of a bin apart. MinHash: bits of a
        code, by default 8.
    top : int, optional
        MinHash only: how many of a vector's largest coordinates make its set; by default a quarter of all.
    bucket_bits : int, optional
        Most bits of a bucket index; longer concatenated codes are mixed down. By default one
        bucket for every four neurons.
    capacity : int, optional
        The most neurons a bucket keeps; by default all. With a capacity every rebuild reads all codes again.
    insertion : str
        Which ones a full bucket keeps: ``"fifo"`` (the last ones, by id) or ``"reservoir"`` (random ones, all
        with the same probability).
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

    def __post_init__(self):
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
    def auto(cls, weights, queries, **options) -> LSHConfig:
        """Return the tables that find the most for their time among these neurons.

        `slide.lsh.tune` makes the search, and also returns the policy and the budget that go with the tables. A layer
        uses the tables if its `candidates` are looked up in tables, such as an output's ``"lsh+tail"``.

        Parameters
        ----------
        weights : float32 array [n, dim]
            The neurons; or their layer.
        queries : float32 array [n, dim]
            What the layer reads, such as hidden vectors of training samples.
        **options
            Options of `slide.lsh.tune`.

        Raises
        ------
        RuntimeError
            `slide.lsh`, which makes the search, has not been imported; ``slide.LSHConfig`` imports it.
        """
        if not SEARCHES:
            raise RuntimeError("LSHConfig.auto needs the search of slide.lsh: import slide.lsh first")
        return SEARCHES[-1](weights, queries, **options)


@dataclass(frozen=True)
class SamplingConfig:
    """Which of the neurons that a sample finds in the hash tables it takes.

    Parameters
    ----------
    policy : str
        ``"vanilla"`` (tables in random order until the budget is met), ``"topk"`` (those found in the most
        tables), ``"threshold"`` (those found in `min_tables` or more, the most frequent ones where they exceed the
        budget), or a name given to `slide.register_policy`.
    min_tables : int
        Threshold only: tables a neuron must be found in.
    fill : str
        Where fewer than the budget are found: ``"none"`` (the set stays smaller) or ``"uniform"`` (neurons
        drawn uniformly from the rest fill it up).
    """

    policy: str = "vanilla"
    min_tables: int = 2
    fill: str = "none"

    def __post_init__(self):
        """Check every field."""
        check_name(self, "policy")
        check_integer(self, "min_tables", 1, 1024)
        check_choice(self, "fill", ("none", "uniform"))


@dataclass(frozen=True)
class RehashConfig:
    """When the tables of a sampled layer are rebuilt.

    Parameters
    ----------
    schedule : str
        ``"exponential"``: the t-th time ``period * sum(exp(decay * i) for i < t)`` batches into training, the paper's.
        ``"fixed"``: every `period` batches. ``"drift"``: when, `period` batches after the last look, at least `drift`
        of the bucket indices of a sample of neurons have changed.
    period : int
        Batches until the first rebuild (N0 in the paper).
    decay : float
        How fast the gaps grow (lambda in the paper).
    drift : float
        Share of changed bucket indices.
    renew : int, optional
        Draw new hash functions at every so many rebuilds; by default never.
    """

    schedule: str = "exponential"
    period: int = 50
    decay: float = 0.1
    drift: float = 0.1
    renew: int | None = None

    def __post_init__(self):
        """Check every field."""
        check_choice(self, "schedule", ("exponential", "fixed", "drift"))
        check_integer(self, "period", 1, 10**9)
        check_number(self, "decay", 0, 10)
        check_number(self, "drift", 0, 1)
        check_integer(self, "renew", 1, 10**9, optional=True)


def check_tables(config):
    """Check the sections that every layer with hash tables has."""
    check_section(config, "lsh", LSHConfig)
    check_section(config, "rehash", RehashConfig)
    check_section(config, "sampling", SamplingConfig)
    if config.sampling.policy == "threshold" and config.sampling.min_tables > config.lsh.l:
        raise ConfigError(
            f"SamplingConfig.min_tables must be at most the number of tables, {config.lsh.l}, "
            f"got {config.sampling.min_tables}"
        )
