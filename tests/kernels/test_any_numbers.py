"""Kernels that take arrays alone, over generated sizes and numbers: denormals, both zeros, the largest floats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import DIMS, LARGEST, NUMBERS, SEEDS, THREADS, TINY, fast, numbers, pairs_of, runs_of, table_of
from scipy.special import expit, logsumexp, softmax

from slide.config import LSHConfig
from slide.kernels.active import draw_uniform, label_places, sorted_unique
from slide.kernels.bfloat16 import BFloat16View, narrow, widen
from slide.kernels.dropout import drop_entries, drop_pairs, drop_units
from slide.kernels.losses import ActiveSets, logistic_cross_entropy, remove_offsets, softmax_cross_entropy
from slide.kernels.rows import RowTable
from slide.kernels.search import exact_topk, sketch_topk
from slide.kernels.sketch import Sketch
from slide.kernels.sparse import take_rows
from slide.lsh.families import make_dwta, make_simhash

KINDS = st.sampled_from(list(NUMBERS))
EDGES = [0.0, -0.0, 1e-45, -1e-45, TINY, -TINY, 1.0, -1.0, 88.5, -88.5, 1e30, -1e30, LARGEST, -LARGEST]
NOBODY = np.zeros(0, np.int64), np.zeros(0, np.int32)


# --- Hashing


def hasher_of(family, dim, seed):
    rng = np.random.default_rng(seed)
    if family == "dwta":
        return make_dwta(LSHConfig(family="dwta", k=2, l=5, bin_size=min(4, dim)), dim, 100, rng)
    return make_simhash(LSHConfig(projection=family, k=3, l=5), dim, 100, rng)


FAMILIES = st.sampled_from(["hadamard", "sparse", "dwta"])
SEVERAL = DIMS.filter(lambda dim: dim > 1)  # a bin has two coordinates or more


@fast
@given(SEEDS, FAMILIES, SEVERAL, st.integers(0, 40), KINDS, THREADS)
def test_hashes_of_any_numbers(seed, family, dim, n, kind, threads):
    """Buckets exist, are the same in any company, and know no sign of zero."""
    rng = np.random.default_rng(seed)
    hasher, x = hasher_of(family, dim, seed), numbers(rng, (n, dim + 3), kind)
    out = np.full((5, n), 2**32 - 1, np.uint32)
    hasher.hash(x, out, threads)
    assert (out < 2**hasher.bucket_bits).all()
    for s in range(n):
        alone = np.zeros((5, 1), np.uint32)
        hasher.hash(x[s : s + 1], alone, 1)
        assert np.array_equal(alone[:, 0], out[:, s])
    other = np.zeros_like(out)
    hasher.hash(np.where(x == 0, -x, x), other, threads)
    assert np.array_equal(other, out)


@fast
@given(SEEDS, FAMILIES, SEVERAL, st.integers(0, 40), THREADS)
def test_hashes_of_sparse_rows(seed, family, dim, n, threads):
    """Those of the same rows as a dense array, with repeated columns and columns in any order."""
    rng = np.random.default_rng(seed)
    hasher = hasher_of(family, dim, seed)
    columns, begin, end = runs_of(rng, n, dim, 12)
    sample, entry = pairs_of(begin, end)
    indptr, columns = np.append(0, np.cumsum(end - begin)), columns[entry]
    # Whole numbers: sums in any order are exact.
    values = rng.integers(-3, 4, len(columns)).astype(np.float32)
    dense = np.zeros((n, dim), np.float32)
    np.add.at(dense, (sample, columns), values)
    expected, out = np.zeros((2, 5, n), np.uint32)
    hasher.hash(dense, expected, threads)
    hasher.hash_sparse(indptr, columns, values, out, threads)
    assert np.array_equal(out, expected)


@fast
@given(SEEDS, st.sampled_from(["hadamard", "sparse"]), DIMS, st.integers(-40, 40))
def test_the_length_of_a_vector_does_not_move_its_signs(seed, family, dim, power):
    rng = np.random.default_rng(seed)
    x, (one, other) = rng.normal(size=(20, dim)).astype(np.float32), np.zeros((2, 5, 20), np.uint32)
    hasher = hasher_of(family, dim, seed)
    hasher.hash(x, one, 1)
    hasher.hash(x * np.float32(2.0**power), other, 1)
    assert np.array_equal(one, other)


# --- Sets of ids


@fast
@given(SEEDS, st.integers(0, 3000), st.sampled_from([1, 2, 100, 2047, 2048, 2049, 2**22, 2**31 - 1]))
def test_sorted_unique(seed, n, n_rows):
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.append(rng.integers(0, n_rows, 50), [0, n_rows - 1]), n).astype(np.int32)
    expected = np.unique(ids)
    assert np.array_equal(ids[: sorted_unique(ids, np.zeros(n, np.int32), n_rows)], expected)


def mix(x):
    """Splitmix64's finaliser."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


