"""Kernels on tables of bfloat16: what they read is exact, what they write is rounded at random, as a twin rounds it."""

import numpy as np
import pytest

from slide.kernels import dense, optim, search, sparse, sparse_input
from slide.kernels.bfloat16 import BFloat16View, widen
from slide.kernels.catch_up import Owed, catch_up
from slide.kernels.grouping import PairGroups
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

N_ROWS, BETAS, EPS = 150, (0.8, 0.95), 1e-2
NOTHING = np.zeros(0)
NARROW = {"bf16": ("weights", "m", "v"), "bf16-moments": ("m", "v")}


@pytest.fixture(params=NARROW)
def precision(request):
    return request.param


@pytest.fixture
def make_pair(rng):
    """Make a table of a precision and a float32 table of the same numbers."""

    def make_pair(dim, precision, moments=2, n_rows=N_ROWS):
        pair = [RowTable(n_rows, dim, moments=moments, precision=kind) for kind in (precision, "fp32")]
        for name, view in pair[0].state().items():
            if name != "last_step":
                values = rng.random(view.shape) if "v" in name else rng.normal(size=view.shape)
                view[:] = values
                pair[1].state()[name][:] = np.asarray(view)
        return pair

    return make_pair


@pytest.fixture
def make_groups(rng):
    def make_groups(samples, dim, n_rows=N_ROWS):
        """Group pairs of every sample with forty rows; return them, their coefficients and the samples."""
        ids = np.concatenate([rng.permutation(n_rows)[:40] for _ in range(samples)]).astype(np.int32)
        end = np.arange(40, len(ids) + 1, 40)
        groups = PairGroups(len(ids))
        groups.group(ids, end - 40, end, n_rows)
        hidden = np.zeros((samples, -(-dim // 16) * 16), np.float32)
        hidden[:, :dim] = rng.normal(size=(samples, dim))
        return groups, rng.normal(size=len(ids)).astype(np.float32), hidden

    return make_groups


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def noise_twin(rows, dim, step):
    """The random bits of each row and column at a step, uint32 [rows, dim]."""
    keys = np.array([mix((step << 32) | int(row)) >> 32 for row in rows], np.uint32)
    x = keys[:, None] + np.arange(dim, dtype=np.uint32)
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def rounded_twin(table, rows, step):
    """The parts of some rows of a float32 table, rounded as a bfloat16 table rounds them at a step."""
    noise = noise_twin(rows, table.dim, step)
    bits = {"weights": noise >> 16, "m": (noise >> 8) & 0xFFFF, "v": noise & 0xFFFF}
    parts = {name: view[rows] for name, view in table.state().items() if name in bits}
    return {name: widen((part.view(np.uint32) + bits[name] >> 16).astype(np.uint16)) for name, part in parts.items()}


def check(table, twin, precision, rows, step):
    """Compare with a float32 table that did the same: what was written to is rounded, all else the same."""
    rounded = rounded_twin(twin, rows, step)
    for name, view in table.state().items():
        expected = twin.state()[name].copy()
        if name in NARROW[precision]:
            expected[rows] = rounded[name]
        np.testing.assert_array_equal(np.asarray(view), expected, err_msg=name)


def padding_is_zero(table):
    """Tell whether the rows of a table are what is seen of them, and zeros."""
    seen = sum(int(np.count_nonzero(np.asarray(view))) for view in table.state().values())
    raw = np.frombuffer(table.buffer, np.uint16).reshape(table.n_rows, -1)
    header = np.count_nonzero(raw[:, :32].copy().view(np.uint32))
    columns = {"weights": table.precision == "bf16", "m": table.precision != "fp32", "v": table.precision != "fp32"}
    at, inside = 32, 0
    for name, is_narrow in columns.items():
        if name in table.state():
            width = -(-table.dim // (32 if is_narrow else 16)) * 32
            part = raw[:, at : at + width]
            inside += np.count_nonzero(part if is_narrow else part.copy().view(np.uint32))
            at += width
    return header + inside == seen


def test_parts_and_bytes(dim, precision):
    table = RowTable(3, dim, precision=precision)
    assert table.precision == precision
    for name, view in table.state().items():
        assert isinstance(view, BFloat16View) == (name in NARROW[precision])
    sizes = {name: 2 if name in NARROW[precision] else 4 for name in ("weights", "m", "v")}
    row = 64 + sum(-(-dim * size // 64) * 64 for size in sizes.values())
    assert table.buffer.nbytes == RowTable.bytes_needed(3, dim, 2, precision) == 3 * row
    for number, view in enumerate(table.state().values(), 1):
        view[...] = number
    for number, view in enumerate(table.state().values(), 1):
        assert (np.asarray(view) == number).all()
    assert padding_is_zero(table)


def test_half_the_bytes():
    assert RowTable.bytes_needed(10, 256, 2, "bf16") - 640 == (RowTable.bytes_needed(10, 256, 2) - 640) / 2


def test_precision_is_one_of_three():
    for refused in (lambda: RowTable(3, 4, precision="fp16"), lambda: RowTable.bytes_needed(3, 4, 2, "fp16")):
        with pytest.raises(ValueError, match="precision must be one of fp32, bf16-moments, bf16, got 'fp16'"):
            refused()


def test_fill_uniform_rounds_to_nearest(dim):
    wide, narrow = RowTable(40, dim), RowTable(40, dim, precision="bf16")
    for table in (wide, narrow):
        table.fill_uniform(0.5, 3, 2)
    expected = BFloat16View(np.zeros((40, dim), np.uint16))
    expected[:] = wide.weights
    np.testing.assert_array_equal(narrow.weights, expected)
    assert padding_is_zero(narrow)


def test_reading_is_exact(rng, make_pair, make_groups, one_blas, dim, threads):
    """Products with bfloat16 weights are those with the same weights in float32, to the bit."""
    groups, _, hidden = make_groups(20, dim)
    entries = np.arange(0, 20 * dim + 1, dim)
    values = np.ascontiguousarray(hidden[:, :dim]).ravel()
    columns = np.tile(np.arange(dim, dtype=np.int32), 20)
    ids = rng.permutation(N_ROWS)[:120].astype(np.int32)
    indices = rng.integers(0, N_ROWS, 200).astype(np.int32)
    candidates = np.array([rng.permutation(N_ROWS)[:30] for _ in range(20)], np.int32)
    counts = rng.integers(5, 31, 20)
    found = []
    for table in make_pair(dim, "bf16"):
        logits, of_sparse = np.zeros(800, np.float32), np.zeros(800, np.float32)
        sparse.sddmm(table, groups, hidden, logits, threads)
        sparse_input.sddmm(table, groups, entries[:-1], entries[1:], columns, values, of_sparse, threads)
        sums = np.zeros((10, table.padded_dim), np.float32)
        ones = np.ones(200, np.float32)
        sparse.spmm(table, np.arange(0, 201, 20), indices, ones, np.zeros(0, np.float32), False, sums, threads)
        shared = np.zeros((20, 120), np.float32)
        dense.shared_logits(table, ids, np.zeros(0, np.float32), hidden, shared, threads)
        total = np.zeros(20, np.float32)
        bests = [(np.zeros((n, 5), np.int32), np.zeros((n, 5), np.float32)) for n in (20, 2, 20)]
        nobody = np.zeros(0, np.int64), np.zeros(0, np.int32)
        search.exact_topk(table, hidden, *nobody, *bests[0], threads, total)
        search.exact_topk(table, hidden[:2], *nobody, *bests[1], threads)
        search.candidates_topk(table, hidden, candidates, counts, *nobody, *bests[2], threads)
        found.append((logits, of_sparse, sums, shared, total, *(part for best in bests for part in best)))
    for actual, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(actual, expected)


RULES = {
    "adam": lambda step: optim.adam(0.05, *BETAS, EPS, step, weight_decay=0.5),
    "plain adam": lambda step: optim.adam(0.05, *BETAS, EPS, step),
    "sgd": lambda step: optim.sgd(0.05, step),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["grouped", "shared", "whole", "touched"])
def test_steps_are_rounded_twin(make_pair, make_groups, one_blas, dim, threads, precision, kind, rule):
    if kind == "touched" and rule == "adam":
        pytest.skip("weights that decay are no columns that wait")
    tables = make_pair(dim, precision)
    groups, coefficients, hidden = make_groups(12, dim)
    gradients = []
    for table in tables:
        gradient, total = SampleGradient(12, table.padded_dim), np.zeros_like(hidden)
        if kind == "grouped":
            optim.step_groups(table, groups, coefficients, hidden, gradient, RULES[rule](7), threads)
        elif kind == "shared":
            deltas = coefficients.reshape(12, 40)
            dense.shared_step(table, groups.rows[:40], deltas, hidden, gradient, RULES[rule](7), threads)
        else:
            entries = np.arange(0, 12 * dim + 1, dim)
            samples = np.tile(np.arange(dim, dtype=np.int32), 12), np.ascontiguousarray(hidden[:, :dim]).ravel()
            rest = gradient, kind == "touched", RULES[rule](7), threads
            sparse_input.step_groups(table, groups, coefficients, entries[:-1], entries[1:], *samples, *rest)
        gradient.sum_into(total, None, 1)
        gradients.append(total)
    np.testing.assert_array_equal(*gradients)
    check(*tables, precision, groups.rows[:40] if kind == "shared" else groups.rows, 7)
    assert padding_is_zero(tables[0])


MODES = {"decay": (True, False, 0), "moments": (False, True, 0), "motion": (True, True, 0), "replay": (True, True, 99)}


@pytest.mark.parametrize("mode", MODES)
def test_catching_up_is_rounded_twin(rng, make_pair, dim, threads, precision, mode):
    weights_decay, moves, replay_until = MODES[mode]
    tables = make_pair(dim, precision)
    steps = rng.random((20, 3)).astype(np.float32)
    steps[:, 1] += 1
    steps[:, 2] *= 0.1 * weights_decay
    log_keep = np.concatenate([[0], np.cumsum(np.log1p(-steps[:, 2].astype(np.float64)))]) if weights_decay else NOTHING
    motion = (steps, rng.random((20, 8)).astype(np.float32), 6, replay_until, EPS) if moves else None
    owed = Owed(14, 0, log_keep, None if mode == "decay" else BETAS, motion)
    last = rng.integers(1, 16, N_ROWS)
    for table in tables:
        table.last_step[:] = last
        catch_up(table, None, owed, threads)
    check(*tables, precision, np.flatnonzero(last < 14), 14)
    assert padding_is_zero(tables[0])


def test_rows_catch_up_before_they_are_read(rng, make_pair, make_groups, one_blas, dim, threads, precision):
    """Products that let rows catch up read what a visit of their own would have left, to the bit."""
    groups, _, hidden = make_groups(20, dim)
    owed = Owed(14, 0, np.arange(15) * np.log1p(-0.05), BETAS, None)
    first, second = make_pair(dim, precision)[0], RowTable(N_ROWS, dim, precision=precision)
    first.last_step[:] = rng.integers(1, 16, N_ROWS)
    for name, view in first.state().items():
        second.state()[name][:] = view
    ids = np.unique(rng.integers(0, N_ROWS, 80)).astype(np.int32)
    found = []
    for table in (first, second):
        logits, shared = np.zeros(800, np.float32), np.zeros((20, len(ids)), np.float32)
        if table is first:
            catch_up(table, groups.rows, owed, threads)
            catch_up(table, ids, owed, threads)
        missed = None if table is first else owed
        sparse.sddmm(table, groups, hidden, logits, threads, missed)
        dense.shared_logits(table, ids, np.zeros(0, np.float32), hidden, shared, threads, missed)
        found.append((logits, shared, np.frombuffer(table.buffer, np.uint8)))
    for actual, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_results_are_the_same_at_any_number_of_threads(make_groups, precision):
    groups, coefficients, hidden = make_groups(300, 40, 3000)
    tables = []
    for threads in (1, 2, 5):
        table = RowTable(3000, 40, precision=precision)
        table.fill_uniform(1.0, 0, threads)
        for step in (1, 2):
            optim.step_groups(table, groups, coefficients, hidden, None, RULES["adam"](step), threads)
        tables.append(np.frombuffer(table.buffer, np.uint8))
    assert all(np.array_equal(table, tables[0]) for table in tables[1:])


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9])
def test_rounding_at_random_is_unbiased(share):
    """Of weights that should go up by a share of their last digit, that share goes up by all of it."""
    n, digit = 4000, 2.0**-7
    table, groups = RowTable(n, 64, moments=0, precision="bf16"), PairGroups(n)
    table.weights[...] = 1.0
    groups.group(np.arange(n, dtype=np.int32), np.zeros(1, np.int64), np.full(1, n), n)
    hidden = np.full((1, 64), -share * digit, np.float32)
    optim.step_groups(table, groups, np.ones(n, np.float32), hidden, None, optim.sgd(1.0, 1), 1)
    moved = (np.asarray(table.weights) - 1) / digit
    assert set(np.unique(moved)) == {0.0, 1.0}
    spread = np.sqrt(share * (1 - share))
    assert abs(moved.mean() - share) < 4 * spread / np.sqrt(moved.size)
    # Rows and columns are independent draws: their means spread as those of so many.
    for axis in (0, 1):
        means = moved.mean(axis=axis)
        assert means.std() == pytest.approx(spread / np.sqrt(moved.shape[axis]), rel=0.4)


def test_many_small_steps_add_up():
    """Steps of a hundredth of the last digit, which rounding to nearest would lose one and all."""
    n, digit = 64, 2.0**-7
    table, groups = RowTable(n, 64, moments=0, precision="bf16"), PairGroups(n)
    table.weights[...] = 1.0
    groups.group(np.arange(n, dtype=np.int32), np.zeros(1, np.int64), np.full(1, n), n)
    hidden = np.full((1, 64), -0.01 * digit, np.float32)
    for step in range(1, 1001):
        optim.step_groups(table, groups, np.ones(n, np.float32), hidden, None, optim.sgd(1.0, step), 1)
    # The sum of a thousand draws of 0.01 is 10 digits; its spread over n * 64 weights is sqrt(10) / 64.
    assert abs(np.asarray(table.weights).mean(dtype=np.float64) - (1 + 10 * digit)) < 4 * digit * np.sqrt(10) / 64


def test_what_is_bfloat16_already_stays(make_pair, precision):
    table, groups = make_pair(40, precision)[0], PairGroups(N_ROWS)
    table.weights[3, 5] = np.nan
    before = {name: np.asarray(view).copy() for name, view in table.state().items()}
    groups.group(np.arange(N_ROWS, dtype=np.int32), np.zeros(1, np.int64), np.full(1, N_ROWS), N_ROWS)
    zero = np.zeros((1, 48), np.float32)
    optim.step_groups(table, groups, np.zeros(N_ROWS, np.float32), zero, None, optim.sgd(1.0, 1), 1)
    for name in ("weights", "bias", "m", "v"):
        np.testing.assert_array_equal(np.asarray(table.state()[name]), before[name], err_msg=name)
