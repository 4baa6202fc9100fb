"""Hash families: codes against naive twins, and collision rates against the families' formulas."""

import math

import numpy as np
import pytest

from slide.config import LSHConfig
from slide.kernels.hashing import DWTA, CodeCombiner, HadamardSimHash, SparseSimHash
from slide.kernels.rows import RowTable
from slide.lsh.families import make_dwta, make_simhash

FAMILIES = {
    "hadamard": lambda dim, n=1000, seed=0, **fields: make_simhash(
        LSHConfig(projection="hadamard", **fields), dim, n, np.random.default_rng(seed)
    ),
    "sparse": lambda dim, n=1000, seed=0, **fields: make_simhash(
        LSHConfig(projection="sparse", **fields), dim, n, np.random.default_rng(seed)
    ),
    "dwta": lambda dim, n=1000, seed=0, **fields: make_dwta(
        LSHConfig(family="dwta", **{"bin_size": min(8, dim)} | fields), dim, n, np.random.default_rng(seed)
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def codes_of(hasher, x, threads=1):
    out = np.zeros((hasher.l, len(x)), np.uint32)
    hasher.hash(np.asarray(x, np.float32), out, threads)
    return out


# --- Twins


def buckets(codes, k, radix, bucket_bits):
    """Mix k codes of [k * l, n] into a bucket index; `test_hash_families` has the twin of the mixing itself."""
    out = np.zeros((len(codes) // k, codes.shape[1]), np.uint32)
    codes = np.ascontiguousarray(codes.T % radix, np.int32)
    CodeCombiner(k, len(out), radix, bucket_bits).combine(codes, out)
    return out


def hadamard_twin(x, signs):
    p = signs.shape[2]
    h = np.ones((1, 1))
    while len(h) < p:
        h = np.block([[h, h], [h, -h]])
    padded = np.zeros((p, len(x)))
    padded[: x.shape[1]] = x.T
    projections = []
    for rotation in signs:
        y = padded
        for diagonal in rotation:
            y = h @ (diagonal[:, None] * y)
        projections.append(y)
    return (np.concatenate(projections) > 0).astype(int)


def wta_twin(x, index):
    """The place of each bin's largest coordinate, the lowest of equals, zeros missing; -1 if empty."""
    order = np.argsort(index, axis=1)
    values = np.where(x == 0, -np.inf, x)[:, np.take_along_axis(index, order, axis=1)]
    places = np.take_along_axis(order[None], values.argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    return np.where(np.isneginf(values).all(axis=2), -1, places).T


@pytest.mark.parametrize(
    ("k", "l", "bucket_bits"), [(1, 1, 30), (1, 33, 1), (4, 7, 10), (9, 6, 5), (32, 3, 20)]
)
@pytest.mark.parametrize("n", [1, 15, 16, 17, 70])
def test_hadamard_twin(rng, n, k, l, bucket_bits):  # noqa: E741
    for dim in (1, 3, 16, 100):
        # Whole numbers: the transforms are exact, and so are the signs.
        x = rng.integers(-3, 4, (n, dim)).astype(np.float32)
        p = 1 << (dim - 1).bit_length()
        signs = rng.choice(np.array([-1, 1], np.float32), (-(-k * l // p), 3, p))
        hasher = HadamardSimHash(dim, k, l, signs, bucket_bits)
        expected = buckets(hadamard_twin(x, signs)[: k * l], k, 2, bucket_bits)
        np.testing.assert_array_equal(codes_of(hasher, x), expected)


@pytest.mark.parametrize(
    ("k", "l", "bucket_bits"), [(1, 1, 30), (1, 33, 1), (4, 7, 10), (9, 6, 5), (32, 3, 20)]
)
def test_sparse_signs_twin(rng, dim, k, l, bucket_bits):  # noqa: E741
    x = rng.integers(-3, 4, (35, dim)).astype(np.float32)
    matrix = rng.integers(-1, 2, (k * l, dim))
    index = [np.flatnonzero(row == sign) for row in matrix for sign in (1, -1)]
    ptr = np.cumsum([0, *map(len, index)])
    hasher = SparseSimHash(dim, k, l, np.concatenate(index).astype(np.int32), ptr, bucket_bits)
    expected = buckets((matrix @ x.T > 0).astype(int), k, 2, bucket_bits)
    np.testing.assert_array_equal(codes_of(hasher, x), expected)


@pytest.mark.parametrize(
    ("k", "l", "bin_size", "width", "bucket_bits"),
    [
        (1, 1, 1, 1, 30),
        (1, 40, 3, 2, 30),
        (3, 9, 8, 3, 9),
        (3, 9, 8, 2, 9),
        (4, 5, 16, 8, 12),
        (2, 7, 20, 5, 4),
    ],
)
def test_dwta_twin(rng, k, l, bin_size, width, bucket_bits):  # noqa: E741
    for dim in (bin_size, 33, 128):
        if dim < bin_size:
            continue
        # Few values, so that many are equal, of both signs but never zero.
        x = rng.choice([-2, -1, 1, 2], (35, dim)).astype(np.float32)
        index = np.array([rng.permutation(dim)[:bin_size] for _ in range(k * l)], np.int32)
        hasher = DWTA(dim, k, l, index, width, 5, bucket_bits)
        expected = buckets(wta_twin(x, index), k, min(bin_size, 1 << width), bucket_bits)
        np.testing.assert_array_equal(codes_of(hasher, x), expected)


def test_dwta_twin_of_empty_bins(rng):
    """A bin without non-zero coordinates takes the code of another; the rest are as the twin says."""
    index = np.array([rng.permutation(64)[:4] for _ in range(50)], np.int32)
    x = rng.normal(size=(40, 64)) * (rng.random((40, 64)) < 0.15)
    x[0] = 0
    codes = codes_of(DWTA(64, 1, 50, index, 2, 5, 30), x).astype(int)
    expected = wta_twin(x, index)
    empty = expected < 0
    assert empty.any(axis=0)[1:].all()
    np.testing.assert_array_equal(codes[~empty], expected[~empty])
    assert not codes[:, 0].any()
    for vector in range(1, 40):
        mine = empty[:, vector]
        assert set(codes[mine, vector]) <= set(codes[~mine, vector])


# --- What holds for every family


def test_codes_do_not_depend_on_threads_or_neighbours(rng, family):
    hasher = family(40, k=4, l=12)
    x = rng.normal(size=(300, 40)) * (rng.random((300, 40)) < 0.3)
    codes = codes_of(hasher, x)
    assert np.array_equal(codes_of(hasher, x, threads=2), codes)
    assert np.array_equal(codes_of(hasher, x[7:8]), codes[:, 7:8])
    assert codes.max() < 1 << hasher.bucket_bits


def test_rows_of_a_parameter_table_are_read_in_place(rng, family):
    table = RowTable(50, 40)
    table.weights[:] = rng.normal(size=(50, 40))
    hasher = family(40, k=4, l=12)
    assert not table.weights.flags.c_contiguous
    out = np.zeros((12, 50), np.uint32)
    hasher.hash(table.weights, out, 2)
    assert np.array_equal(out, codes_of(hasher, np.ascontiguousarray(table.weights)))


def test_columns_past_the_dimension_do_not_count(rng, family):
    hasher = family(40, k=4, l=12)
    x = rng.normal(size=(20, 48))
    assert np.array_equal(codes_of(hasher, x), codes_of(hasher, np.ascontiguousarray(x[:, :40])))


@pytest.mark.parametrize("count", [0, 1, 16, 33])
def test_only_the_rows_asked_for_are_hashed(rng, family, count):
    hasher = family(40, k=4, l=12)
    x = rng.normal(size=(90, 40)).astype(np.float32)
    rows = rng.permutation(90)[:count].astype(np.int32)
    out = np.full((12, 95), 2**32 - 1, np.uint32)
    hasher.hash(x, out, 2, rows)
    others = np.setdiff1d(np.arange(95), rows)
    assert np.array_equal(out[:, rows], codes_of(hasher, x)[:, rows])
    assert (out[:, others] == 2**32 - 1).all()


def test_no_vectors(family):
    hasher = family(40)
    hasher.hash(np.zeros((0, 40), np.float32), np.zeros((hasher.l, 0), np.uint32), 2)


def test_scale_does_not_matter(rng, family):
    hasher = family(40, k=4, l=12)
    x = rng.normal(size=(50, 40)).astype(np.float32)
    assert np.array_equal(codes_of(hasher, 8 * x), codes_of(hasher, x))


def test_arrays_are_checked(family):
    hasher = family(40, k=4, l=12)
    x, out = np.zeros((10, 40), np.float32), np.zeros((12, 10), np.uint32)
    for bad, message in [
        (x[:, :39], "at least 40 columns, got 39"),
        (np.zeros((10, 80), np.float32)[:, ::2], "stride"),
    ]:
        with pytest.raises(ValueError, match=message):
            hasher.hash(bad, out, 1)
    for bad in (out[:11], np.zeros((12, 9), np.uint32)):
        with pytest.raises(ValueError, match=r"out must be \[12, 10 or more\], got"):
            hasher.hash(x, bad, 1)
    for row in (-1, 10):
        with pytest.raises(ValueError, match=r"rows must lie in 0\.\.9"):
            hasher.hash(x, out, 1, np.array([3, row], np.int32))


def test_wide_codes_are_mixed_into_all_buckets(rng):
    for hasher in (
        FAMILIES["hadamard"](64, k=20, l=3, bucket_bits=7),
        FAMILIES["sparse"](64, k=20, l=3, bucket_bits=7),
        FAMILIES["dwta"](64, k=8, l=3, bucket_bits=7),
    ):
        assert hasher.bucket_bits == 7
        for codes in codes_of(hasher, rng.normal(size=(20_000, 64))):
            counts = np.bincount(codes, minlength=128)
            assert len(counts) == 128
            # Around 156 each; similar codes are not random ones, so this is looser than chance.
            assert counts.min() > 50
            assert counts.max() < 470


def test_bucket_index_is_no_wider_than_the_codes(family):
    assert family(40, k=2, l=3, bucket_bits=30).bucket_bits < 30


SIGNS = np.ones((1, 3, 16), np.float32)
INDEX = np.zeros((2, 4), np.int32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HadamardSimHash(0, 2, 3, SIGNS, 9), "dim must be positive, got 0"),
        (
            lambda: HadamardSimHash(16, 0, 3, SIGNS, 9),
            "k, l and the values of a code must be positive, got 0, 3 and 2",
        ),
        (lambda: HadamardSimHash(16, 2, 0, SIGNS, 9), "must be positive"),
        (lambda: HadamardSimHash(16, 33, 1, SIGNS, 9), "k codes of 2 values must fit 32 bits, got k = 33"),
        (lambda: HadamardSimHash(16, 2, 3, SIGNS, 0), "bucket_bits must be between 1 and 30, got 0"),
        (lambda: HadamardSimHash(16, 2, 3, SIGNS, 31), "bucket_bits must be between 1 and 30, got 31"),
        (
            lambda: HadamardSimHash(17, 2, 3, SIGNS, 9),
            r"signs must be \[1 or more, 3, 32\], got \[1, 3, 16\]",
        ),
        (lambda: HadamardSimHash(16, 2, 9, SIGNS, 9), r"signs must be \[2 or more, 3, 16\]"),
        (lambda: HadamardSimHash(16, 2, 3, SIGNS[:, :2].copy(), 9), r"got \[1, 2, 16\]"),
        (lambda: DWTA(9, 1, 2, INDEX, 0, 0, 9), "the code width must be from 1 to 30, got 0"),
        (
            lambda: DWTA(9, 17, 2, np.zeros((34, 4), np.int32), 2, 0, 9),
            "k codes of 4 values must fit 32 bits, got k = 17",
        ),
        (lambda: DWTA(9, 1, 3, INDEX, 2, 0, 9), r"index must be \[3, bin size\], got \[2, 4\]"),
        (lambda: DWTA(9, 1, 2, INDEX[:, :0].copy(), 2, 0, 9), r"index must be \[2, bin size\], got \[2, 0\]"),
        (lambda: DWTA(9, 1, 2, INDEX + 9, 2, 0, 9), r"coordinates must lie in 0\.\.8, got 9\.\.9"),
        (lambda: DWTA(9, 1, 2, INDEX - 1, 2, 0, 9), r"coordinates must lie in 0\.\.8, got -1\.\.-1"),
    ],
)
def test_shapes_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("index", "ptr", "message"),
    [
        ([0, 1], [0, 1], "ptr must rise from 0 to 2 in 3 steps"),
        ([0, 1], [1, 1, 2], "ptr must rise from 0 to 2 in 3 steps"),
        ([0, 1], [0, 1, 3], "ptr must rise from 0 to 2 in 3 steps"),
        ([0, 1], [0, 3, 2], "ptr must rise from 0 to 2 in 3 steps"),
        ([0, 9], [0, 1, 2], r"coordinates must lie in 0\.\.8, got 0\.\.9"),
        ([-1, 1], [0, 1, 2], r"coordinates must lie in 0\.\.8, got -1\.\.1"),
    ],
)
def test_sparse_projections_are_checked(index, ptr, message):
    with pytest.raises(ValueError, match=message):
        SparseSimHash(9, 1, 1, np.array(index, np.int32), np.array(ptr), 9)


# --- Statistics

SEEDS = 40
FUNCTIONS = 1000


def collision_rates(family, pairs, **fields):
    """Rates at which the pairs [p, 2, dim] agree in one code, for each of several hashers."""
    x = pairs.reshape(-1, pairs.shape[2])
    rates = []
    for seed in range(SEEDS):
        codes = codes_of(
            FAMILIES[family](pairs.shape[2], seed=seed, k=1, l=FUNCTIONS, **fields), x, threads=2
        )
        rates.append((codes[:, 0::2] == codes[:, 1::2]).mean(axis=0))
    return np.array(rates)


def assert_rates(rates, expected):
    """Means within four standard errors, as estimated from the hashers, which are independent."""
    error = rates.std(axis=0, ddof=1) / math.sqrt(len(rates))
    assert (np.abs(rates.mean(axis=0) - expected) <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("family", ["hadamard", "sparse"])
def test_simhash_collision_rate_is_the_angle(rng, family):
    angles = np.linspace(0.05, 0.95, 12) * math.pi
    pairs = np.zeros((12, 2, 128))
    for pair, angle in zip(pairs, angles, strict=True):
        pair[0], other = np.linalg.qr(rng.normal(size=(128, 2)))[0].T
        pair[1] = math.cos(angle) * pair[0] + math.sin(angle) * other
    assert_rates(collision_rates(family, pairs), 1 - angles / math.pi)


@pytest.mark.parametrize("family", ["hadamard", "sparse"])
def test_simhash_of_a_vector_and_its_opposite(rng, family):
    x = rng.normal(size=(1, 100))
    assert collision_rates(family, np.stack([x, x], axis=1)).min() == 1
    assert collision_rates(family, np.stack([x, -x], axis=1)).max() == 0


def agreement(x, y, m):
    """Probability that the largest of m random coordinates is the same and, in both, not zero."""
    both = np.flatnonzero((x != 0) & (y != 0))
    return sum(math.comb(int(((x < x[i]) & (y < y[i])).sum()), m - 1) for i in both) / math.comb(len(x), m)


def similar_pairs(rng, dim, density):
    """Twelve pairs of positive vectors from unrelated to nearly equal, with zeros where the density says."""
    pairs = np.zeros((12, 2, dim))
    for pair, mix in zip(pairs, np.linspace(0, 0.95, 12), strict=True):
        common, other = rng.random((2, dim)) + 0.01
        pattern = rng.random(dim) < density
        moved = rng.random(dim) < 1 - mix
        pair[0] = common * pattern
        pair[1] = (mix * common + (1 - mix) * other) * np.where(moved, rng.random(dim) < density, pattern)
    return pairs


@pytest.mark.parametrize("bin_size", [2, 4, 8])  # powers of two, so that a bucket is a code
def test_wta_collision_rate_is_the_rank_agreement(rng, bin_size):
    pairs = similar_pairs(rng, 64, 1.0)
    expected = np.array([agreement(x, y, bin_size) for x, y in pairs])
    assert expected.max() - expected.min() > 0.3
    assert_rates(collision_rates("dwta", pairs, bin_size=bin_size), expected)


@pytest.mark.parametrize(("density", "bin_size"), [(0.1, 8), (0.2, 8), (0.3, 4)])
def test_dwta_collision_rate_of_sparse_vectors(rng, density, bin_size):
    """A bin that is empty in one vector borrows at random; one empty in both borrows the same for both."""
    dim = 64
    pairs = similar_pairs(rng, dim, density)
    expected = []
    for x, y in pairs:
        zeros = [int(count) for count in ((x == 0).sum(), (y == 0).sum(), ((x == 0) & (y == 0)).sum())]
        empty_x, empty_y, empty_both = (
            math.comb(count, bin_size) / math.comb(dim, bin_size) for count in zeros
        )
        one = empty_x + empty_y - 2 * empty_both
        expected.append((agreement(x, y, bin_size) + one / bin_size) / (1 - empty_both))
    assert max(expected) - min(expected) > 0.3
    assert_rates(collision_rates("dwta", pairs, bin_size=bin_size), np.array(expected))


@pytest.mark.parametrize(("family", "codes"), [("hadamard", 2), ("sparse", 2), ("dwta", 8)])
def test_codes_are_balanced(family, codes):
    """Over random functions every code of a fixed vector is as likely as the others."""
    x = np.random.default_rng(3).random((1, 128)) + 0.1
    counts = np.zeros(codes)
    for seed in range(SEEDS):
        hasher = FAMILIES[family](128, seed=seed, k=1, l=FUNCTIONS)
        counts += np.bincount(codes_of(hasher, x)[:, 0], minlength=codes)
    expected = counts.sum() / codes
    limit = {2: 10.8, 8: 24.3}[codes]  # chi-squared, 1 in 1,000
    assert ((counts - expected) ** 2 / expected).sum() < limit
