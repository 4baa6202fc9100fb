"""Settings of a layer's hash tables, chosen by what they retrieve and cost on the user's own hidden vectors.

`tune` builds tables of many settings over the layer's neurons and measures, for each policy and budget, recall against
exact search and the time until a query has the logits of its active set. What no other setting beats in both is the
frontier; the choice is its cheapest member that reaches the recall asked for.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slide.config import ConfigError, LSHConfig, RehashConfig, SamplingConfig
from slide.config.dicts import to_dict
from slide.config.tables import SEARCHES
from slide.kernels import dtypes
from slide.kernels.optim import measure
from slide.kernels.parallel import resolve_threads
from slide.kernels.rows import RowTable
from slide.lsh.diagnostics import as_signal, draw, exact_top, fastest, recall, take
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
"""Codes by which `k` changes: SimHash's have one bit, the others' about three."""

KEEP_WITHIN = 1.5
"""A family leaves the search when others have the recall of each of its settings in so many times less time."""

CAPACITY = 4
"""Capacity that is tried, in mean bucket sizes: few buckets hold most of what is read, and least of what is sought."""


@dataclass(frozen=True)
class Measurement:
    """A setting and what it does.

    Attributes
    ----------
    lsh : LSHConfig
    sampling : SamplingConfig
    budget : int
    recall : float
        Share of the exact top neurons that a query retrieves.
    active : float
        Neurons a query retrieves, mean.
    hash_microseconds, probe_microseconds, score_microseconds, rebuild_microseconds : float
        A query's time to be hashed, to read the tables and draw its active set, to compute the logits of that, and its
        share of the rebuilds.
    table_bytes : int
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
        """All of a query's time."""
        return (
            self.hash_microseconds + self.probe_microseconds + self.score_microseconds + self.rebuild_microseconds
        )

    def to_dict(self) -> dict:
        """Return the fields and the total time as plain values, for JSON."""
        return {**dataclasses.asdict(self), "microseconds": self.microseconds}


def frontier(measurements: Iterable[Measurement], limit: float = math.inf) -> tuple[Measurement, ...]:
    """Return the measurements that no other beats in both recall and time, by rising time.

    Parameters
    ----------
    measurements : iterable of Measurement
    limit : float
        Microseconds of exact search, which beats whatever takes as long; ignored where everything does.
    """
    best = []
    for one in sorted(measurements, key=lambda one: (one.microseconds, -one.recall)):
        if best and one.microseconds >= limit:
            break
        if not best or one.recall > best[-1].recall:
            best.append(one)
    return tuple(best)


def choose(samples: Sequence[Measurement], recall_target: float | None) -> Measurement:
    """Return the member of a frontier to use.

    Parameters
    ----------
    samples : sequence of Measurement
        As `frontier` returns it, not empty.
    recall_target : float or None
        The cheapest that reaches it is chosen, or the best one if none does; with None, that of the most recall for its
        time.
    """
    if recall_target is None:
        return max(samples, key=lambda one: one.recall / one.microseconds)
    return next((one for one in samples if one.recall >= recall_target), samples[-1])


