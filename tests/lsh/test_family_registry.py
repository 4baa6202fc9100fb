"""Hash families by name, the interface they share, and families written in Python."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from slide import HashFamily, LSHConfig, Network, NetworkConfig, OutputConfig, PythonHasher
from slide.config import ConfigError
from slide.kernels.hashing import CodeCombiner
from slide.lsh import families

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "hash_family.py"))
BUILT_IN = ["dwta", "minhash", "simhash", "wta"]


@pytest.fixture
def registry(monkeypatch):
    """The families as they are now, whatever a test registers."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))


@pytest.fixture
def rng():
    return np.random.default_rng(4)


class Signs(PythonHasher):
    """Signs of single coordinates: easy to follow."""

    def codes(self, x):
        assert x.dtype == np.float32 and x.shape[1] == self.dim
        return np.resize(x > 0, (len(x), self.k * self.l)) if self.dim == 1 else (x > 0)[:, : self.k * self.l]


def signs(dim=40, k=4, l=6, bucket_bits=3):  # noqa: E741
    return Signs(dim, k, l, n_codes=2, bucket_bits=bucket_bits)


def make(name, dim=40, n=1000, **fields):
    return families.make_hasher(LSHConfig(family=name, **fields), dim, n, np.random.default_rng(0))


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_families_have_the_interface(name, rng):
    hasher = make(name, k=2, l=7, bucket_bits=5)
    assert isinstance(hasher, HashFamily)
    assert (hasher.dim, hasher.k, hasher.l) == (40, 2, 7)
    assert hasher.bucket_bits <= 5
    x, y = rng.normal(size=(2, 9, 40))
    p = hasher.collision_probability(x, y)
    assert p.shape == (9,)
    assert p.dtype == np.float64
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(hasher.collision_probability(x, x), 1)
    np.testing.assert_allclose(hasher.collision_probability(y, x), p)
    zero = np.zeros((9, 40))
    np.testing.assert_allclose(hasher.collision_probability(zero, zero), 1)
    assert (hasher.collision_probability(zero, x) < 0.6).all()
    for wrong in (x[:, :39], x[0], x[:3]):
        with pytest.raises(ValueError, match=r"must both be \[n, 40\]"):
            hasher.collision_probability(wrong, y)


def test_simhash_of_opposite_vectors(rng):
    x = rng.normal(size=(5, 40))
    np.testing.assert_allclose(make("simhash").collision_probability(x, -3 * x), 0, atol=1e-9)


def test_minhash_of_known_sets():
    x = np.zeros((3, 40), np.float32)
    y = np.zeros((3, 40), np.float32)
    x[0, :4], y[0, 2:8] = 1, 1
    # Equal coordinates: the lower ones are in the set.
    x[1], y[1, :4] = 5, 1
    x[2, :4], y[2, 4:8] = 1, 1
    p = make("minhash", top=4, code_bits=4).collision_probability(x, y)
    np.testing.assert_allclose(p, [1 / 3 + 2 / 3 / 16, 1, 1 / 16])


@pytest.mark.parametrize("name", ["wta", "dwta"])
def test_one_coordinate_a_bin_always_agrees(name):
    hasher = families.WTA(3, 1, 2, np.array([[0], [1]], np.int32), 1, 4)
    assert hasher.collision_probability(np.eye(3), 1 - np.eye(3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "wta", "bin_size": 41}, "bin_size must be at most the dimension hashed, 40, got 41"),
        ({"family": "minhash", "bin_size": 41}, "bin_size must be at most"),
        ({"family": "dwta", "bin_size": 6, "code_bits": 2}, "code_bits must leave all codes of a bin of 6"),
        ({"family": "wta", "k": 11}, "k must be at most 10 with codes of 3 bits, got 11"),
        ({"family": "minhash", "k": 5}, "k must be at most 4 with codes of 8 bits, got 5"),
        ({"family": "nearest"}, "there are dwta, minhash, simhash, wta, got 'nearest'"),
    ],
)
def test_configurations_that_do_not_fit(fields, message):
    with pytest.raises(ConfigError, match=message):
        families.make_hasher(LSHConfig(**fields), 40, 1000, np.random.default_rng(0))


def test_a_network_refuses_an_unknown_family():
    config = NetworkConfig(output=OutputConfig("lsh", lsh=LSHConfig(family="nearest")))
    with pytest.raises(ConfigError, match=r"LSHConfig\.family must be registered"):
        Network(10, 10, config)


@pytest.mark.parametrize("name", ["", "two words", "3d", "-a", "a-", None, 7])
def test_names_that_are_none(name):
    with pytest.raises(ConfigError, match=r"LSHConfig\.family must be a name"):
        LSHConfig(family=name)
    with pytest.raises(ConfigError, match=r"LSHConfig\.family must be a name"):
        families.register_family(name, lambda *_: None)


