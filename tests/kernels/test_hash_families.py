"""Every hash family: codes against twins in NumPy, collision rates against the formula, sparse rows as dense ones."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_array

from slide.config import LSHConfig
from slide.kernels import hashing, parallel
from slide.lsh.families import make_hasher

FAMILIES = {
    "hadamard": {"family": "simhash", "projection": "hadamard"},
    "sparse": {"family": "simhash", "projection": "sparse"},
    "wta": {"family": "wta"},
    "dwta": {"family": "dwta"},
    "minhash": {"family": "minhash"},
}
# A natural number of codes for each, so that two of five are mixed down and three fit.
NATURAL_K = {"hadamard": 14, "sparse": 14, "wta": 5, "dwta": 5, "minhash": 4}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def make(family, dim=40, n=1000, seed=0, **fields):
    fields.setdefault("bucket_bits", math.ceil(math.log2(n)))
    return make_hasher(LSHConfig(**(FAMILIES[family] | fields)), dim, n, np.random.default_rng(seed))


def hash_dense(hasher, x, threads=1):
    out = np.full((hasher.l, len(x)), 2**32 - 1, np.uint32)
    hasher.hash(np.asarray(x, np.float32), out, threads)
    return out


def csr(x):
    x = csr_array(np.asarray(x, np.float32))
    return x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data


def hash_sparse(hasher, x, threads=1):
    out = np.full((hasher.l, len(x)), 2**32 - 1, np.uint32)
    hasher.hash_sparse(*csr(x), out, threads)
    return out


def sparse_vectors(rng, n, dim, density=0.3):
    """Whole numbers, so that sums are exact, many of them equal and most of them zero; the first vector all zero."""
    x = rng.integers(-4, 5, (n, dim)) * (rng.random((n, dim)) < density)
    x[0] = 0
    return x.astype(np.float32)


# --- Twins

MASK64 = (1 << 64) - 1


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def key(seed, a, b):
    return mix(mix(mix(seed) ^ (a & MASK64)) ^ b)


def densify(codes, seed):
    """Fill the bins that hold -1 from others of their column, as optimal densification does; [bins, n]."""
    bins = len(codes)
    filled = np.zeros_like(codes)
    for vector in range(codes.shape[1]):
        column = codes[:, vector]
        if (column < 0).all():
            continue
        for b in range(bins):
            attempts = (((key(seed, b, attempt) >> 32) * bins) >> 32 for attempt in range(1, 129))
            following = ((b + step) % bins for step in range(bins))
            tried = itertools.chain([b], attempts, following)
            filled[b, vector] = next(column[other] for other in tried if column[other] >= 0)
    return filled


def combine(codes, k, radix, bucket_bits):
    """Mix the codes [k * l, n] of each table into a bucket index; [l, n]."""
    total, multiplier = radix**k, 0x9E3779B1
    bits = total.bit_length() - 1
    number = np.zeros((len(codes) // k, codes.shape[1]), object)
    for position in range(k):
        number = number * radix + codes[position::k].astype(object)
    if total == 1 << bits:
        if bits > bucket_bits:
            number = number * multiplier % total
            number ^= number >> (bits + 1) // 2
            number = (number * multiplier % total) >> (bits - bucket_bits)
    else:
        number = (number * multiplier % total << min(bits, bucket_bits)) // total
    return number.astype(np.uint32)


def winners(x, index, radix, zeros_missing):
    """The place of each bin's largest coordinate, the lowest of equal ones; -1 where all are missing; [bins, n]."""
    order = np.argsort(index, axis=1)
    ascending = np.take_along_axis(index, order, axis=1)
    values = x[:, ascending]
    if zeros_missing:
        values = np.where(values == 0, -np.inf, values)
    best = np.take_along_axis(order[None], values.argmax(axis=2)[:, :, None], axis=2)[:, :, 0] % radix
    return np.where(np.isneginf(values).all(axis=2), -1, best).T


def first_members(x, index, top, width, seed):
    """The label of each bin's first coordinate among the vector's largest; -1 where there is none; [bins, n]."""
    codes = np.full((len(index), len(x)), -1)
    for vector, row in enumerate(x):
        members = sorted(np.flatnonzero(row), key=lambda c: (-row[c], c))[:top]
        for b, coordinates in enumerate(index):
            places = [i for i, c in enumerate(coordinates) if c in members]
            if places:
                codes[b, vector] = key(seed, ~b, places[0]) & ((1 << width) - 1)
    return codes


