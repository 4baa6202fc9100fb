"""Random generators keyed by a seed and a number."""

import numpy as np
import pytest

from slide.system.random import philox


@pytest.mark.parametrize("key", [(0, 0), (7, 3), (2**64 - 1, 10**12)])
@pytest.mark.parametrize("counter", [None, [0, 0, 5, 7]])
def test_draws_are_those_of_numpys_philox(key, counter):
    expected = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64), counter=counter))
    rng = philox(*key) if counter is None else philox(*key, counter)
    assert np.array_equal(rng.integers(0, 2**63, 100), expected.integers(0, 2**63, 100))


def test_keys_and_counters_have_different_draws():
    generators = [philox(1, 2), philox(2, 1), philox(1, 2, (0, 0, 0, 1)), philox(1, 2, (0, 0, 1, 0))]
    assert len({rng.integers(0, 2**63) for rng in generators}) == len(generators)
