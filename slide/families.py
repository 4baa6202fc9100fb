"""Hash families by name: from a configuration and a seed to a ready hasher.

A hasher has ``k``, ``l``, ``bucket_bits`` and ``hash(x, out, num_threads, rows=None)``; see
`slide.kernels.hashing` for the ones here and what they compute.
"""

import math

import numpy as np

from slide.config import ConfigError
from slide.kernels import dtypes
from slide.kernels.hashing import DWTA, HadamardSimHash, SparseSimHash

DENSITY = 1 / 3
"""Share of non-zero entries in a sparse random projection."""


def make_simhash(config, dim, n, rng):
    """Return a SimHash hasher: signs of random projections, collision probability ``1 - theta / pi``.

    Parameters
    ----------
    config : LSHConfig
    dim : int
        Dimension of the vectors.
    n : int
        Vectors the tables will hold.
    rng : numpy.random.Generator
    """
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


def make_dwta(config, dim, n, rng):
    """Return a DWTA hasher: which of a few random coordinates is largest.

    Parameters
    ----------
    config : LSHConfig
    dim : int
        Dimension of the vectors.
    n : int
        Vectors the tables will hold.
    rng : numpy.random.Generator

    Raises
    ------
    ConfigError
        A bin is larger than the dimension, or the concatenated codes exceed 32 bits.
    """
    if config.bin_size > dim:
        raise ConfigError(f"LSHConfig.bin_size must be at most the dimension hashed, {dim}, got {config.bin_size}")
    width = config.code_bits or math.ceil(math.log2(config.bin_size))
    k = config.k or _default_k(n, width)
    if k * width > 32:
        raise ConfigError(f"LSHConfig.k must be at most {32 // width} with codes of {width} bits, got {k}")
    # Each permutation of the coordinates gives as many whole bins as fit, so no bin repeats a coordinate.
    whole = dim // config.bin_size
    permutations = -(-k * config.l // whole)
    order = np.argsort(rng.random((permutations, dim)), axis=1)[:, : whole * config.bin_size]
    index = order.reshape(-1, config.bin_size)[: k * config.l].astype(dtypes.INDEX)
    seed = int(rng.integers(2**63))
    return DWTA(dim, k, config.l, np.ascontiguousarray(index), width, seed, config.bucket_bits or _default_bits(n))


FAMILIES = {"simhash": make_simhash, "dwta": make_dwta}


def _default_k(n, width):
    """So many codes that the average bucket would hold a few dozen of n vectors spread evenly."""
    return max(1, min(32 // width, round(math.log2(max(n, 2) / 32) / width)))


def _default_bits(n):
    """As many bits as it takes to have a bucket for each of n vectors."""
    return max(1, min(30, math.ceil(math.log2(max(n, 2)))))