def random_bins(rng, bins, dim, size):
    return np.array([rng.permutation(dim)[:size] for _ in range(bins)], np.int32)


BINS = [
    (1, 7, 1, 1, 30),
    (1, 40, 3, 2, 30),
    (3, 9, 8, 3, 9),
    (3, 9, 8, 2, 5),
    (4, 5, 12, 4, 9),
    (5, 6, 8, 3, 12),
]


@pytest.mark.parametrize(("k", "l", "bin_size", "width", "bucket_bits"), BINS)
@pytest.mark.parametrize("dim", [12, 33, 128])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 35])
def test_wta_and_dwta_twins(rng, n, dim, k, l, bin_size, width, bucket_bits):  # noqa: E741
    x = sparse_vectors(rng, n, dim)
    index = random_bins(rng, k * l, dim, bin_size)
    radix = min(bin_size, 1 << width)
    plain = hashing.WTA(dim, k, l, index, width, bucket_bits)
    expected = combine(winners(x, index, radix, False), k, radix, bucket_bits)
    np.testing.assert_array_equal(hash_dense(plain, x), expected)
    densified = hashing.DWTA(dim, k, l, index, width, 77, bucket_bits)
    expected = combine(densify(winners(x, index, radix, True), 77), k, radix, bucket_bits)
    np.testing.assert_array_equal(hash_dense(densified, x), expected)


@pytest.mark.parametrize(
    ("k", "l", "bin_size", "width", "bucket_bits"), [(1, 20, 1, 1, 9), (2, 9, 8, 5, 6), (4, 5, 8, 8, 20)]
)
@pytest.mark.parametrize("top", [1, 5, 16, 200])
@pytest.mark.parametrize("dim", [8, 33, 128])
def test_minhash_twin(rng, dim, top, k, l, bin_size, width, bucket_bits):  # noqa: E741
    x = sparse_vectors(rng, 19, dim)
    x[3:6] = rng.normal(size=(3, dim))
    x[6] = -1
    index = random_bins(rng, k * l, dim, bin_size)
    hasher = hashing.MinHash(dim, k, l, index, top, width, 5, bucket_bits)
    expected = combine(densify(first_members(x, index, top, width, 5), 5), k, 1 << width, bucket_bits)
    np.testing.assert_array_equal(hash_dense(hasher, x), expected)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30])
def test_minhash_ranks_floats_of_every_size(rng, scale):
    x = np.concatenate([rng.normal(size=(20, 64)), np.exp(rng.normal(size=(20, 64)) * 5)]).astype(np.float32)
    x = x * np.float32(scale)
    index = random_bins(rng, 30, 64, 8)
    hasher = hashing.MinHash(64, 1, 30, index, 10, 8, 5, 8)
    expected = densify(first_members(x, index, 10, 8, 5), 5)
    np.testing.assert_array_equal(hash_dense(hasher, x), expected)


def test_combiner_twin(rng):
    for k, radix, bucket_bits in [
        (1, 2, 1),
        (3, 10, 30),
        (3, 10, 7),
        (32, 2, 30),
        (5, 16, 13),
        (1, 1 << 31, 30),
    ]:
        codes = rng.integers(0, min(radix, 2**31), (37, k * 3)).astype(np.int32)
        out = np.zeros((3, 37), np.uint32)
        hashing.CodeCombiner(k, 3, radix, bucket_bits).combine(codes, out)
        np.testing.assert_array_equal(out, combine(codes.T, k, radix, bucket_bits))