@pytest.mark.parametrize("top", [0, -1, 1.5, True])
def test_top_is_checked(top):
    with pytest.raises(ConfigError, match=r"LSHConfig\.top must be an integer"):
        LSHConfig(family="minhash", top=top)


def test_registering(registry):
    families.register_family("coordinate-signs", lambda config, dim, n, rng: signs(dim))
    assert families.registered_families() == sorted([*BUILT_IN, "coordinate-signs"])
    assert isinstance(make("coordinate-signs"), Signs)
    for taken in ("coordinate-signs", "simhash"):
        with pytest.raises(ValueError, match="already registered"):
            families.register_family(taken, lambda *_: None)


# --- PythonHasher


def test_python_codes_are_combined_as_the_kernels_do(rng):
    hasher = signs()
    x = rng.normal(size=(33, 45)).astype(np.float32)
    expected = np.zeros((6, 33), np.uint32)
    CodeCombiner(4, 6, 2, 3).combine((x[:, :24] > 0).astype(np.int32), expected)
    out = np.full((6, 35), 99, np.uint32)
    hasher.hash(x, out, 2)
    np.testing.assert_array_equal(out[:, :33], expected)
    assert (out[:, 33:] == 99).all()


@pytest.mark.parametrize("count", [0, 1, 20])
def test_python_hasher_of_some_rows(rng, count):
    hasher = signs()
    x = rng.normal(size=(50, 40)).astype(np.float32)
    rows = rng.permutation(50)[:count].astype(np.int32)
    everything, out = np.zeros((6, 50), np.uint32), np.full((6, 50), 99, np.uint32)
    hasher.hash(x, everything, 1)
    hasher.hash(x, out, 1, rows)
    np.testing.assert_array_equal(out[:, rows], everything[:, rows])
    assert (np.delete(out, rows, axis=1) == 99).all()


def test_python_hasher_of_sparse_rows_and_small_blocks(rng, monkeypatch):
    monkeypatch.setattr(families, "BLOCK_FLOATS", 400)
    hasher = signs()
    x = (rng.normal(size=(47, 40)) * (rng.random((47, 40)) < 0.2)).astype(np.float32)
    sparse = csr_array(x)
    out, expected = np.zeros((2, 6, 47), np.uint32)
    hasher.hash_sparse(sparse.indptr.astype(np.int64), sparse.indices, sparse.data, out, 1)
    hasher.hash(x, expected, 1)
    np.testing.assert_array_equal(out, expected)


def test_python_hasher_checks_its_arrays():
    hasher = signs()
    x, out = np.zeros((10, 40), np.float32), np.zeros((6, 10), np.uint32)
    indptr, columns, values = np.array([0, 1]), np.array([40], np.int32), np.ones(1, np.float32)
    for call, message in [
        (lambda: signs(dim=0), "dim must be positive"),
        (lambda: hasher.hash(x[:, :39], out, 1), "at least 40 columns"),
        (lambda: hasher.hash(x[0], out, 1), "at least 40 columns"),
        (lambda: hasher.hash(x, out[:, :9], 1), r"out must be \[6, 10 or more\], got \[6, 9\]"),
        (lambda: hasher.hash(x, out, 1, np.array([10], np.int32)), r"rows must lie in 0\.\.9"),
        (lambda: hasher.hash_sparse(indptr, columns, values, out, 1), r"must lie in 0\.\.39, got 40\.\.40"),
        (lambda: hasher.hash_sparse(indptr, columns, values, out[:5], 1), r"out must be \[6, 1 or more\]"),
        (lambda: signs(dim=7).hash(x, out, 1), r"Signs\.codes must return \[10, 24\], got \[10, 7\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_python_hasher_without_a_formula():
    with pytest.raises(NotImplementedError, match="Signs gives no collision probability"):
        signs().collision_probability(np.ones((1, 40)), np.ones((1, 40)))


# --- In a network


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_family_trains(name):
    from slide.data.synthetic import make_extreme

    train, test = make_extreme(1500, 600, 100, test_samples=300)
    config = NetworkConfig(output=OutputConfig(candidates="lsh", budget=40, lsh=LSHConfig(family=name, l=10)))
    network = Network(600, 100, config, threads=1)
    network.fit(train.X, train.Y)
    assert network.output.index.rebuilds > 0
    assert network.evaluate(test.X, test.Y)["P@1"] > 0.3


def test_the_example(registry, capsys, rng):
    assert EXAMPLE["main"]() > 0.5
    assert "'family': 'octants'" in capsys.readouterr().out
    x, y = rng.normal(size=(2, 20, 64)).astype(np.float32)
    y += x
    hasher = EXAMPLE["Octants"](64, 1, 4000, 16, rng)
    buckets = np.zeros((4000, 40), np.uint32)
    hasher.hash(np.concatenate([x, y]), buckets, 1)
    p = hasher.collision_probability(x, y)
    error = (buckets[:, :20] == buckets[:, 20:]).mean(axis=0) - p
    assert np.abs(error / np.sqrt(p * (1 - p) / 4000)).max() < 4
