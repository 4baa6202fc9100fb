"""Settings of a layer's hash tables, chosen by what they retrieve and cost on the user's own hidden vectors.

`tune` builds tables with many settings over the layer's neurons. For each policy and budget it measures recall against
exact search and the time until a query has the logits of its active set. The settings that no other beats in both are
the frontier; its cheapest member that reaches the wanted recall is chosen.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from slide.config import ConfigError, LSHConfig, RehashConfig, SamplingConfig
from slide.config.dicts import to_dict
from slide.config.tables import SEARCHES
from slide.files.tables import table as text_table
from slide.kernels import dtypes
from slide.kernels.optim import measure
from slide.kernels.parallel import resolve_threads
from slide.kernels.rows import RowTable
from slide.lsh.diagnostics import Draws, as_signal, draw, exact_top, fastest, recall, take
from slide.lsh.families import make_hasher, registered_families
from slide.lsh.index import NeuronIndex
from slide.rows.activations import Activations, Ragged
from slide.rows.pairs import Pairs
from slide.rows.passes import Pass
from slide.system.buffers import Buffers

FAMILIES = ("simhash", "wta", "dwta", "minhash")
POLICIES = (SamplingConfig("vanilla"), SamplingConfig("topk"), SamplingConfig("threshold"))
TABLES = (10, 25, 50)
BUDGETS = (64, 256, 1024, 4096)

SIMHASH_STEP = 2
"""Step of `k` for SimHash, whose codes have one bit; the step for the others, whose codes have about three, is 1."""

KEEP_WITHIN = 1.5
"""Drop a family once other families reach the recall of each of its settings this many times faster."""

CAPACITY = 4
"""Bucket capacity to try, in multiples of the mean size: a few huge buckets cause most reads and hold few relevant
neurons."""


class Neurons(Protocol):
    """A layer, or whatever else has a table of neurons."""

    @property
    def table(self) -> RowTable:
        """Weights and biases of the neurons."""


@dataclass(frozen=True)
class Measurement:
    """Settings of tables, and what was measured with them.

    Attributes
    ----------
    lsh : LSHConfig
        Hash family and size of the tables.
    sampling : SamplingConfig
        The policy.
    budget : int
        Largest number of neurons of a query.
    recall : float
        Share of the exact top neurons that a query retrieves, from 0 to 1.
    active : float
        Mean number of neurons that a query retrieves.
    hash_microseconds, probe_microseconds, score_microseconds, rebuild_microseconds : float
        Time per query: to hash it, to read the tables and draw its active set, to compute the logits of that set, and
        for its share of the rebuilds.
    table_bytes : int
        Bytes of the tables.
    """

    lsh: LSHConfig
    sampling: SamplingConfig
    budget: int
    recall: float
    active: float
    hash_microseconds: float
    probe_microseconds: float
    score_microseconds: float
    rebuild_microseconds: float
    table_bytes: int

    @property
    def microseconds(self) -> float:
        """Time per query in all."""
        return (
            self.hash_microseconds + self.probe_microseconds + self.score_microseconds + self.rebuild_microseconds
        )

    def to_dict(self) -> dict:
        """Return the fields and the total time as plain values for JSON, by name."""
        return {**dataclasses.asdict(self), "microseconds": self.microseconds}


def frontier(measurements: Iterable[Measurement], limit: float = math.inf) -> tuple[Measurement, ...]:
    """Return the measurements that no other beats in both recall and time, by rising time.

    Exact search, which takes `limit` microseconds, beats all that take as long; it is ignored if all of them do.
    """
    best: list[Measurement] = []
    for one in sorted(measurements, key=lambda one: (one.microseconds, -one.recall)):
        if best and one.microseconds >= limit:
            break
        if not best or one.recall > best[-1].recall:
            best.append(one)
    return tuple(best)


def choose(members: Sequence[Measurement], recall_target: float | None) -> Measurement:
    """Return the member of a frontier to use.

    That is the cheapest one that reaches the wanted recall, or the one of highest recall if none does. Without a wanted
    recall it is the one with the highest ratio of recall to time.
    """
    if recall_target is None:
        return max(members, key=lambda one: one.recall / one.microseconds)
    return next((one for one in members if one.recall >= recall_target), members[-1])


@dataclass(frozen=True)
class TuningResult:
    """What `tune` found; ``str()`` of it is the table of the frontier.

    Attributes
    ----------
    frontier : tuple of Measurement
        Settings that no other beats in both recall and time, by rising time.
    choice : Measurement
        The member of the frontier to use.
    measurements : tuple of Measurement
        All measurements.
    exact_microseconds : float
        Time per query to compute all logits.
    recall_target : float or None
        The wanted recall.
    top, queries : int
        Number of exact top neurons to be found for each query, and of queries measured.
    neurons : int
        Number of neurons of the layer.
    threads : int
        Number of threads for all times.
    seconds : float
        Time of the search.
    complete : bool
        Whether the search ended before the time limit.
    """

    frontier: tuple[Measurement, ...]
    choice: Measurement
    measurements: tuple[Measurement, ...]
    exact_microseconds: float
    recall_target: float | None
    top: int
    queries: int
    neurons: int
    threads: int
    seconds: float
    complete: bool

    @property
    def reached(self) -> bool:
        """Whether the choice has the wanted recall."""
        return self.recall_target is None or self.choice.recall >= self.recall_target

    def settings(self) -> dict:
        """Return the choice as a dict of the settings in a layer's section of the configuration."""
        chosen = self.choice
        return {"budget": chosen.budget, "lsh": to_dict(chosen.lsh), "sampling": to_dict(chosen.sampling)}

    def to_dict(self) -> dict:
        """Return the frontier, the choice and how they were measured, as plain values for JSON."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "measurements"}
        return {
            **kept,
            "frontier": [one.to_dict() for one in self.frontier],
            "choice": self.choice.to_dict(),
            "measured": len(self.measurements),
            "reached": self.reached,
        }

    def __str__(self) -> str:
        head = ("family", "k", "tables", "capacity", "policy", "budget", "neurons", f"recall@{self.top}", "us/query")
        widths = (9, 3, 7, 9, 10, 7, 8, 10, 11, 0)
        rows = []
        for one in self.frontier:
            lsh = one.lsh
            where = (lsh.family, lsh.k, lsh.l, lsh.capacity or "all", one.sampling.policy, f"{one.budget:,}")
            cells = (*where, f"{one.active:,.0f}", f"{one.recall:.1%}", f"{one.microseconds:,.1f}")
            rows.append((*cells, "  <- chosen" if one is self.choice else ""))
        lines = [text_table((*head, ""), rows, align="rrrrrrrrrl", widths=widths, gap="")]
        lines.append(
            f"{len(self.measurements)} settings measured on {self.queries:,} queries in {self.seconds:.0f} s"
            f"{'' if self.complete else ', until the time limit'}; threads: {self.threads}; "
            f"all {self.neurons:,} logits take {self.exact_microseconds:,.1f} us per query"
        )
        if not self.reached:
            lines.append(f"no setting reaches recall {self.recall_target:.0%}: the one of highest recall was chosen")
        return "\n".join(lines)


def tune(
    layer: Neurons | RowTable | np.ndarray,
    queries: Activations | np.ndarray,
    *,
    families: Sequence[str] = FAMILIES,
    tables: Sequence[int] = TABLES,
    policies: Sequence[SamplingConfig] = POLICIES,
    budgets: Sequence[int] = BUDGETS,
    top: int = 10,
    recall_target: float | None = 0.9,
    queries_per_rebuild: int | None = None,
    time_limit: float = 60.0,
    max_queries: int = 256,
    seed: int = 0,
    threads: int | None = None,
) -> TuningResult:
    """Search for the hash tables, the policy and the budget that suit a layer.

    Each family starts with its default `k`. Families that cannot keep up are dropped; the others go on to smaller and
    larger `k` as long as these reach the frontier. At the end the settings on the frontier are tried with buckets of
    limited capacity. For each family and `k` the largest number of tables is built; the first few of them serve as
    smaller numbers of tables.

    Parameters
    ----------
    layer : layer, RowTable or float32 array [n, dim]
        The neurons to search; an array has no biases.
    queries : Activations or float32 array [n, dim]
        What the layer reads, such as ``network.layer_inputs(X)[-1]``.
    families : sequence of str
        Names of hash families. Default: the four that the package has.
    tables : sequence of int
        Numbers of tables, ``LSHConfig.l``. Default: 10, 25 and 50.
    policies : sequence of SamplingConfig
        Sampling policies. Default: the three that the package has.
    budgets : sequence of int
        Largest numbers of neurons of a query; those above the number of neurons are lowered to it. Default: 64, 256,
        1024 and 4096.
    top : int
        Number of exact top neurons to be found for each query. Default: 10.
    recall_target : float or None
        The wanted recall, from 0 to 1. The cheapest settings that reach it are chosen, or those of highest recall if
        none do. None chooses the highest ratio of recall to time. Default: 0.9.
    queries_per_rebuild : int, optional
        Number of queries between two rebuilds, over which the time of a rebuild is spread. Default: rebuilds are free.
    time_limit : float
        Seconds after which no further measurement is made. Default: 60.
    max_queries : int
        Largest number of queries to use, drawn at random. Default: 256.
    seed : int
        Seed of the draws and the hash functions. Default: 0.
    threads : int, optional
        Number of threads. Default: all cores that this process may use.

    Returns
    -------
    TuningResult
        The frontier and the choice; ``print`` it for a table.

    Raises
    ------
    ConfigError
        A family or policy does not exist, or no family fits the layer.
    ValueError
        The queries do not fit the layer, or there is nothing to search.
    """
    start = time.perf_counter()
    if not (families and tables and policies and budgets):
        raise ValueError("families, tables, policies and budgets must each have one or more values")
    table = _table_of(layer)
    inputs = as_signal(queries, table)
    n = inputs.n_samples
    if n > max_queries:
        inputs = take(inputs, np.sort(np.random.default_rng(seed).permutation(n)[:max_queries]))
    trial = _Trial(
        table,
        inputs,
        tuple(sorted(set(tables))),
        tuple(policies),
        tuple(sorted({min(budget, table.n_rows) for budget in budgets})),
        min(top, table.n_rows),
        queries_per_rebuild,
        seed,
        resolve_threads(threads),
    )
    done: list[Measurement] = []
    complete = True
    trials = _search(table, families, max(tables), seed, trial.exact_microseconds, done)
    for one in itertools.chain.from_iterable(map(trial.measure, trials)):
        done.append(one)
        if time.perf_counter() - start > time_limit:
            complete = False
            break
    if not done:
        raise ConfigError(f"no family of {', '.join(families)} fits vectors of {table.dim} dimensions")
    members = frontier(done, trial.exact_microseconds)
    return TuningResult(
        frontier=members,
        choice=choose(members, recall_target),
        measurements=tuple(done),
        exact_microseconds=trial.exact_microseconds,
        recall_target=recall_target,
        top=trial.exact.shape[1],
        queries=len(trial.exact),
        neurons=table.n_rows,
        threads=trial.threads,
        seconds=time.perf_counter() - start,
        complete=complete,
    )


def _table_of(layer: Neurons | RowTable | np.ndarray) -> RowTable:
    if isinstance(layer, np.ndarray):
        table = RowTable(*layer.shape, moments=0, name="tuned weights")
        table.weights[:] = layer
        return table
    return layer if isinstance(layer, RowTable) else layer.table


def _search(
    table: RowTable, families: Sequence[str], l: int, seed: int, limit: float, done: list[Measurement]  # noqa: E741
) -> Iterator[LSHConfig]:
    """Yield the tables to measure next; the caller appends the measurements of each to `done`."""

    def fitting(config: LSHConfig) -> LSHConfig | None:
        """Return the configuration with its k, or None if the family cannot have it."""
        try:
            hasher = make_hasher(config, table.dim, table.n_rows, np.random.default_rng(seed))
        except ConfigError:
            return None
        return dataclasses.replace(config, k=hasher.k)

    starts: dict[str, LSHConfig] = {}
    for family in families:
        if family not in registered_families():
            raise ConfigError(f"no hash family is named {family!r}; there are {', '.join(registered_families())}")
        config = fitting(LSHConfig(family=family, l=l))
        if config is not None:
            starts[family] = config
            yield config
    # Fewer codes find more and read more, more codes the opposite. Go each way as long as it leads to the frontier.
    going = deque((starts[family], way) for way in (-1, 1) for family in starts if _keeps_up(family, done))
    while going:
        last, way = going.popleft()
        assert last.k is not None
        k = last.k + way * (SIMHASH_STEP if last.family == "simhash" else 1)
        config = fitting(dataclasses.replace(last, k=k)) if 1 <= k <= 32 else None
        if config is not None:
            yield config
            if any((one.lsh.family, one.lsh.k) == (config.family, k) for one in frontier(done, limit)):
                going.append((config, way))
    for config in dict.fromkeys(dataclasses.replace(one.lsh, l=l) for one in frontier(done, limit)):
        hasher = make_hasher(config, table.dim, table.n_rows, np.random.default_rng(seed))
        yield dataclasses.replace(config, capacity=max(1, CAPACITY * table.n_rows >> hasher.bucket_bits))


def _keeps_up(family: str, done: Sequence[Measurement]) -> bool:
    """Return whether some setting's recall is reached by no other family `KEEP_WITHIN` times faster."""
    others = [one for one in done if one.lsh.family != family]
    return any(
        all(other.recall < one.recall or other.microseconds * KEEP_WITHIN > one.microseconds for other in others)
        for one in done
        if one.lsh.family == family
    )


