"""Short runs of training, and histories of some."""

from slide import HiddenConfig, Network, NetworkConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.runs.history import HistoryFile


def train(callbacks, *, epochs=2, candidates="uniform", units=8, **fields):
    """Train a small network on 400 samples, in 4 batches an epoch; return it and what ``fit`` returns."""
    data, test = make_extreme(400, 100, 50, test_samples=60, seed=1)
    output = OutputConfig(candidates, budget=20, tail=20)
    network = Network(100, 50, NetworkConfig(HiddenConfig(units), output), threads=1)
    config = TrainingConfig(epochs=epochs, batch_size=100, **fields)
    history = network.fit(data.X, data.Y, config=config, validation=(test.X, test.Y), callbacks=callbacks)
    return network, history


def write_history(path, **options):
    """Train with a history in a file; return what ``fit`` returns."""
    return train([HistoryFile(path, data={"train": "samples.txt"})], **options)[1]