@fast
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(1, 2**31 - 1), st.integers(0, 100))
def test_draws(seed, iteration, n_rows, n):
    longer, shorter = np.full(n + 9, -1, np.int32), np.full(n, -1, np.int32)
    draw_uniform(longer, n_rows, seed, iteration)
    draw_uniform(shorter, n_rows, seed, iteration)
    key = mix(mix(mix(seed ^ 0x7461696C64726177) ^ iteration))
    assert longer.tolist() == [(mix(key + i) >> 32) * n_rows >> 32 for i in range(n + 9)]
    assert np.array_equal(longer[:n], shorter)


@fast
@given(SEEDS, st.integers(0, 20), st.integers(0, 9))
def test_label_places(seed, n_shared, samples):
    rng = np.random.default_rng(seed)
    shared = np.sort(rng.permutation(40)[:n_shared]).astype(np.int32)
    labels = [rng.permutation(40)[: rng.integers(0, 6)] for _ in range(samples)]
    flat = np.concatenate([np.zeros(0), *labels]).astype(np.int32)
    out = np.full(len(flat), -1, np.int32)
    label_places(shared, np.cumsum([0, *map(len, labels)]), flat, out)
    for mine in labels:
        places, out = out[: len(mine)], out[len(mine) :]
        sets = [*shared, *(label for label in mine if label not in shared)]
        assert [sets[place] for place in places] == mine.tolist()


# --- Rows of a matrix, and dropout


@fast
@given(SEEDS, st.integers(1, 12), st.integers(0, 20), KINDS, st.booleans(), st.booleans())
def test_take_rows(seed, n, wanted, kind, normalize, weighted):
    rng = np.random.default_rng(seed)
    columns, begin, end = runs_of(rng, n, 30, 9)
    entry = pairs_of(begin, end)[1]
    indptr, columns, values = np.append(0, np.cumsum(end - begin)), columns[entry], numbers(rng, len(entry), kind)
    weights = rng.random(30).astype(np.float32) if weighted else np.zeros(0, np.float32)
    rows = rng.integers(0, n, wanted)
    room = int((end - begin)[rows].sum())
    out = np.zeros(wanted + 1, np.int64), np.zeros(room, np.int32), np.full(room, np.nan, np.float32)
    assert take_rows(indptr, columns, values, weights, rows, normalize, *out) == (room if len(values) else out[0][-1])
    for i, row in enumerate(rows):
        mine, here = slice(indptr[row], indptr[row + 1]), slice(out[0][i], out[0][i + 1])
        expected = values[mine].astype(np.float64) * (weights[columns[mine]] if weighted else 1.0)
        length = np.sqrt((expected**2).sum())
        if normalize and length > 0:
            expected = expected / length
        assert np.array_equal(out[1][here], columns[mine])
        np.testing.assert_allclose(out[2][here], expected, rtol=1e-6, atol=1e-44)


@fast
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 9),
    st.integers(1, 40),
    st.sampled_from([0.0, 1e-9, 0.5, 0.9999]),
    KINDS,
    THREADS,
)
def test_dropout(seed, iteration, samples, columns, p, kind, threads):
    """One draw for each (sample, column), whatever is dropped by it."""
    values = numbers(np.random.default_rng(seed % 1000), (samples, columns), kind)
    units, again = values.copy(), values.copy()
    drop_units(units, p, seed, iteration, threads)
    drop_units(again, p, seed, iteration, 1)
    assert np.array_equal(units, again)
    raised = values * np.float32(1 / (1 - p))
    assert ((units == raised) | (units == 0)).all()
    ptr = np.arange(samples + 1, dtype=np.int64) * columns
    ids = np.tile(np.arange(columns, dtype=np.int32), samples)
    pairs = values.ravel().copy()
    drop_pairs(pairs, ids, ptr[:-1], ptr[1:], p, seed, iteration, threads)
    assert np.array_equal(pairs, units.ravel())
    out = np.zeros(samples + 1, np.int64), np.zeros(len(ids), np.int32), np.zeros(len(ids), np.float32)
    kept = drop_entries(ptr, ids, values.ravel(), p, seed, iteration, *out)
    left = np.zeros_like(values)
    left[np.repeat(np.arange(samples), np.diff(out[0])), out[1][:kept]] = out[2][:kept]
    assert np.array_equal(left, units)