@dataclass(frozen=True)
class TuningResult:
    """What `tune` found; ``str()`` of it is the table of the frontier.

    Attributes
    ----------
    frontier : tuple of Measurement
        By rising time.
    choice : Measurement
    measurements : tuple of Measurement
        All that were made.
    exact_microseconds : float
        A query's time to compute every logit.
    recall_target : float or None
    top, queries, neurons, threads : int
        Exact neurons to be found for each query; queries measured; rows of the layer; threads of all times.
    seconds : float
        The search took.
    complete : bool
        Whether it ended before its time did.
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
        """Whether the choice has the recall that was asked for."""
        return self.recall_target is None or self.choice.recall >= self.recall_target

    def settings(self) -> dict:
        """Return the choice as it stands in a layer's section of the configuration."""
        chosen = self.choice
        return {"budget": chosen.budget, "lsh": to_dict(chosen.lsh), "sampling": to_dict(chosen.sampling)}

    def to_dict(self) -> dict:
        """Return the frontier, the choice and how they were measured as plain values, for JSON."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "measurements"}
        return {
            **kept,
            "frontier": [one.to_dict() for one in self.frontier],
            "choice": self.choice.to_dict(),
            "measured": len(self.measurements),
            "reached": self.reached,
        }

    def __str__(self) -> str:
        head = ("family", "k", "tables", "capacity", "policy", "budget", "neurons", f"recall@{self.top}", "us a query")
        widths = (9, 3, 7, 9, 10, 7, 8, 10, 11)
        lines = ["".join(cell.rjust(width) for cell, width in zip(head, widths, strict=True))]
        for one in self.frontier:
            lsh = one.lsh
            cells = (lsh.family, lsh.k, lsh.l, lsh.capacity or "all", one.sampling.policy, f"{one.budget:,}")
            cells += (f"{one.active:,.0f}", f"{one.recall:.1%}", f"{one.microseconds:,.1f}")
            line = "".join(str(cell).rjust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append(line + ("  <- chosen" if one is self.choice else ""))
        lines.append(
            f"{len(self.measurements)} settings measured on {self.queries:,} queries in {self.seconds:.0f} s"
            f"{'' if self.complete else ', when time was up'}; threads: {self.threads}; "
            f"all {self.neurons:,} logits take {self.exact_microseconds:,.1f} us a query"
        )
        if not self.reached:
            lines.append(f"no setting reaches recall {self.recall_target:.0%}: the best one was chosen")
        return "\n".join(lines)


def tune(
    layer,
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

    Every family starts with its default `k`; those that cannot keep up drop out; the others go on to smaller and larger
    values as long as these reach the frontier. Last, what is on the frontier is tried with buckets of limited capacity.
    Tables are built once for the most tables asked for: the first few of them are what fewer would be.

    Parameters
    ----------
    layer : layer, RowTable or float32 array [n, dim]
        Whose neurons are searched; an array has no biases.
    queries : Activations or float32 array [n, dim]
        What the layer reads, such as ``network.layer_inputs(X)[-1]``.
    families : sequence of str
    tables : sequence of int
        Values of ``LSHConfig.l``.
    policies : sequence of SamplingConfig
    budgets : sequence of int
        Those above the number of neurons count as that.
    top : int
        Exact neurons to be found for each query.
    recall_target : float or None
        See `choose`.
    queries_per_rebuild : int, optional
        Queries between two rebuilds, over which the time of one is spread; by default it costs nothing.
    time_limit : float
        Seconds; the search ends with the measurement that passes them.
    max_queries : int
        Use so many of the queries, drawn at random.
    seed : int
        Of the draws and the hash functions.
    threads : int, optional
        By default all cores this process may use.

    Raises
    ------
    ConfigError
        A family or policy does not exist, or none of the families fits the layer.
    ValueError
        The queries do not fit, or there is nothing to search.
    """
    start = time.perf_counter()
    if not (families and tables and policies and budgets):
        raise ValueError("families, tables, policies and budgets must each have one or more values")
    table = _table_of(layer)
    inputs = as_signal(queries, table)
    n = len(inputs.dense) if inputs.dense is not None else len(inputs.columns.begin)
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
    samples = frontier(done, trial.exact_microseconds)
    return TuningResult(
        frontier=samples,
        choice=choose(samples, recall_target),
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


def _table_of(layer):
    if isinstance(layer, np.ndarray):
        table = RowTable(*layer.shape, moments=0, name="tuned weights")
        table.weights[:] = layer
        return table
    return layer if isinstance(layer, RowTable) else layer.table


def _search(table, families, l, seed, limit, done) -> Iterator[LSHConfig]:  # noqa: E741
    """Yield the tables to measure next; `done` grows by what came of the last ones."""

    def fitting(config):
        """The configuration with its k, or None where the family cannot have it."""
        try:
            hasher = make_hasher(config, table.dim, table.n_rows, np.random.default_rng(seed))
        except ConfigError:
            return None
        return dataclasses.replace(config, k=hasher.k)

    starts = {}
    for family in families:
        if family not in registered_families():
            raise ConfigError(f"no hash family is named {family!r}; there are {', '.join(registered_families())}")
        config = fitting(LSHConfig(family=family, l=l))
        if config is not None:
            starts[family] = config
            yield config
    # Fewer codes find more and read more, further codes the opposite: each way as long as it leads to the frontier.
    going = deque((starts[family], way) for way in (-1, 1) for family in starts if _keeps_up(family, done))
    while going:
        last, way = going.popleft()
        k = last.k + way * (SIMHASH_STEP if last.family == "simhash" else 1)
        config = fitting(dataclasses.replace(last, k=k)) if 1 <= k <= 32 else None
        if config is not None:
            yield config
            if any((one.lsh.family, one.lsh.k) == (config.family, k) for one in frontier(done, limit)):
                going.append((config, way))
    for config in dict.fromkeys(dataclasses.replace(one.lsh, l=l) for one in frontier(done, limit)):
        hasher = make_hasher(config, table.dim, table.n_rows, np.random.default_rng(seed))
        yield dataclasses.replace(config, capacity=max(1, CAPACITY * table.n_rows >> hasher.bucket_bits))


def _keeps_up(family, done):
    """Whether a family has a setting whose recall no other family has in a fraction of the time."""
    others = [one for one in done if one.lsh.family != family]
    return any(
        all(other.recall < one.recall or other.microseconds * KEEP_WITHIN > one.microseconds for other in others)
        for one in done
        if one.lsh.family == family
    )


class _Trial:
    """What all measurements of a search share: the neurons, the queries and what these should find."""

    def __init__(self, table, inputs, tables, policies, budgets, top, queries_per_rebuild, seed, threads):
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

    def _of_a_query(self, seconds):
        return 1e6 * seconds / len(self.exact)

    def measure(self, lsh: LSHConfig) -> Iterator[Measurement]:
        """Build tables and measure their first few, with every policy and budget."""
        index = NeuronIndex(self.table, lsh, RehashConfig(), self.policies[0], self.seed, self._buffers)
        index.rebuild(0, self.threads)
        codes = index.hash(self.inputs, self.threads)
        hashing = self._of_a_query(fastest(lambda: index.hash(self.inputs, self.threads)))
        rebuild = 1e6 * index.rebuild_seconds / self.queries_per_rebuild if self.queries_per_rebuild else 0.0
        nbytes = index.codes.nbytes + index.offsets.nbytes + index.ids.nbytes
        for l, sampling in itertools.product(self.tables, self.policies):  # noqa: E741
            if sampling.policy == "threshold" and sampling.min_tables > l:
                continue
            # Each table costs as much as the next to hash for, to build and to hold.
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
                    score_microseconds=self._of_a_query(fastest(lambda draws=draws: self._score(draws), 2)),
                    rebuild_microseconds=share * rebuild,
                    table_bytes=round(share * nbytes),
                )
                if draws.counts.max(initial=0) < budget:
                    break  # nothing is left for a larger one

    def _score(self, draws):
        begin = np.arange(len(draws.ids), dtype=dtypes.OFFSET) * draws.ids.shape[1]
        rows = Ragged(draws.ids.reshape(-1), begin, begin + draws.counts)
        self._pairs.logits(self._pairs.group(rows, self.threads), rows, self.inputs, Pass(measure(), 0, self.threads))


SEARCHES.append(lambda weights, queries, **options: tune(weights, queries, **options).choice.lsh)
