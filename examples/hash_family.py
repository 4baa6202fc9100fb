"""A hash family of one's own: written in NumPy, registered by name, and used to train a network.

Run with ``python examples/hash_family.py``.
"""

import numpy as np

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OutputConfig, PythonHasher, register_family
from slide.data.synthetic import make_extreme


class Octants(PythonHasher):
    """Which octant of a random three-dimensional projection a vector lies in: three SimHash bits as one code."""

    def __init__(self, dim, k, l, bucket_bits, rng):  # noqa: E741
        super().__init__(dim, k, l, n_codes=8, bucket_bits=bucket_bits)
        self.directions = rng.normal(size=(dim, 3 * k * l)).astype(np.float32)

    def codes(self, x):
        """Return [n, k * l] numbers from 0 to 7."""
        signs = (x @ self.directions > 0).reshape(len(x), -1, 3)
        return signs @ np.array([4, 2, 1])

    def collision_probability(self, x, y):
        """Return ``(1 - theta / pi)**3``: three independent bits have to agree."""
        cosine = np.sum(x * y, axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
        return (1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi) ** 3


def make_octants(config, dim, n, rng):
    """Make the hasher that an `LSHConfig` describes; all randomness comes from `rng`."""
    return Octants(dim, config.k or 2, config.l, config.bucket_bits or 16, rng)


def main():
    """Train with the family and return precision at 1."""
    register_family("octants", make_octants)
    train, test = make_extreme(5_000, 2_000, 500, test_samples=1_000)
    lsh = LSHConfig(family="octants", k=2, l=20)
    output = OutputConfig(candidates="lsh+tail", budget=64, tail=64, lsh=lsh)
    config = NetworkConfig(hidden=HiddenConfig(units=64), output=output)
    network = Network(train.X.shape[1], train.Y.shape[1], config)
    network.fit(train.X, train.Y)
    precision = network.evaluate(test.X, test.Y)["P@1"]
    print(f"P@1 {precision:.3f}, tables: {network.output.index.statistics()}")
    return precision


if __name__ == "__main__":
    main()
