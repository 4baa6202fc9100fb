"""Hash families by name: defaults, the seed and what does not fit."""

import numpy as np
import pytest

from slide.config import ConfigError, LSHConfig
from slide.lsh.families import make_dwta, make_hasher, make_simhash


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "config",
    [
        LSHConfig(),
        LSHConfig(projection="sparse"),
        LSHConfig(family="dwta"),
        LSHConfig(family="wta"),
        LSHConfig(family="minhash"),
    ],
    ids=["hadamard", "sparse", "dwta", "wta", "minhash"],
)
@pytest.mark.parametrize("dim", [8, 9, 128])
def test_the_generator_decides_the_functions(config, dim):
    x = rng(1).normal(size=(20, dim)).astype(np.float32)
    hashed = []
    for seed in (0, 0, 1):
        hasher = make_hasher(config, dim, 5000, rng(seed))
        assert hasher.l == config.l
        out = np.zeros((hasher.l, 20), np.uint32)
        hasher.hash(x, out, 1)
        hashed.append(out)
    assert np.array_equal(hashed[0], hashed[1])
    assert not np.array_equal(hashed[0], hashed[2])


@pytest.mark.parametrize(("n", "k", "bits"), [(1, 1, 1), (10, 1, 1), (1000, 5, 5), (670_091, 14, 14)])
def test_default_buckets_of_simhash_hold_a_few_dozen(n, k, bits):
    hasher = make_simhash(LSHConfig(), 16, n, rng())
    assert (hasher.k, hasher.bucket_bits) == (k, bits)


@pytest.mark.parametrize(("n", "k", "bits"), [(10, 1, 1), (1000, 2, 6), (670_091, 5, 15)])
def test_default_buckets_of_dwta_hold_a_few_dozen(n, k, bits):
    hasher = make_dwta(LSHConfig(family="dwta"), 16, n, rng())
    assert (hasher.k, hasher.bucket_bits) == (k, bits)


def test_wide_codes_are_mixed_into_a_bucket_for_four_vectors():
    assert make_simhash(LSHConfig(k=30), 16, 1000, rng()).bucket_bits == 7
    assert make_simhash(LSHConfig(k=30, bucket_bits=12), 16, 1000, rng()).bucket_bits == 12
    assert make_dwta(LSHConfig(family="dwta", k=8, code_bits=2, bucket_bits=20), 16, 9, rng()).bucket_bits == 16


@pytest.mark.parametrize("projection", ["hadamard", "sparse"])
def test_simhash_of_one_dimension(projection):
    hasher = make_simhash(LSHConfig(projection=projection, k=2, l=3), 1, 100, rng())
    out = np.zeros((3, 2), np.uint32)
    hasher.hash(np.array([[1.0], [-1.0]], np.float32), out, 1)
    assert (out[:, 0] == 3 - out[:, 1]).all()


def test_dwta_refuses_bins_larger_than_the_vector():
    with pytest.raises(ConfigError, match="bin_size must be at most the dimension hashed, 7, got 8"):
        make_dwta(LSHConfig(family="dwta"), 7, 100, rng())


def test_dwta_refuses_codes_wider_than_an_index():
    with pytest.raises(ConfigError, match="k must be at most 10 with codes of 3 bits, got 11"):
        make_dwta(LSHConfig(family="dwta", k=11), 16, 100, rng())
