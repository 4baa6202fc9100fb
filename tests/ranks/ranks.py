"""What the ranks of a test do: train on a few samples as each scenario says, and tell what came of it, as JSON."""

import json
import sys

import numpy as np
from mpi4py import MPI

from slide import HiddenConfig, Network, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.distributed import DistributionConfig, own_rows

COMM = MPI.COMM_WORLD
TRAIN, TEST = make_extreme(120, 80, 37, test_samples=31, seed=3)
BATCH = 40


def configs(hidden=(8,), output=None, optimizer=None, training=None, distribution=None, dropout=0.2, **network):
    """The configurations of a scenario."""
    output = OutputConfig(**{"candidates": "full", "budget": 12, "tail": 12, **(output or {})})
    layers = tuple(HiddenConfig(units, dropout=dropout) for units in hidden)
    network = NetworkConfig(layers, output, OptimizerConfig(**(optimizer or {})), **network)
    training = TrainingConfig(**{"epochs": 2, "batch_size": BATCH, **(training or {})})
    return network, training, DistributionConfig(**{"portions": 4, **(distribution or {})})


def train(way="network", data="all", n_labels=TRAIN.n_labels, n_samples=TRAIN.n_samples, **settings):
    """Train; return losses, quality, bytes and predictions."""
    config, training, distribution = configs(**settings)
    samples, options = TRAIN.subset(slice(0, n_samples)), {"config": training}
    if data == "own":
        samples, options["own_samples"] = TRAIN.subset(own_rows(TRAIN.n_samples, BATCH, COMM, 4)), True
    options["validation"] = None if training.holdout else (TEST.X, TEST.Y)
    sizes = TRAIN.n_features, n_labels, config
    if way == "fit":
        net = whole = Network(*sizes, threads=1)
        history = net.fit(samples.X, samples.Y, comm=COMM, distribution=distribution, **options)
        sums = COMM.allgather([float(np.abs(array).sum()) for array in net.copy_weights().values()])
        found = {"labels agree": all(sums[0] == other for other in sums), "scores differ": 0, "quality differs": 0}
    else:
        net = Network(*sizes, threads=1, comm=COMM, distribution=distribution)
        if way == "search":
            return net.predict(TEST.X, mode="sketch")
        history = net.fit(samples.X, samples.Y, **options)
        net.check_replicas()
        found, whole = compared(net)
    if COMM.Get_rank():
        return None
    for name in ("loss", "precision", "active", "quality"):
        key = {"loss": "losses", "precision": "precisions"}.get(name, name)
        found[key] = [getattr(epoch, name) for epoch in history.epochs]
    found["features cut"] = distribution.shard_features
    found["best"], found["bytes"] = history.best_epoch, history.bytes_per_batch
    found["scores"] = whole.predict(TEST.X[:6], k=3)[1].tolist()
    return found


def compared(net):
    """How what ranks predict together compares with what the gathered network does; and that network, on rank 0."""
    ids, scores = net.predict(TEST.X, k=4)
    masked, _ = net.predict(TEST.X, k=40, exclude=TEST.X)
    quality, whole = net.evaluate(TEST.X, TEST.Y, mask_inputs=True), net.gather()
    if whole is None:
        return {}, None
    other_ids, other_scores = whole.predict(TEST.X, k=4)
    other_masked, _ = whole.predict(TEST.X, k=40, exclude=TEST.X)
    other_quality = whole.evaluate(TEST.X, TEST.Y, mask_inputs=True)
    return {
        "labels agree": bool((ids == other_ids).all() and (masked == other_masked).all()),
        "scores differ": float(np.abs(scores - other_scores).max()),
        "quality differs": max(abs(quality[name] - other_quality[name]) for name in quality),
    }, whole


def against_plain(**settings):
    """Whether a network on one rank becomes what one without ranks does."""
    config, training, _ = configs(**settings)
    sizes = TRAIN.n_features, TRAIN.n_labels, config
    nets = Network(*sizes, threads=1), Network(*sizes, threads=1, comm=COMM)
    quality = [net.fit(TRAIN.X, TRAIN.Y, config=training).epochs[-1].quality for net in nets]
    one, other = (net.copy_weights() for net in nets)
    return {"same bits": quality[0] == quality[1] and all((one[name] == other[name]).all() for name in one)}


def failure(**scenario):
    """The error that all ranks meet."""
    try:
        train(**scenario)
        message = "none"
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    messages = COMM.allgather(message)
    return message if len(set(messages)) == 1 else messages


def run(fails=False, **scenario):
    if fails:
        return failure(**scenario)
    if scenario.get("way") == "plain":
        del scenario["way"]
        return against_plain(**scenario)
    return train(**scenario)


if __name__ == "__main__":
    results = {name: run(**scenario) for name, scenario in json.loads(sys.argv[1]).items()}
    if COMM.Get_rank() == 0:
        print(json.dumps(results))
