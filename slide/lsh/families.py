"""Hash families by name: from a configuration and a generator to a ready hasher.

A hasher is anything with the interface of `HashFamily`. Four families are registered here. `register_family` adds
another, and ``LSHConfig.family`` then accepts its name. With `PythonHasher`, a few lines of NumPy make a family::

    class Octants(PythonHasher):
        def __init__(self, dim, k, l, bucket_bits, rng):
            super().__init__(dim, k, l, n_codes=8, bucket_bits=bucket_bits)
            self.directions = rng.normal(size=(dim, 3 * k * l))

        def codes(self, x):
            signs = (x @ self.directions > 0).reshape(len(x), -1, 3)
            return signs @ [4, 2, 1]

    def make_octants(config, dim, n, rng):
        return Octants(dim, config.k or 4, config.l, config.bucket_bits or 16, rng)

    register_family("octants", make_octants)
    config = LSHConfig(family="octants", k=4)

``examples/hash_family.py`` trains a network with this one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.sparse import csr_array

from slide.config import ConfigError, LSHConfig
from slide.kernels import dtypes, hashing

DENSITY = 1 / 3
"""Fraction of non-zero entries in a sparse random projection."""

BLOCK_FLOATS = 1 << 22
"""Number of coordinates that a `PythonHasher` is given at a time."""


@runtime_checkable
class HashFamily(Protocol):
    """The interface of a hasher. A hasher does not change once made; several threads may call it at once.

    Methods are called with positional arguments.

    Attributes
    ----------
    dim : int
        Dimension of the vectors.
    k : int
        Number of hash codes in a bucket index.
    l : int
        Number of tables; a vector has one bucket index in each.
    radix : int
        Number of values that a hash code can have.
    bucket_bits : int
        Bits of a bucket index.
    """

    dim: int
    k: int
    l: int  # noqa: E741
    radix: int
    bucket_bits: int

    def hash(self, x: np.ndarray, out: np.ndarray, threads: int, rows: np.ndarray | None = None, /) -> None:
        """Hash rows of `x` into bucket indices.

        Parameters
        ----------
        x : float32 array [n, dim or more]
            Vectors, with unit stride along a row; the first `dim` columns are hashed.
        out : uint32 array [l, n or more]
            Written: ``out[t, i]`` becomes row i's bucket in table t.
        threads : int
            Number of threads.
        rows : int32 array, optional
            Rows to hash; other columns of `out` stay as they are. Default: all rows.

        Raises
        ------
        ValueError
            Shapes do not fit, or a row id is out of range.
        """

    def hash_sparse(
        self, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, out: np.ndarray, threads: int, /
    ) -> None:
        """Hash sparse rows; the result is that of ``hash`` for the same rows in a dense array.

        Parameters
        ----------
        indptr, indices, values : int64 array [n + 1], int32 array, float32 array
            The rows in CSR form.
        out : uint32 array [l, n or more]
            Written, as by ``hash``.
        threads : int
            Number of threads.

        Raises
        ------
        ValueError
            Shapes do not fit, or a column is out of range.
        """

    def collision_probability(self, x: np.ndarray, y: np.ndarray, /) -> np.ndarray:
        """Return, for pairs of vectors, the probability that one hash code agrees, over the draw of its function.

        Parameters
        ----------
        x, y : float array [n, dim]
            The first and the second vector of each pair.

        Returns
        -------
        float64 array [n]
            The probability of each pair.

        Raises
        ------
        ValueError
            `x` and `y` are not both [n, dim].
        """


class _Angular:
    """SimHash: ``1 - theta / pi`` (Goemans and Williamson, JACM 1995; Charikar, STOC 2002)."""

    dim: int

    def collision_probability(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return ``1 - theta / pi`` for each pair; see `HashFamily.collision_probability`.

        The codes of the zero vector are fixed: it agrees with itself, and with another vector with probability 1/2.
        """
        x, y = _pairs(x, y, self.dim)
        norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
        zero = (norms[0] == 0) | (norms[1] == 0)
        unit_x, unit_y = (v / np.where(n == 0, 1, n)[:, None] for v, n in zip((x, y), norms, strict=True))
        # Unlike the arc cosine of the inner product, this is exact for nearly equal vectors.
        theta = 2 * np.arctan2(np.linalg.norm(unit_x - unit_y, axis=1), np.linalg.norm(unit_x + unit_y, axis=1))
        return np.where(zero, np.where(norms[0] == norms[1], 1.0, 0.5), 1 - theta / math.pi)


