"""The search for hash tables: the frontier and the choice on made-up measurements, then on small layers."""

import dataclasses
import json

import numpy as np
import pytest

from slide.config import ConfigError, LSHConfig, RehashConfig, SamplingConfig
from slide.kernels.rows import RowTable
from slide.lsh.diagnostics import as_signal, draw, exact_top, recall
from slide.lsh.index import NeuronIndex
from slide.lsh.tuning import Measurement, choose, frontier, tune
from slide.system.buffers import Buffers

N, DIM = 600, 16


def measured(microseconds, recall):
    return Measurement(LSHConfig(k=4), SamplingConfig(), 64, recall, 50.0, 0.0, microseconds, 0.0, 0.0, 1)


CURVE = [measured(1.0, 0.2), measured(2.0, 0.6), measured(4.0, 0.9), measured(8.0, 0.95)]
BEATEN = [measured(1.5, 0.2), measured(4.0, 0.8), measured(9.0, 0.95), measured(5.0, 0.1)]


@pytest.fixture
def weights():
    return np.random.default_rng(8).normal(size=(N, DIM)).astype(np.float32)


@pytest.fixture
def queries(weights):
    rng = np.random.default_rng(9)
    return weights[:40] + 0.3 * rng.normal(size=(40, DIM)).astype(np.float32)


def quick(layer, queries, **options):
    options = {"tables": (5, 20), "budgets": (20, 100), "time_limit": 30.0, "threads": 1, **options}
    return tune(layer, queries, **options)


@pytest.mark.parametrize("seed", range(5))
def test_frontier_keeps_what_nothing_beats_in_any_order(seed):
    samples = CURVE + BEATEN
    order = np.random.default_rng(seed).permutation(len(samples))
    assert list(frontier(samples[i] for i in order)) == CURVE


def test_frontier_is_the_naive_one():
    rng = np.random.default_rng(4)
    samples = [measured(*rng.random(2).round(1)) for _ in range(60)]
    beaten = [
        any(
            (o.microseconds, -o.recall) != (p.microseconds, -p.recall)
            and o.microseconds <= p.microseconds
            and o.recall >= p.recall
            for o in samples
        )
        for p in samples
    ]
    naive = {(p.microseconds, p.recall) for p, out in zip(samples, beaten, strict=True) if not out}
    found = [(p.microseconds, p.recall) for p in frontier(samples)]
    assert len(found) == len(set(found))
    assert set(found) == naive


def test_exact_search_bounds_the_frontier_unless_everything_is_dearer():
    assert list(frontier(CURVE, 4.0)) == CURVE[:2]
    assert list(frontier(CURVE, 0.5)) == CURVE[:1]


@pytest.mark.parametrize(
    ("target", "chosen"), [(0.1, 0), (0.2, 0), (0.5, 1), (0.9, 2), (0.94, 3), (0.99, 3), (None, 1)]
)
def test_choice_is_the_cheapest_that_reaches_the_target(target, chosen):
    assert choose(CURVE, target) is CURVE[chosen]


def test_time_is_the_sum_of_its_parts():
    one = Measurement(LSHConfig(), SamplingConfig(), 64, 0.5, 9.0, 1.0, 2.0, 4.0, 8.0, 1)
    assert one.microseconds == 15.0
    assert one.to_dict()["microseconds"] == 15.0


def test_every_family_and_fewer_and_more_codes_are_tried(weights, queries):
    result = quick(weights, queries)
    tried = {}
    for one in result.measurements:
        tried.setdefault(one.lsh.family, set()).add(one.lsh.k)
    assert set(tried) == {"simhash", "wta", "dwta", "minhash"}
    assert any(len(codes) > 1 for codes in tried.values())
    assert {one.lsh.l for one in result.measurements} == {5, 20}
    assert {one.sampling.policy for one in result.measurements} == {"vanilla", "topk", "threshold"}
    assert any(one.lsh.capacity for one in result.measurements)
    assert set(result.frontier) <= set(result.measurements)
    assert result.choice in result.frontier
    assert result.complete