# --- Losses


@fast
@given(
    st.sampled_from([softmax_cross_entropy, logistic_cross_entropy]),
    st.lists(st.sampled_from(EDGES), min_size=1, max_size=40),
    st.integers(0, 40),
    st.data(),
)
def test_losses_of_extreme_logits(loss_of, logits, n_shared, data):
    """Any finite logits are safe: gradients are the twin's, and so is every loss that a float can hold."""
    n, n_shared = len(logits), min(n_shared, len(logits))
    labels = np.array(data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1, max_size=3)), np.int32)
    logits = np.array(logits, np.float32)
    shared, own = logits[None, :n_shared].copy(), logits[n_shared:].copy()
    loss, hit = np.zeros((2, 1), np.float32)
    runs = np.array([0]), np.array([n - n_shared]), np.array([0, len(labels)])
    loss_of(ActiveSets(shared, n_shared, own, *runs, labels, np.ones(len(labels), np.float32)), 1.0, loss, hit, 1)
    x, yes = logits.astype(np.float64), np.isin(np.arange(n), labels)
    if loss_of is softmax_cross_entropy:
        behind = x - x.max()
        expected, gradient = (logsumexp(behind) - behind[yes]).sum(), softmax(behind) * len(labels) - yes
    else:
        expected, gradient = np.logaddexp(0, np.where(yes, -x, x)).sum(), expit(x) - yes
    np.testing.assert_allclose(np.append(shared, own), gradient, rtol=2e-5, atol=1e-6)
    assert hit[0] == (x[yes].max() == x.max())
    if expected < LARGEST / 2:
        # What is left of a difference of large numbers is as exact as the larger.
        assert loss[0] == pytest.approx(expected, rel=1e-5, abs=1e-5 + 1e-6 * np.abs(x).max() * (expected > 0))


@fast
@given(SEEDS, st.integers(0, 9), st.integers(1, 30), THREADS)
def test_remove_offsets(seed, samples, n, threads):
    rng = np.random.default_rng(seed)
    places, begin, end = runs_of(rng, samples, n, 12)
    shared, offsets = rng.normal(size=(samples, n + 2)).astype(np.float32), rng.integers(-9, 9, n).astype(np.float32)
    expected = shared.copy()
    sample, entry = pairs_of(begin, end)
    np.subtract.at(expected, (sample, places[entry]), offsets[places[entry]])
    remove_offsets(shared, offsets, begin, end, places, threads)
    np.testing.assert_allclose(shared, expected, rtol=1e-5, atol=1e-5)


# --- Searches


@fast
@given(SEEDS, st.integers(1, 600), st.integers(1, 6), st.integers(1, 9), KINDS, THREADS)
def test_best_rows_of_any_numbers(seed, n_rows, samples, k, kind, threads):
    """Scores descend, equal ones by id, and are those of the rows named; as on one thread."""
    rng = np.random.default_rng(seed)
    table = table_of(rng, n_rows, 16, kind=kind)
    hidden = rng.choice(np.float32([0, 0, 1, -1]), (samples, 16))
    results = []
    for count in (threads, 1):
        ids, scores = np.zeros((samples, k), np.int32), np.zeros((samples, k), np.float32)
        exact_topk(table, hidden, *NOBODY, ids, scores, count)
        results.append((ids, scores))
    assert np.array_equal(*(ids for ids, _ in results))
    assert np.array_equal(*(scores for _, scores in results))
    found = min(k, n_rows)
    ids, scores = ids[:, :found], scores[:, :found]
    assert (results[0][0][:, found:] == -1).all()
    behind, before = scores[:, 1:], scores[:, :-1]
    assert ((behind < before) | ((behind == before) & (ids[:, 1:] > ids[:, :-1]))).all()
    terms = hidden[:, None, :].astype(np.float64) * table.weights[ids]
    expected, size = terms.sum(axis=2) + table.bias[ids], np.abs(terms).sum(axis=2) + np.abs(table.bias[ids])
    assert (np.abs(scores - expected) <= 1e-5 * size + 1e-43).all()