class HadamardSimHash(_Angular, hashing.HadamardSimHash):
    """`slide.kernels.hashing.HadamardSimHash` with its collision probability."""


class SparseSimHash(_Angular, hashing.SparseSimHash):
    """`slide.kernels.hashing.SparseSimHash` with its collision probability."""


class WTA(hashing.WTA):
    """`slide.kernels.hashing.WTA` with its collision probability."""

    def collision_probability(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the probability of each pair; see `HashFamily.collision_probability`.

        A bin has m of the d coordinates, and n_i coordinates are below coordinate i in both vectors. The winner is the
        same with probability ``c = sum_i C(n_i, m - 1) / C(d, m)`` (Yagnik et al., ICCV 2011). If codes have only r
        values, different winners have the same code with probability ``(m / r - 1) / (m - 1)``. Time is O(d**2) per
        pair.
        """
        x, y = _pairs(x, y, self.dim)
        same = np.array([_same_winner(a, b, self.bin_size) for a, b in zip(x, y, strict=True)])
        return same + (1 - same) * _alias(self.bin_size, self.radix)


class DWTA(hashing.DWTA):
    """`slide.kernels.hashing.DWTA` with its collision probability."""

    def collision_probability(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the probability of each pair; see `HashFamily.collision_probability`.

        A bin has m coordinates, a code r values. A random bin is empty in neither vector and has the same winner with
        probability c, or different winners with probability u; it is empty in one vector with probability e, in both
        with probability b. Then a code agrees with probability ``(c + u * (m / r - 1) / (m - 1) + e / r) / (1 - b)``: a
        bin that is empty in both vectors borrows the same other bin in both, one that is empty in one vector borrows at
        random (Chen and Shrivastava, UAI 2018). Time is O(d**2) per pair.
        """
        x, y = _pairs(x, y, self.dim)
        m, r = self.bin_size, self.radix
        result = np.empty(len(x))
        for i, (a, b) in enumerate(zip(x, y, strict=True)):
            a, b = (np.where(v == 0, -np.inf, v) for v in (a, b))
            missing = np.isneginf(a), np.isneginf(b)
            both = _all_of(m, np.count_nonzero(missing[0] & missing[1]), self.dim)
            one = sum(_all_of(m, np.count_nonzero(v), self.dim) for v in missing) - 2 * both
            same = _same_winner(a, b, m, ~missing[0] & ~missing[1])
            differ = max(0.0, 1 - same - one - both)
            # If both vectors are zero, so are their codes.
            result[i] = (same + differ * _alias(m, r) + one / r) / (1 - both) if both < 1 else 1.0
        return result


class MinHash(hashing.MinHash):
    """`slide.kernels.hashing.MinHash` with its collision probability."""

    def collision_probability(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return ``J + (1 - J) / 2**width`` for each pair; see `HashFamily.collision_probability`.

        J is the Jaccard similarity of the two sets of at most `top` coordinates; J of two empty sets is 1.
        """
        x, y = (_top_sets(v, self.top) for v in _pairs(x, y, self.dim))
        union = np.count_nonzero(x | y, axis=1)
        jaccard = np.where(union == 0, 1.0, np.count_nonzero(x & y, axis=1) / np.maximum(union, 1))
        return jaccard + (1 - jaccard) / self.radix


class PythonHasher(ABC):
    """A hash family written in NumPy: a subclass defines ``codes``, this class makes buckets of them.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    k : int
        Number of hash codes in a bucket index.
    l : int
        Number of tables.
    n_codes : int
        Number of values of a code, which are 0 to ``n_codes - 1``; ``n_codes**k`` is at most 2**32.
    bucket_bits : int
        Largest number of bits that a bucket index may have.

    Raises
    ------
    ValueError
        A size is out of range.
    """

    def __init__(self, dim: int, k: int, l: int, *, n_codes: int, bucket_bits: int):  # noqa: E741
        if dim < 1:
            raise ValueError(f"dim must be positive, got {dim}")
        self._combiner = hashing.CodeCombiner(k, l, n_codes, bucket_bits)
        self.dim, self.k, self.l = dim, k, l
        self.radix = n_codes
        self.bucket_bits = self._combiner.bucket_bits

    @abstractmethod
    def codes(self, x: np.ndarray) -> np.ndarray:
        """Return the hash codes of vectors; the codes of a row depend on that row alone.

        Parameters
        ----------
        x : float32 array [n, dim]
            The vectors; must not be modified.

        Returns
        -------
        int array [n, k * l]
            Hash codes, those of table t in columns ``t * k`` to ``t * k + k - 1``.
        """

    def collision_probability(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """See `HashFamily.collision_probability`; raises NotImplementedError unless a subclass has its formula."""
        raise NotImplementedError(f"{type(self).__name__} gives no collision probability")

    def hash(self, x: np.ndarray, out: np.ndarray, threads: int, rows: np.ndarray | None = None) -> None:
        """See `HashFamily.hash`. It uses the calling thread and, in ``codes``, the threads of NumPy."""
        if x.ndim != 2 or x.shape[1] < self.dim:
            raise ValueError(f"x must have at least {self.dim} columns, got shape {x.shape}")
        self._check_out(out, len(x))
        if rows is not None and len(rows) and (np.min(rows) < 0 or np.max(rows) >= len(x)):
            raise ValueError(f"rows must lie in 0..{len(x) - 1}, got {np.min(rows)}..{np.max(rows)}")
        for block in self._blocks(len(x) if rows is None else len(rows)):
            places = block if rows is None else rows[block]
            out[:, places] = self._buckets(x[places, : self.dim])

    def hash_sparse(
        self, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, out: np.ndarray, threads: int
    ) -> None:
        """See `HashFamily.hash_sparse`. ``codes`` receives the rows as dense arrays, one block at a time."""
        n = len(indptr) - 1
        self._check_out(out, n)
        if len(indices) and (np.min(indices) < 0 or np.max(indices) >= self.dim):
            raise ValueError(f"coordinates must lie in 0..{self.dim - 1}, got {np.min(indices)}..{np.max(indices)}")
        x = csr_array((values, indices, indptr), shape=(n, self.dim))
        for block in self._blocks(n):
            out[:, block] = self._buckets(x[block].toarray())

    def _check_out(self, out, n):
        if out.ndim != 2 or out.shape[0] != self.l or out.shape[1] < n:
            raise ValueError(f"out must be [{self.l}, {n} or more], got {list(out.shape)}")

    def _blocks(self, n):
        size = max(1, BLOCK_FLOATS // self.dim)
        return [slice(first, min(n, first + size)) for first in range(0, n, size)]

    def _buckets(self, x):
        buckets = np.empty((self.l, len(x)), dtypes.CODE)
        codes = np.ascontiguousarray(self.codes(x), dtypes.INDEX)
        if codes.shape != (len(x), self.k * self.l):
            raise ValueError(
                f"{type(self).__name__}.codes must return [{len(x)}, {self.k * self.l}], got {list(codes.shape)}"
            )
        self._combiner.combine(codes, buckets)
        return buckets


Factory = Callable[[LSHConfig, int, int, np.random.Generator], HashFamily]
"""A function that makes a hasher from a configuration, the dimension of the vectors, their number, and a generator."""

_FAMILIES: dict[str, Factory] = {}


def register_family(name: str, factory: Factory) -> None:
    """Make a hash family available as ``LSHConfig.family``.

    Register it before a network of this family is made or loaded.

    Parameters
    ----------
    name : str
        Name of the family, made of letters, digits, hyphens and underscores.
    factory : callable
        ``factory(config, dim, n, rng)`` returns a `HashFamily`. `config` is the `LSHConfig`, `dim` the dimension of the
        vectors, `n` the number of vectors that the tables will hold. All randomness must come from `rng`, a
        `numpy.random.Generator`, so that one seed gives one result.

    Raises
    ------
    ConfigError
        The name has other characters.
    ValueError
        A family of this name is registered already.
    """
    LSHConfig(family=name)
    if name in _FAMILIES:
        raise ValueError(f"a family named {name!r} is already registered")
    _FAMILIES[name] = factory


def registered_families() -> list[str]:
    """Return the names that ``LSHConfig.family`` may have, sorted."""
    return sorted(_FAMILIES)


def make_hasher(config: LSHConfig, dim: int, n: int, rng: np.random.Generator) -> HashFamily:
    """Return a hasher of the configured family, for tables of `n` vectors of dimension `dim`.

    Raises
    ------
    ConfigError
        No family has this name, or the configuration does not fit the dimension.
    """
    if config.family not in _FAMILIES:
        raise ConfigError(
            f"LSHConfig.family must be registered; there are {', '.join(registered_families())}, got {config.family!r}"
        )
    return _FAMILIES[config.family](config, dim, n, rng)


def make_simhash(config: LSHConfig, dim: int, n: int, rng: np.random.Generator):
    """Return a SimHash hasher: signs of random projections; see `make_hasher` for the parameters."""
    k = config.k or _default_k(n, 1)
    bucket_bits = config.bucket_bits or _default_bits(n)
    if config.projection == "hadamard":
        p = 1 << (dim - 1).bit_length()
        rotations = -(-k * config.l // p)
        signs = rng.choice(np.array([-1, 1], dtypes.VALUE), size=(rotations, 3, p))
        return HadamardSimHash(dim, k, config.l, signs, bucket_bits)
    functions = k * config.l
    each = max(1, round(dim * DENSITY))
    index = np.argsort(rng.random((functions, dim)), axis=1)[:, :each].astype(dtypes.INDEX)
    added = rng.binomial(each, 0.5, size=functions)
    ptr = np.zeros(2 * functions + 1, dtypes.OFFSET)
    ptr[1::2] = np.arange(functions) * each + added
    ptr[2::2] = np.arange(1, functions + 1) * each
    return SparseSimHash(dim, k, config.l, index.ravel(), ptr, bucket_bits)


def make_wta(config: LSHConfig, dim: int, n: int, rng: np.random.Generator):
    """Return a WTA hasher: which of a few coordinates is largest; see `make_hasher` for the parameters."""
    width = _winner_width(config)
    k = _fitting_k(config, n, width)
    index = _bins(config, dim, k * config.l, rng)
    return WTA(dim, k, config.l, index, width, config.bucket_bits or _default_bits(n))


def make_dwta(config: LSHConfig, dim: int, n: int, rng: np.random.Generator):
    """Return a DWTA hasher: WTA in which zeros count as missing; see `make_hasher` for the parameters."""
    width = _winner_width(config)
    k = _fitting_k(config, n, width)
    index = _bins(config, dim, k * config.l, rng)
    seed = int(rng.integers(2**63))
    return DWTA(dim, k, config.l, index, width, seed, config.bucket_bits or _default_bits(n))


def make_minhash(config: LSHConfig, dim: int, n: int, rng: np.random.Generator):
    """Return a MinHash hasher over the sets of largest coordinates; see `make_hasher` for the parameters."""
    width = config.code_bits or 8
    # The first member of a bin is mostly one of its first few coordinates: a code carries about three bits.
    k = config.k or min(32 // width, _default_k(n, min(3, width)))
    _check_k(k, width)
    top = config.top or max(1, dim // 4)
    index = _bins(config, dim, k * config.l, rng)
    seed = int(rng.integers(2**63))
    return MinHash(dim, k, config.l, index, top, width, seed, config.bucket_bits or _default_bits(n))


register_family("simhash", make_simhash)
register_family("wta", make_wta)
register_family("dwta", make_dwta)
register_family("minhash", make_minhash)


def _default_k(n, width):
    """Return the number of codes with which a bucket holds a few dozen of n evenly spread vectors."""
    return max(1, min(32 // width, round(math.log2(max(n, 2) / 32) / width)))


def _default_bits(n):
    """Return the bits with which a bucket holds four of n evenly spread vectors; offsets are then 1/8 of the tables."""
    return max(1, min(30, math.floor(math.log2(max(n, 8) / 4))))


def _winner_width(config):
    width = config.code_bits or math.ceil(math.log2(config.bin_size))
    if config.bin_size % min(config.bin_size, 1 << width):
        raise ConfigError(
            f"LSHConfig.code_bits must leave all codes of a bin of {config.bin_size} equally likely: "
            f"2**code_bits must divide it or be no smaller, got {width}"
        )
    return width


def _fitting_k(config, n, width):
    k = config.k or _default_k(n, width)
    _check_k(k, width)
    return k


def _check_k(k, width):
    if k * width > 32:
        raise ConfigError(f"LSHConfig.k must be at most {32 // width} with codes of {width} bits, got {k}")


def _bins(config, dim, bins, rng):
    """Return random bins of different coordinates, int32 [bins, bin_size], which are cut from random permutations."""
    if config.bin_size > dim:
        raise ConfigError(f"LSHConfig.bin_size must be at most the dimension hashed, {dim}, got {config.bin_size}")
    whole = dim // config.bin_size
    permutations = -(-bins // whole)
    order = np.argsort(rng.random((permutations, dim)), axis=1)[:, : whole * config.bin_size]
    return np.ascontiguousarray(order.reshape(-1, config.bin_size)[:bins].astype(dtypes.INDEX))


def _pairs(x, y, dim):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or x.shape[1] != dim or x.shape != y.shape:
        raise ValueError(f"x and y must both be [n, {dim}], got {list(x.shape)} and {list(y.shape)}")
    return x, y


def _all_of(m, count, dim):
    """Return ``C(count, m) / C(dim, m)``: the probability that a random bin of m lies within `count` coordinates."""
    drawn = np.arange(m)
    return float(np.prod(np.maximum(count - drawn, 0) / (dim - drawn)))


def _same_winner(x, y, m, winners=slice(None)):
    """Return ``sum_i C(n_i, m - 1) / C(d, m)`` over `winners`; among equal coordinates the first is the largest."""
    d = len(x)
    rank_x, rank_y = (np.argsort(np.lexsort((-np.arange(d), v))) for v in (x, y))
    below = np.count_nonzero((rank_x[None, :] < rank_x[:, None]) & (rank_y[None, :] < rank_y[:, None]), axis=1)
    drawn = np.arange(m - 1)
    others = np.prod(np.maximum(below[:, None] - drawn, 0) / np.maximum(d - 1 - drawn, 1), axis=1)
    return float(np.sum(others[winners])) * m / d


def _alias(m, r):
    """Return the probability that two different places of m have the same code of r."""
    return (m / r - 1) / (m - 1) if m > 1 else 0.0


def _top_sets(x, top):
    """Return which are the `top` largest non-zero coordinates of each row, the first of equal ones: bool [n, dim]."""
    order = np.argsort(np.where(x == 0, np.inf, -x), axis=1, kind="stable")[:, :top]
    chosen = np.zeros(x.shape, bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen & (x != 0)
