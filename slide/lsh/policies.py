"""Sampling policies by name: which of the neurons that a sample finds in the tables become active.

A policy is a function ``policy(query, config)`` that fills the active sets of a `Query` from its tables, with the
options of a `slide.config.SamplingConfig`. `register_policy` adds another; ``SamplingConfig.policy`` then accepts its
name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from slide.config import ConfigError, SamplingConfig
from slide.kernels import sampling


class Query(NamedTuple):
    """What a policy reads and writes: the positional arguments of the kernels in `slide.kernels.sampling`.

    Attributes
    ----------
    codes : uint32 array [l, samples]
        Bucket of each sample in each table.
    offsets, ids : int32 arrays [l, n_buckets + 1] and [l, room]
        The tables: the neurons in bucket b of table t are ``ids[t, offsets[t, b] : offsets[t, b + 1]]``.
    n : int
        Number of neurons.
    forced_ptr, forced_ids : int64 array [samples + 1], int32 array
        Labels of each sample, in CSR form. They come first in its active set, and count in its budget.
    budget : int
        Largest number of neurons of a sample; only its labels may be more.
    seed, iteration : int
        Keys of the draws.
    out_ids : int32 array [samples, capacity]
        Written: the active set of each sample, each neuron once.
    out_counts : int64 array [samples]
        Written: the sizes of the active sets.
    threads : int
        Number of threads.
    """

    codes: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    n: int
    forced_ptr: np.ndarray
    forced_ids: np.ndarray
    budget: int
    seed: int
    iteration: int
    out_ids: np.ndarray
    out_counts: np.ndarray
    threads: int

    @property
    def num_threads(self) -> int:
        """Former name of `threads`."""
        return self.threads


def vanilla(query: Query, config: SamplingConfig) -> None:
    """Take the neurons of one table after another, in random order, until the budget is used up."""
    sampling.vanilla(*query, fill=config.fill == "uniform")


def topk(query: Query, config: SamplingConfig) -> None:
    """Take the neurons found in the most tables; chance decides between those found in equally many."""
    sampling.ranked(*query, min_tables=1, fill=config.fill == "uniform")


def threshold(query: Query, config: SamplingConfig) -> None:
    """Take the neurons found in ``config.min_tables`` tables or more; if they exceed the budget, as `topk` does."""
    sampling.ranked(*query, min_tables=config.min_tables, fill=config.fill == "uniform")


Policy = Callable[[Query, SamplingConfig], None]
"""A function that fills the active sets of a query."""

POLICIES: dict[str, Policy] = {"vanilla": vanilla, "topk": topk, "threshold": threshold}


def register_policy(name: str, policy: Policy) -> None:
    """Make a sampling policy available as ``SamplingConfig.policy``.

    Register it before a network with this policy is made or loaded.

    Parameters
    ----------
    name : str
        Name of the policy, made of letters, digits, hyphens and underscores.
    policy : callable
        ``policy(query, config)`` writes the active sets of the `Query`. It is called once per batch, on one thread. Its
        random draws must follow from ``query.seed`` and ``query.iteration``, so that one seed gives one result.

    Raises
    ------
    ConfigError
        The name has other characters.
    ValueError
        A policy of this name is registered already.
    """
    SamplingConfig(policy=name)
    if name in POLICIES:
        raise ValueError(f"a policy named {name!r} is already registered")
    POLICIES[name] = policy


def make_policy(config: SamplingConfig) -> Policy:
    """Return the policy that a configuration names.

    Raises
    ------
    ConfigError
        No policy has that name.
    """
    if config.policy not in POLICIES:
        raise ConfigError(f"SamplingConfig.policy must be one of {', '.join(POLICIES)}, got {config.policy!r}")
    return POLICIES[config.policy]
