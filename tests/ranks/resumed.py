"""What the ranks of a test of checkpoints do: train without a break, and in pieces; tell, as JSON, how these compare.

Arguments: a folder, and scenarios as JSON. A scenario whose folder has checkpoints already goes on with that run.
"""

import json
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

from slide import (
    Checkpoints,
    HiddenConfig,
    LSHConfig,
    Network,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    TrainingConfig,
)
from slide.data import make_extreme
from slide.distributed import DistributionConfig, own_rows
from slide.persist.format import training_arrays
from slide.train.checkpoints import names_in

COMM = MPI.COMM_WORLD
DATA = make_extreme(240, 60, 37, labels_per_sample=2, seed=3)
BATCH = 24


def fit(folder, *, stop=None, every=None, resume=False, own=False, output=None, distribution=None, training=None):
    """Train a new network; return it and its history."""
    output = OutputConfig(**{"candidates": "inbatch", "tail": 12, "lsh": LSHConfig(k=3, l=4), **(output or {})})
    config = NetworkConfig(HiddenConfig(9), output, OptimizerConfig(lr=0.02, lazy="exact", weight_decay=0.01))
    distribution = DistributionConfig(**{"portions": 12, **(distribution or {})})
    network = Network(DATA.n_features, DATA.n_labels, config, threads=1, comm=COMM, distribution=distribution)
    samples = DATA.subset(own_rows(DATA.n_samples, BATCH, COMM, 12)) if own else DATA
    history = network.fit(
        samples.X,
        samples.Y,
        own_samples=own,
        config=TrainingConfig(**{"epochs": 3, "batch_size": BATCH, **(training or {})}),
        checkpoints=Checkpoints(folder, every=every),
        resume=folder if resume else None,
        callbacks=[] if stop is None else [lambda progress: progress.batch == stop],
    )
    return network, history


def state(network):
    """Everything that this rank has, as bytes by name."""
    arrays = network.layers.parameters(moments=True) | training_arrays(network.layers)
    if network.layers.residual is not None:
        arrays["residual"] = network.layers.residual
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}


def scenario(folder, *, every=7, stops=(11, 20), **settings):
    """Compare a run in pieces with one that was not interrupted."""
    if folder.exists():
        network, history = fit(folder, resume=True, **settings)
        whole = network.gather()
        loss = history.epochs[-1].loss
        return {"loss": loss} | ({} if whole is None else {"weight": float(abs(whole.output.table.weights).sum())})
    # One that writes as many checkpoints, since replicas that train each for itself are averaged for them.
    expected, history = fit(folder.with_name(folder.name + "-whole"), every=every, **settings)
    losses = [epoch.loss for epoch in history.epochs]
    for i, stop in enumerate([*stops, None]):
        network, history = fit(folder, stop=stop, every=every, resume=i > 0, **settings)
    network.save(folder.with_name(folder.name + "-model"), moments=True)
    same = state(network) == state(expected) and [epoch.loss for epoch in history.epochs] == losses
    found = {"same bits": all(COMM.allgather(same)), "loss": losses[-1]}
    whole = network.gather(moments=True)
    if whole is not None:
        saved, mine = Network.load(folder.with_name(folder.name + "-model"), threads=1), whole.output.state()
        found["saved"] = all(np.array_equal(view, mine[name]) for name, view in saved.output.state().items())
        found["checkpoints"] = len(names_in(folder))
        found["weight"] = float(abs(whole.output.table.weights).sum())
    return found


if __name__ == "__main__":
    results = {name: scenario(Path(sys.argv[1]) / name, **rest) for name, rest in json.loads(sys.argv[2]).items()}
    if COMM.Get_rank() == 0:
        print(json.dumps(results))
