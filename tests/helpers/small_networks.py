"""A small data set and small networks, for the tests of whole networks."""

import numpy as np
from scipy.sparse import csr_matrix, random_array

from slide.config import HiddenConfig, LSHConfig
from slide.data.batches import BatchReader

N_FEATURES, N_LABELS, UNITS = 40, 60, 20


def sparse(rng, shape, density):
    return csr_matrix(random_array(shape, density=density, format="csr", dtype=np.float32, rng=rng))


def make_samples(rng):
    """Twelve samples; the second has no features, the third no labels, the fourth neither."""
    X, Y = sparse(rng, (12, N_FEATURES), 0.2).toarray(), sparse(rng, (12, N_LABELS), 0.05).toarray()
    X[[1, 3]] = 0
    Y[[2, 3]] = 0
    Y[0, :7] = 1
    return csr_matrix(X), csr_matrix((Y > 0).astype(np.float32))


def batch_of(samples, config):
    reader = BatchReader(*samples, samples[0].shape[0], normalize=config.normalize)
    return reader.read(np.arange(samples[0].shape[0]))


def layers_of(net):
    """All layers by name."""
    return net.layers.by_name


def state_of(net):
    """Copies of all parameters and moments."""
    return {
        f"{prefix}.{name}": view.copy()
        for prefix, layer in layers_of(net).items()
        for name, view in layer.state().items()
    }


def full(units, activation="relu"):
    return HiddenConfig(units, activation, dropout=0.0)


def sampled(units, budget, activation="relu"):
    """A layer that looks its units up; the fewer of them, the sooner the layer above reads those alone."""
    return HiddenConfig(units, activation, "lsh", budget, LSHConfig(k=2, l=4), dropout=0.0)