@fast
@given(SEEDS, st.integers(1, 100), st.integers(1, 12), st.integers(1, 20), st.sampled_from([*EDGES, np.inf, np.nan]))
def test_sketches_of_extreme_numbers(seed, n_rows, samples, dim, edge):
    """A number that is out of scale costs the others of its vector their digits, and nobody else anything."""
    rng = np.random.default_rng(seed)
    vectors, queries = rng.normal(size=(n_rows, dim)), rng.normal(size=(samples, dim))
    vectors, queries = vectors.astype(np.float32), queries.astype(np.float32)
    ids, scores = np.zeros((samples, n_rows), np.int32), np.zeros((samples, n_rows), np.float32)
    sketch_topk(Sketch(vectors, np.zeros(n_rows, np.float32)), queries, *NOBODY, ids, scores, 1)
    other_ids, other_scores = ids.copy(), scores.copy()
    odd = queries.copy()
    odd[0] = edge
    sketch_topk(Sketch(vectors, np.zeros(n_rows, np.float32)), odd, *NOBODY, other_ids, other_scores, 1)
    assert np.array_equal(ids[1:], other_ids[1:])
    assert np.array_equal(scores[1:], other_scores[1:])
    strange = vectors.copy()
    strange[0] = edge
    sketch = Sketch(strange, np.zeros(n_rows, np.float32))
    sketch_topk(sketch, queries, *NOBODY, other_ids, other_scores, 1)
    for s in range(samples):
        mine = dict(zip(ids[s], scores[s], strict=True))
        # A row whose score is not a number is nobody's.
        assert all(mine[row] == score for row, score in zip(other_ids[s], other_scores[s], strict=True) if row > 0)


@fast
@given(SEEDS, st.integers(1, 20), st.sampled_from([1e-45, 2e-43, TINY, 1e-30, 1e30]))
def test_sketches_of_small_and_large_vectors(seed, dim, scale):
    """What is too small for a float's exponent is still of its own sign, and never above what it was rounded from."""
    rng = np.random.default_rng(seed)
    queries = rng.choice(np.float32([1, -1]), (5, dim)) * np.float32(scale)
    ids, scores = np.zeros((5, 1), np.int32), np.zeros((5, 1), np.float32)
    sketch_topk(Sketch(np.ones((1, dim), np.float32), np.zeros(1, np.float32)), queries, *NOBODY, ids, scores, 1)
    expected = queries.astype(np.float64).sum(axis=1)
    assert (np.abs(scores[:, 0] - expected) <= 0.02 * np.abs(queries).sum(axis=1) + 1e-42 * dim).all()


# --- bfloat16


def test_every_bfloat16_is_its_own():
    bits = np.arange(2**16, dtype=np.uint16)
    there = widen(bits)
    back = narrow(there)
    number = ~np.isnan(there)
    assert np.array_equal(back[number], bits[number])
    assert np.isnan(widen(back[~number])).all()


def test_ties_go_to_the_even_bfloat16():
    """Also where kernels round: among so many weights are some just between two bfloat16 numbers."""
    wide, rounded = (RowTable(1000, 512, moments=0, precision=precision) for precision in ("fp32", "bf16"))
    for table in (wide, rounded):
        table.fill_uniform(1.0, 3, 1)
    bits = wide.weights.view(np.uint32)
    assert np.count_nonzero(bits & 0x1FFFF == 0x18000) > 0 < np.count_nonzero(bits & 0x1FFFF == 0x08000)
    assert np.array_equal(rounded.weights.bits, narrow(wide.weights))


@fast
@given(SEEDS, st.integers(1, 40), st.integers(1, 40))
def test_bfloat16_is_the_nearest(seed, rows, columns):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**32, (rows, columns), dtype=np.uint32).view(np.float32)
    values[0, 0], values[-1, -1] = LARGEST, -1e-45
    view = BFloat16View(np.zeros((rows, columns), np.uint16))
    view[:] = values
    stored = np.asarray(view)
    assert np.array_equal(np.isnan(stored), np.isnan(values))
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(values) & np.isfinite(stored)
        gap = np.abs(stored.astype(np.float64) - values)[finite]
        assert (gap <= 2.0**-8 * np.abs(values[finite]).astype(np.float64) + 2.0**-134).all()
    assert np.array_equal(np.signbit(stored), np.signbit(values))
