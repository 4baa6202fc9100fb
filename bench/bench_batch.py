"""Whole batches, in the default mode and in the paper's, and a short epoch, against the same written with NumPy.

As `bench_kernels.py`: one thread, in turns with the twin, which here too knows which rows a sample computes and touches
no others. What the twin leaves out is what the package does beside: logQ, dropout, rows that catch up.
"""

import numpy as np
import pytest
import twins
from shapes import BATCH, FEATURES, FEATURES_PER_POINT, LABELS, LABELS_PER_POINT, UNITS

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OutputConfig, RehashConfig, TrainingConfig
from slide.data import make_extreme

BATCHES = 8
HIDDEN = HiddenConfig(UNITS)
TAIL = min(OutputConfig().tail, LABELS // 4)
ACTIVE = min(1_000, LABELS // 4)
PAPER = OutputConfig(
    candidates="lsh",
    correction="none",
    loss="softmax",
    budget=ACTIVE,
    lsh=LSHConfig(k=13),
    # No rebuild among the rounds; `bench_index.py` is about those.
    rehash=RehashConfig("fixed", period=10**6),
)


@pytest.fixture(scope="module")
def data():
    sizes = {"features_per_sample": FEATURES_PER_POINT, "labels_per_sample": LABELS_PER_POINT}
    return make_extreme(BATCHES * BATCH, FEATURES, LABELS, **sizes)


def network_for(data, output):
    network = Network(FEATURES, LABELS, NetworkConfig(HIDDEN, output), threads=1)
    counts = np.bincount(data.Y.indices, minlength=LABELS)
    network.output.set_label_frequency(counts / data.n_samples, samples=data.n_samples)
    return network


def slices(data):
    rows = [slice(first, first + BATCH) for first in range(0, data.n_samples, BATCH)]
    return [(np.arange(r.start, r.stop), data.X[r], data.Y[r]) for r in rows]


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_batch(against, data, mode):
    output = OutputConfig(tail=TAIL) if mode == "default" else PAPER
    network = network_for(data, output)
    reader = network.reader(data.X, data.Y, BATCH)
    twin = twins.Batches(network, TAIL)
    samples, done = slices(data), {"ours": 0, "twin": 0}

    def turn(who):
        done[who] += 1
        return samples[done[who] % BATCHES]

    def ours():
        network.train_batch(reader.read(turn("ours")[0]))

    ours()
    index = network.output.index
    if index is not None:
        # The twin hashes nothing: any buckets are as good.
        shape = (index.hasher.l, BATCH)
        codes = np.random.default_rng(0).integers(0, 1 << index.hasher.bucket_bits, shape)

    def theirs():
        _, X, Y = turn("twin")
        own = None if index is None else twins.lookup(codes, index.offsets, index.ids, ACTIVE)
        twin.step(X, Y, own)

    against(ours, theirs, seconds=6)


def test_epoch(against, data):
    network = network_for(data, OutputConfig(tail=TAIL))
    twin = twins.Batches(network, TAIL)
    training = TrainingConfig(epochs=1, batch_size=BATCH)

    def theirs():
        order = np.random.default_rng(0).permutation(data.n_samples)
        for first in range(0, data.n_samples, BATCH):
            rows = order[first : first + BATCH]
            twin.step(data.X[rows], data.Y[rows])

    against(lambda: network.fit(data.X, data.Y, config=training), theirs, seconds=6)
