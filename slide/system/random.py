"""Generators of random numbers that follow from numbers alone, whatever else was drawn before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def philox(seed: int, number: int, counter: Sequence[int] = (0, 0, 0, 0)) -> np.random.Generator:
    """Return a generator whose draws follow from a seed and a number, each from 0 to 2**64 - 1.

    One pair has many sequences of draws that do not overlap: the last two numbers of `counter`, from 0 to 2**64 - 1 as
    well, choose one.
    """
    key = np.array([seed, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
