"""Runs that are interrupted and go on: to the bits of the uninterrupted run, and never on anything else."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slide import Network
from slide.checkpoint import CheckpointError
from slide.config import (
    ConfigError,
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RehashConfig,
    SamplingConfig,
    TrainingConfig,
)
from slide.data import DataError, make_extreme
from slide.resume import MANIFEST, Checkpoints, SavedRun, names_in

N_FEATURES, N_LABELS = 60, 40
TRAINING = TrainingConfig(epochs=4, batch_size=32, schedule="cosine", warmup=0.1, holdout=0.1, patience=3)
BATCHES = 4 * 9
LSH = LSHConfig(k=3, l=4)
OFTEN = RehashConfig(period=2)


@pytest.fixture(scope="module")
def data():
    return make_extreme(300, N_FEATURES, N_LABELS, labels_per_point=2)


def small(candidates="lsh+tail", hidden=HiddenConfig(17), optimizer=None, output=None, **fields):  # noqa: B008
    rest = {"budget": 8, "tail": 8, "lsh": LSH, "rehash": OFTEN} | (output or {})
    optimizer = OptimizerConfig(**({"lr": 0.02} | (optimizer or {})))
    return NetworkConfig(hidden, OutputConfig(candidates, **rest), optimizer, **fields)


SAMPLED = HiddenConfig(24, candidates="lsh", budget=8, lsh=LSH, rehash=OFTEN, dropout=0.2)
CONFIGS = {
    "default": small(input_dropout=0.1),
    "uniform": small("uniform", feature_weights="idf"),
    "lsh": small("lsh", output={"loss": "softmax", "init": "mean"}),
    "lsh+inbatch": small("lsh+inbatch", output={"sampling": SamplingConfig(policy="topk")}),
    "inbatch": small("inbatch", output={"loss": "softmax", "label_weights": "propensity"}),
    "full": small("full"),
    "sgd": small(optimizer={"name": "sgd", "lr": 0.5, "weight_decay": 0.01}),
    "adagrad": small(optimizer={"name": "adagrad", "lr": 0.1, "clip_norm": 1.0}),
    "decay": small(optimizer={"lazy": "exact", "weight_decay": 0.01, "beta2": 0.95}),
    "sparse": small(optimizer={"lazy": "sparse"}, output={"tail_power": 0.5}),
    "bf16": small(precision="bf16"),
    "bf16-moments": small(precision="bf16-moments"),
    "sampled layers": small(hidden=(SAMPLED, HiddenConfig(16, dropout=0.2), SAMPLED)),
    "new functions": small(output={"rehash": RehashConfig(period=2, renew=3), "lsh": LSHConfig(k=3, l=4, capacity=3)}),
    "drift": small(output={"rehash": RehashConfig("drift", period=2, drift=0.05)}),
    "rare rehash": small(output={"rehash": RehashConfig("exponential", period=5, decay=0.5)}),
}


def new(config):
    return Network(N_FEATURES, N_LABELS, config, threads=1)


def all_of(network):
    """Everything that a network has learnt, as bytes by name."""
    layers = {**{layer.name: layer for layer in network.hidden}, "output": network.output}
    arrays = {f"{p}.{name}": view.copy() for p, layer in layers.items() for name, view in layer.state().items()}
    for name, layer in layers.items():
        if layer.index is not None:
            index = layer.index
            # What stands behind the last bucket of a table is of no account.
            ids = np.concatenate([ids[: ends[-1]] for ids, ends in zip(index.ids, index.offsets, strict=True)])
            arrays |= {f"{name}.codes": index.codes, f"{name}.offsets": index.offsets, f"{name}.ids": ids}
            arrays[f"{name}.rebuilds"] = np.array(index.rebuilds)
    if network.feature_weights is not None:
        arrays["feature_weights"] = network.feature_weights
    arrays["step"] = np.array(network.step)
    return {name: array.tobytes() for name, array in arrays.items()}


def without_times(history):
    """A history as plain values, but for how long things took."""
    values = dataclasses.asdict(history)
    for each in (values, *values["epochs"]):
        for name in [name for name in each if "seconds" in name]:
            del each[name]
    return values


def fit(network, data, training=TRAINING, **options):
    return network.fit(data.X, data.Y, config=training, **options)


def stop_at(batch):
    return lambda progress: progress.batch == batch


def assert_the_same(network, history, expected_network, expected_history):
    assert without_times(history) == without_times(expected_history)
    found, expected = all_of(network), all_of(expected_network)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.fixture
def resumed(data, tmp_path):
    """Stop a run after a batch, go on in a network of its own and return that with its history."""

    def resumed(config, batch, training=TRAINING):
        folder = tmp_path / f"run-{batch}"
        first = fit(new(config), data, training, on_batch=stop_at(batch), checkpoints=Checkpoints(folder))
        assert first.stopped
        network = new(config)
        return network, fit(network, data, None, resume=folder)

    return resumed


# To the same bits


@pytest.mark.parametrize("batch", np.sort(np.random.default_rng(7).choice(BATCHES, 10, replace=False)) + 1)
def test_ten_positions(data, resumed, batch):
    network = new(CONFIGS["default"])
    history = fit(network, data)
    assert history.batches == BATCHES
    assert_the_same(*resumed(CONFIGS["default"], batch), network, history)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_run(data, resumed, name):
    network = new(CONFIGS[name])
    history = fit(network, data)
    # In the first epoch, on an epoch's last batch, the smaller one, and past the best epoch that a run may have.
    for batch in (5, 18, history.batches - 2):
        assert_the_same(*resumed(CONFIGS[name], batch), network, history)