def test_measured_recall_is_that_of_the_tables(weights, queries):
    result = quick(weights, queries, families=("wta",), tables=(20,), policies=(SamplingConfig("topk"),))
    table = RowTable(N, DIM, moments=0)
    table.weights[:] = weights
    exact = exact_top(table, as_signal(queries, table), 10, 1)
    for one in result.measurements:
        index = NeuronIndex(table, one.lsh, RehashConfig(), one.sampling, 0, Buffers())
        index.rebuild(0, 1)
        draws = draw(index, index.hash(as_signal(queries, table), 1), one.sampling, one.budget, 1)
        assert one.recall == pytest.approx(recall(draws, exact))
        assert one.active == pytest.approx(draws.counts.mean())


def test_recall_target_is_obeyed(weights, queries):
    result = quick(weights, queries, recall_target=0.3, budgets=(20, 100, N))
    assert result.reached and result.choice.recall >= 0.3
    assert all(one.recall < 0.3 for one in result.frontier if one.microseconds < result.choice.microseconds)
    hopeless = quick(weights, queries, recall_target=1.0, budgets=(1,))
    assert not hopeless.reached
    assert hopeless.choice == max(hopeless.frontier, key=lambda one: one.recall)
    assert "no setting reaches recall 100%" in str(hopeless)


def test_time_is_up(weights, queries):
    result = quick(weights, queries, time_limit=0.0)
    assert not result.complete
    assert len(result.measurements) == 1
    assert "until the time limit" in str(result)


def test_rebuilds_are_spread_over_queries(weights, queries):
    options = {"families": ("simhash",), "tables": (5,), "budgets": (20,), "time_limit": 0.0}
    assert quick(weights, queries, **options).choice.rebuild_microseconds == 0
    assert quick(weights, queries, **options, queries_per_rebuild=1).choice.rebuild_microseconds > 0


def test_a_sample_of_the_queries_is_measured(weights, queries):
    result = quick(weights, queries, max_queries=7, time_limit=0.0)
    assert result.queries == 7


def test_report_settings_and_dictionary(weights, queries):
    result = quick(weights, queries, families=("simhash",))
    lines = str(result).splitlines()
    assert len(lines) >= len(result.frontier) + 2
    assert sum(line.endswith("<- chosen") for line in lines) == 1
    values = json.loads(json.dumps(result.to_dict()))
    assert values["choice"]["recall"] == result.choice.recall
    assert values["measured"] == len(result.measurements)
    settings = result.settings()
    assert settings["budget"] == result.choice.budget
    assert LSHConfig(**settings["lsh"]) == result.choice.lsh
    assert SamplingConfig(**settings["sampling"]) == result.choice.sampling


def test_auto_returns_tables_that_can_be_built(weights, queries):
    lsh = LSHConfig.auto(weights, queries, time_limit=0.0, threads=1, families=("dwta",), tables=(5,))
    assert lsh == dataclasses.replace(lsh, family="dwta", l=5)
    assert lsh.k is not None


def test_families_that_do_not_fit_are_left_out():
    rng = np.random.default_rng(2)
    weights, queries = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    result = quick(weights, queries)
    assert {one.lsh.family for one in result.measurements} == {"simhash"}
    with pytest.raises(ConfigError, match="no family of wta fits"):
        quick(weights, queries, families=("wta",))


def test_refusals(weights, queries):
    with pytest.raises(ConfigError, match="no hash family is named 'simhush'"):
        quick(weights, queries, families=("simhush",))
    with pytest.raises(ConfigError, match="policy"):
        quick(weights, queries, policies=(SamplingConfig("best"),))
    with pytest.raises(ValueError, match="one or more"):
        quick(weights, queries, budgets=())
    with pytest.raises(ValueError, match=r"\[n, 16\]"):
        quick(weights, queries[:, :3])