@pytest.mark.parametrize(("k", "radix"), [(1, 5), (4, 5), (4, 6), (4, 8), (5, 8), (15, 2), (3, 25), (2, 100), (3, 1)])
@pytest.mark.parametrize("bucket_bits", [1, 3, 8, 11, 30])
def test_all_combinations_of_codes_fill_all_buckets_evenly(k, radix, bucket_bits):
    codes = np.array(list(itertools.product(range(radix), repeat=k)), np.int32)
    combiner = hashing.CodeCombiner(k, 1, radix, bucket_bits)
    assert combiner.bucket_bits == min(bucket_bits, int(math.log2(radix**k)))
    out = np.zeros((1, len(codes)), np.uint32)
    combiner.combine(codes, out)
    counts = np.bincount(out[0], minlength=1 << combiner.bucket_bits)
    assert len(counts) == 1 << combiner.bucket_bits
    assert counts.min() == len(codes) // len(counts)
    assert counts.max() == -(-len(codes) // len(counts))


# --- Sparse rows, single rows, threads, instruction sets


@pytest.mark.parametrize("dim", [8, 40, 64, 65, 300])
@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_sparse_rows_hash_like_dense_ones(rng, family, dim, density):
    hasher = make(family, dim, k=3, l=20)
    x = sparse_vectors(rng, 70, dim, density)
    np.testing.assert_array_equal(hash_sparse(hasher, x), hash_dense(hasher, x))


def test_sparse_projections_differ_by_rounding_alone(rng):
    hasher = make("sparse", 128, k=1, l=1000)
    x = rng.normal(size=(60, 128))
    assert (hash_sparse(hasher, x) != hash_dense(hasher, x)).sum() <= 3


def test_sparse_rows_of_a_large_dimension(rng, family):
    """The other families do not touch the coordinates that no row has."""
    dim = 1 << 14 if family == "hadamard" else 135_909
    hasher = make(family, dim, k=2, l=3, **({"bin_size": 256} if family.endswith("ta") else {}))
    x = csr_array((40, dim), dtype=np.float32)
    columns = rng.integers(0, dim, 40 * 70).astype(np.int32)
    values = rng.integers(1, 9, len(columns)).astype(np.float32)
    indptr = np.arange(41) * 70
    x = csr_array((values, columns, indptr), shape=(40, dim))
    out = np.zeros((3, 40), np.uint32)
    hasher.hash_sparse(indptr, columns, values, out, 2)
    np.testing.assert_array_equal(out, hash_dense(hasher, x.toarray()))


def test_repeated_columns_add_up_and_order_is_free(rng, family):
    hasher = make(family, 40, k=2, l=30)
    columns = rng.integers(0, 40, 200).astype(np.int32)
    values = rng.integers(-3, 4, 200).astype(np.float32)
    indptr = np.sort(np.concatenate([[7, 180], rng.integers(7, 180, 20)]))
    x = np.zeros((21, 40), np.float32)
    for row in range(21):
        np.add.at(x[row], columns[indptr[row] : indptr[row + 1]], values[indptr[row] : indptr[row + 1]])
    out = np.zeros((30, 21), np.uint32)
    hasher.hash_sparse(indptr, columns, values, out, 1)
    np.testing.assert_array_equal(out, hash_dense(hasher, x))


@pytest.mark.parametrize("hashed", [hash_dense, hash_sparse])
def test_neither_threads_nor_neighbours_matter(rng, family, hashed):
    hasher = make(family, 40, k=3, l=12)
    x = sparse_vectors(rng, 301, 40)
    together = hashed(hasher, x)
    np.testing.assert_array_equal(hashed(hasher, x, 2), together)
    for row in (0, 15, 16, 300):
        np.testing.assert_array_equal(hashed(hasher, x[row : row + 1]), together[:, row : row + 1])
    assert together.max() < 1 << hasher.bucket_bits


def test_no_sparse_rows(family):
    hasher = make(family)
    empty = np.zeros(0, np.int32), np.zeros(0, np.float32)
    hasher.hash_sparse(np.zeros(1, np.int64), *empty, np.zeros((hasher.l, 0), np.uint32), 2)
    out = np.full((hasher.l, 3), 2**32 - 1, np.uint32)
    hasher.hash_sparse(np.zeros(3, np.int64), *empty, out, 2)
    np.testing.assert_array_equal(out[:, :2], hash_dense(hasher, np.zeros((2, hasher.dim))))
    assert (out[:, 2] == 2**32 - 1).all()


def test_zero_vector_has_code_zero():
    for family in ("dwta", "minhash"):
        assert not hash_dense(make(family, k=3, l=12), np.zeros((3, 40))).any()


DIGESTS = """
import sys, zlib
import numpy as np
sys.path.insert(0, sys.argv[1])
import test_hash_families as t
rng = np.random.default_rng(1)
x = t.sparse_vectors(rng, 83, 50)
x[40:60] = rng.normal(size=(20, 50))
for family in t.FAMILIES:
    hasher = t.make(family, 50, k=3, l=20, bucket_bits=5)
    for hashed in (t.hash_dense, t.hash_sparse):
        print(family, zlib.crc32(hashed(hasher, x).tobytes()))
"""


def test_every_instruction_set_gives_the_same_codes(tmp_path):
    printed = {}
    for level in ("baseline", "avx2", "avx512"):
        printed[level] = subprocess.run(
            [sys.executable, "-c", DIGESTS, os.path.dirname(__file__)],
            env=os.environ | {"SLIDE_ISA": level, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=tmp_path,  # `python -c` looks for modules in the current folder first
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert printed["baseline"] == printed["avx2"] == printed["avx512"]
    assert len(printed["baseline"].splitlines()) == 2 * len(FAMILIES)
    assert parallel.isa() in printed


# --- The door


def test_sparse_arrays_are_checked(family):
    hasher = make(family, 40, k=2, l=3)
    indptr, columns, values = np.array([0, 1, 3]), np.array([1, 5, 39], np.int32), np.ones(3, np.float32)
    out = np.zeros((3, 2), np.uint32)
    for changes, message in [
        ({0: np.zeros(0, np.int64)}, "at least one entry"),
        ({0: np.array([0, 2, 1])}, r"indptr must rise within 0\.\.3"),
        ({0: np.array([-1, 2, 3])}, r"indptr must rise within 0\.\.3"),
        ({0: np.array([0, 2, 4])}, r"indptr must rise within 0\.\.3"),
        ({1: np.array([1, 5, 40], np.int32)}, r"coordinates must lie in 0\.\.39, got 1\.\.40"),
        ({1: np.array([-1, 5, 9], np.int32)}, r"coordinates must lie in 0\.\.39, got -1\.\.9"),
        ({2: np.ones(2, np.float32)}, "same length, got 3 and 2"),
        ({3: out[:2]}, r"out must be \[3, 2 or more\], got \[2, 2\]"),
        ({3: out[:, :1].copy()}, r"out must be \[3, 2 or more\], got \[3, 1\]"),
    ]:
        arguments = [changes.get(i, value) for i, value in enumerate([indptr, columns, values, out])]
        with pytest.raises(ValueError, match=message):
            hasher.hash_sparse(*arguments, 1)
    # Columns that no row uses are not looked at.
    hasher.hash_sparse(np.array([1, 2]), np.array([99, 5, -1], np.int32), values, out, 1)


INDEX = np.zeros((2, 6), np.int32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: hashing.WTA(9, 1, 2, INDEX, 0, 9), "the code width must be from 1 to 30, got 0"),
        (lambda: hashing.WTA(9, 1, 2, INDEX, 2, 9), r"2\*\*width must divide the bin size, 6"),
        (lambda: hashing.WTA(9, 1, 3, INDEX, 3, 9), r"index must be \[3, bin size\], got \[2, 6\]"),
        (lambda: hashing.WTA(0, 1, 2, INDEX, 3, 9), "dim must be positive, got 0"),
        (lambda: hashing.WTA(9, 1, 2, INDEX + 9, 3, 9), r"coordinates must lie in 0\.\.8, got 9\.\.9"),
        (lambda: hashing.MinHash(9, 1, 2, INDEX, 0, 3, 0, 9), "top must be positive, got 0"),
        (lambda: hashing.MinHash(9, 1, 2, INDEX, 3, 33, 0, 9), "the code width must be from 1 to 30, got 33"),
        (lambda: hashing.MinHash(9, 5, 2, INDEX, 3, 8, 0, 9), "k codes of 256 values must fit 32 bits"),
        (lambda: hashing.MinHash(9, 1, 2, INDEX - 1, 3, 3, 0, 9), r"coordinates must lie in 0\.\.8"),
        (lambda: hashing.CodeCombiner(0, 1, 2, 9), "must be positive, got 0, 1 and 2"),
        (lambda: hashing.CodeCombiner(1, 1, 0, 9), "must be positive, got 1, 1 and 0"),
        (lambda: hashing.CodeCombiner(33, 1, 2, 9), "k codes of 2 values must fit 32 bits, got k = 33"),
        (lambda: hashing.CodeCombiner(1, 1, 2**31 + 1, 9), "at most 2\\*\\*31 values"),
        (lambda: hashing.CodeCombiner(2, 1, 2, 31), "bucket_bits must be between 1 and 30, got 31"),
    ],
)
def test_sizes_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_combiner_checks_its_arrays():
    combiner = hashing.CodeCombiner(2, 3, 5, 9)
    codes, out = np.zeros((4, 6), np.int32), np.zeros((3, 4), np.uint32)
    for bad in ((codes[:, :5].copy(), out), (codes, out[:2]), (codes, out[:, :3].copy()), (codes + 5, out)):
        with pytest.raises(ValueError, match="must"):
            combiner.combine(*bad)


# --- Statistics

FUNCTIONS = 10_000
HASHERS = 10


def pairs_of(kind, rng, count, dim):
    """Pairs [count, 2, dim] from opposite or unrelated to nearly equal."""
    x, y = rng.normal(size=(2, count, dim))
    cosine = np.linspace(-0.9, 0.99, count)[:, None]
    y = cosine * x + np.sqrt(1 - cosine**2) * y
    pairs = np.stack([x, y], axis=1)
    if kind == "relu":
        pairs = np.maximum(pairs, 0)
    elif kind == "few":
        # Non-negative and mostly zero, in part at the same coordinates.
        pairs = np.abs(pairs) * (rng.random((count, 1, dim)) < 0.3) * (rng.random((count, 2, dim)) < 0.7)
    return pairs.astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "relu", "few"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("hadamard", {}),
        ("sparse", {}),
        ("wta", {}),
        ("wta", {"code_bits": 2}),
        ("wta", {"bin_size": 4}),
        ("dwta", {}),
        ("dwta", {"code_bits": 2}),
        ("dwta", {"bin_size": 4}),
        ("minhash", {}),
        ("minhash", {"code_bits": 2, "top": 10}),
    ],
)
def test_collision_rate_is_the_formula(rng, kind, name, fields):
    pairs = pairs_of(kind, rng, 24, 128)
    agreed = np.zeros(len(pairs))
    for seed in range(HASHERS):
        hasher = make(name, 128, seed=seed, k=1, l=FUNCTIONS // HASHERS, **fields)
        buckets = hash_dense(hasher, pairs.reshape(-1, 128))
        agreed += (buckets[:, 0::2] == buckets[:, 1::2]).sum(axis=0)
    p = hasher.collision_probability(pairs[:, 0], pairs[:, 1])
    assert np.ptp(p) > 0.1
    z = (agreed - FUNCTIONS * p) / np.sqrt(FUNCTIONS * p * (1 - p))
    assert np.abs(z).max() <= 3
    assert stats.chi2.sf((z**2).sum(), len(z)) > 0.01


@pytest.mark.parametrize("kind", ["normal", "relu"])
def test_bits_of_the_bucket_index_are_balanced(rng, family, kind):
    """Over the draw of the functions, each bit is as often one as zero."""
    ones, count = 0, 0
    for seed in range(20):
        hasher = make(family, 128, n=1 << 13, seed=seed, k=NATURAL_K[family], l=1000)
        buckets = hash_dense(hasher, pairs_of(kind, rng, 1, 128)[0, :1])[:, 0]
        ones = ones + ((buckets[:, None] >> np.arange(hasher.bucket_bits)) & 1).sum(axis=0)
        count += len(buckets)
    assert hasher.bucket_bits == 13
    z = (ones - count / 2) / math.sqrt(count / 4)
    assert stats.chi2.sf((z**2).sum(), len(z)) > 0.001


@pytest.mark.parametrize("kind", ["normal", "relu"])
def test_every_bucket_is_reached(rng, family, kind):
    hasher = make(family, 64, k=NATURAL_K[family], l=20, bucket_bits=6)
    buckets = hash_dense(hasher, pairs_of(kind, rng, 3000, 64).reshape(-1, 64))
    assert all(len(np.unique(table)) == 64 for table in buckets)