class _Trial:
    """What all measurements of a search have in common: the neurons, the queries and the exact top neurons."""

    def __init__(
        self,
        table: RowTable,
        inputs: Activations,
        tables: tuple[int, ...],
        policies: tuple[SamplingConfig, ...],
        budgets: tuple[int, ...],
        top: int,
        queries_per_rebuild: int | None,
        seed: int,
        threads: int,
    ):
        self.table = table
        self.inputs = inputs
        self.tables = tables
        self.policies = policies
        self.budgets = budgets
        self.queries_per_rebuild = queries_per_rebuild
        self.seed = seed
        self.threads = threads
        start = time.perf_counter()
        self.exact = exact_top(table, inputs, top, threads)
        self.exact_microseconds = self._of_a_query(time.perf_counter() - start)
        self._buffers = Buffers()
        self._pairs = Pairs("tuning", table, self._buffers)

    def _of_a_query(self, seconds: float) -> float:
        return 1e6 * seconds / len(self.exact)

    def measure(self, lsh: LSHConfig) -> Iterator[Measurement]:
        """Build tables, and measure each number of them with each policy and budget."""
        index = NeuronIndex(self.table, lsh, RehashConfig(), self.policies[0], self.seed, self._buffers)
        index.rebuild(0, self.threads)
        codes = index.hash(self.inputs, self.threads)
        hashing = self._of_a_query(fastest(lambda: index.hash(self.inputs, self.threads)))
        rebuild = 1e6 * index.rebuild_seconds / self.queries_per_rebuild if self.queries_per_rebuild else 0.0
        nbytes = index.codes.nbytes + index.offsets.nbytes + index.ids.nbytes
        for l, sampling in itertools.product(self.tables, self.policies):  # noqa: E741
            if sampling.policy == "threshold" and sampling.min_tables > l:
                continue
            # All tables cost the same to hash for, to build and to hold.
            share = l / lsh.l
            for budget in self.budgets:
                draws = draw(index, codes, sampling, budget, self.threads, l=l, repeats=2)
                yield Measurement(
                    lsh=dataclasses.replace(lsh, l=l),
                    sampling=sampling,
                    budget=budget,
                    recall=recall(draws, self.exact),
                    active=float(draws.counts.mean()),
                    hash_microseconds=share * hashing,
                    probe_microseconds=self._of_a_query(draws.seconds),
                    score_microseconds=self._of_a_query(fastest(partial(self._score, draws), 2)),
                    rebuild_microseconds=share * rebuild,
                    table_bytes=round(share * nbytes),
                )
                if draws.counts.max(initial=0) < budget:
                    break  # a larger budget would find nothing more

    def _score(self, draws: Draws) -> None:
        begin = np.arange(len(draws.ids), dtype=dtypes.OFFSET) * draws.ids.shape[1]
        rows = Ragged(draws.ids.reshape(-1), begin, begin + draws.counts)
        self._pairs.logits(self._pairs.group(rows, self.threads), rows, self.inputs, Pass(measure(), 0, self.threads))


SEARCHES.append(lambda weights, queries, **options: tune(weights, queries, **options).choice.lsh)
