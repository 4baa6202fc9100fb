"""Sampling policies by name: which of the neurons a sample finds in its tables become active.

A policy is a function ``policy(query, config)`` that fills the active sets of a `Query` from its tables, with
the options of a `slide.config.SamplingConfig`. `register_policy` adds another; the configuration then accepts its name.
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
        The samples' buckets.
    offsets : int32 array [l, n_buckets + 1]
    ids : int32 array [l, room]
        The tables.
    n : int
        Neurons.
    forced_ptr : int64 array [samples + 1]
    forced_ids : int32 array
        Each sample's labels, in CSR form: active in any case, first, and part of the budget.
    budget : int
        The most neurons of a sample, but for its labels.
    seed, iteration : int
        Keys of the draws.
    out_ids : int32 array [samples, capacity]
    out_counts : int64 array [samples]
        Written: the active sets, without repetition, and their sizes.
    threads : int
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
        """The former name of `threads`."""
        return self.threads


def vanilla(query, config):
    """Probe the tables in random order until the budget is met."""
    sampling.vanilla(*query, fill=config.fill == "uniform")


def topk(query, config):
    """Take the neurons found in the most tables; of those found in equally many, random ones."""
    sampling.ranked(*query, min_tables=1, fill=config.fill == "uniform")


def threshold(query, config):
    """Take the neurons found in ``config.min_tables`` tables or more; as `topk` where the budget cuts."""
    sampling.ranked(*query, min_tables=config.min_tables, fill=config.fill == "uniform")


Policy = Callable[[Query, SamplingConfig], None]

POLICIES: dict[str, Policy] = {"vanilla": vanilla, "topk": topk, "threshold": threshold}


def register_policy(name: str, policy: Policy) -> None:
    """Make a sampling policy available as ``SamplingConfig.policy``.

    Do so before a network with this policy is made or loaded.

    Parameters
    ----------
    name : str
        Letters, digits, hyphens and underscores.
    policy : callable
        ``policy(query, config)`` writes the `Query`'s active sets. It is called once for a batch, on one thread; what
        it does at random must follow from ``query.seed`` and ``query.iteration``, so that a seed gives one result.

    Raises
    ------
    ConfigError
        ``SamplingConfig.policy`` cannot have this name.
    ValueError
        The name is taken.
    """
    SamplingConfig(policy=name)
    if name in POLICIES:
        raise ValueError(f"a policy named {name!r} is already registered")
    POLICIES[name] = policy


def make_policy(config: SamplingConfig) -> Policy:
    """Return the policy that a configuration names.

    Parameters
    ----------
    config : SamplingConfig

    Raises
    ------
    ConfigError
        No policy has that name.
    """
    if config.policy not in POLICIES:
        raise ConfigError(f"SamplingConfig.policy must be one of {', '.join(POLICIES)}, got {config.policy!r}")
    return POLICIES[config.policy]
