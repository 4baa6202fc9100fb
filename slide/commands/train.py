"""``slide train``: train a network, save it and measure its quality."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from slide import checkpoint, metrics
from slide.commands.inputs import load, load_as
from slide.commands.options import (
    SETTINGS,
    add_command,
    add_json,
    add_masking,
    add_reading,
    add_threads,
    find_setting,
    positive_list,
)
from slide.config import CANDIDATES, SCHEDULES, UPDATES, RunConfig
from slide.console import TrainingDisplay, as_json, log, quality_table
from slide.data import make_extreme
from slide.data.statistics import column_counts
from slide.footprint import BatchShape, arithmetic, check_fit, n_parameters, resident
from slide.kernels.rows import PRECISIONS
from slide.network import Network
from slide.settings import from_dict, to_dict
from slide.training import Progress, known_propensities

KS = (1, 3, 5)
"""Depths at which training reports quality."""

HOLDOUT = 0.1
"""Share of the training points that is held out where quality decides something and nothing else is said."""

SYNTHETIC = {
    "n_points": 100_000,
    "n_features": 50_000,
    "n_labels": 100_000,
    "noise": 0.5,
    "test_points": 5_000,
}
"""Data to train on where none is given: about a minute on two cores."""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(
        commands,
        "train",
        run,
        "train a network and save it",
        "Train a network and save it. Options override the configuration file, which overrides the defaults. "
        "Ctrl-C ends training after the batch and saves what was learnt.",
        _check,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "train",
        metavar="TRAIN",
        nargs="?",
        type=Path,
        help="training data; synthetic data is made without it",
    )
    data.add_argument("--test", metavar="FILE", type=Path, help="data to measure quality on")
    add_reading(data)
    add_masking(data)
    course = parser.add_argument_group("run")
    course.add_argument("--config", metavar="FILE", type=Path, help="settings, as TOML")
    course.add_argument(
        "--out", metavar="MODEL", type=Path, default=Path("slide-model"), help="folder to save the network in"
    )
    add_threads(course)
    add_json(course)
    settings = parser.add_argument_group("settings")
    settings.add_argument("--epochs", metavar="N", type=int, help="passes over the data")
    settings.add_argument("--batch-size", metavar="N", type=int, help="points of a batch")
    settings.add_argument("--max-batches", metavar="N", type=int, help="end after so many batches")
    settings.add_argument("--lr", metavar="X", type=float, help="learning rate")
    settings.add_argument("--schedule", choices=SCHEDULES, help="how the learning rate falls over the run")
    settings.add_argument(
        "--warmup",
        metavar="X",
        type=float,
        help="batches over which the learning rate first rises; below 1 a share of the run's",
    )
    settings.add_argument(
        "--patience",
        metavar="N",
        type=int,
        help="end after so many epochs without improvement, with the best epoch's weights; measured on --holdout, "
        "never on the test data",
    )
    settings.add_argument(
        "--holdout",
        metavar="X",
        type=float,
        help=f"share of the training points set aside to follow quality on; {HOLDOUT} with --patience",
    )
    settings.add_argument(
        "--hidden", metavar="N[,N...]", type=positive_list, help="units of each hidden layer, from the features upward"
    )
    settings.add_argument("--candidates", choices=CANDIDATES, help="which output neurons a sample computes")
    settings.add_argument(
        "--budget", metavar="N", type=int, help="neurons a sample takes from hash tables, where --candidates has any"
    )
    settings.add_argument(
        "--update", choices=UPDATES, help="how threads share a batch's gradients; hogwild is without locks or repeats"
    )
    settings.add_argument(
        "--precision", choices=PRECISIONS, help="what weights and the optimiser's moments are stored as"
    )
    settings.add_argument("--seed", metavar="N", type=int, help="of everything random")


def _check(args):
    if args.test is not None and args.train is None:
        return "--test needs the training data too: slide train TRAIN --test FILE"
    return None


def run(args: argparse.Namespace) -> int:
    """Train a network, save it and measure its quality; return 128 + n if signal n ended the training.

    The test set decides nothing: where quality does, it is measured on training points that are held out.
    """
    config = _run_config(args)
    if config.training.needs_validation and not config.training.holdout:
        config = replace(config, training=replace(config.training, holdout=HOLDOUT))
        log.info(
            "no holdout given: %s of the training points, at most %s, are set aside to follow quality on",
            f"{HOLDOUT:.0%}",
            f"{config.training.eval_points:,}",
        )
    _check_destination(args.out)
    data, test = _training_data(args)
    _check_memory(data, config)
    network = Network(data.n_features, data.n_labels, config.network, threads=args.threads)
    log.info("training on %r, threads: %d", data, network.threads)

    measured_on = "validation" if config.training.holdout else "test"
    with _StopSignals() as stop, TrainingDisplay(measured_on, config.training.monitor) as display:

        def on_batch(progress: Progress) -> bool:
            display.batch_done(progress)
            return stop.signum is not None

        def on_epoch(progress: Progress) -> bool:
            display.epoch_done(progress)
            return stop.signum is not None

        history = network.fit(
            data.X,
            data.Y,
            config=config.training,
            validation=None if test is None or config.training.holdout else (test.X, test.Y),
            mask_inputs=args.mask_inputs,
            on_batch=on_batch,
            on_epoch=on_epoch,
        )
    if stop.signum is not None:
        name = signal.Signals(stop.signum).name
        log.warning("stopped by %s after %s batches; saving what was learnt", name, f"{history.batches:,}")
    if config.training.needs_validation and history.best_epoch is not None:
        log.info("%s", _course(history, config.training))
    network.save(args.out)
    log.info("saved %r in %s", network, args.out)

    quality, popular = {}, None
    if test is not None and stop.signum is None:
        log.info("evaluating on %r", test)
        inv_propensity = known_propensities(data.Y)
        quality = network.evaluate(
            test.X, test.Y, ks=KS, inv_propensity=inv_propensity, mask_inputs=args.mask_inputs
        )
        if not args.mask_inputs:
            popular = _popular_baseline(data, test)
    if args.json:
        print(as_json(_training_report(network, history, display.progress, quality, popular, args.out)))
    else:
        rehashing = f", {history.rehash_share:.0%} of it rehashing" if history.rehash_seconds else ""
        print(
            f"{history.batches:,} batches in {history.train_seconds:.1f} s, "
            f"{history.ms_per_batch:.2f} ms each{rehashing}; "
            f"{history.active_per_sample:,.0f} of {network.n_labels:,} outputs active for a sample"
        )
        if quality:
            print(quality_table(quality, KS, popular))
    return 0 if stop.signum is None else 128 + stop.signum


def _check_destination(path):
    """Refuse, before hours of training, a place where the network could not be saved."""
    if path.exists() and not (path / checkpoint.MANIFEST).is_file():
        raise FileExistsError(f"{path} exists and is not a saved network; choose another name or remove it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{folder} is not a folder that can be written to; {path} could not be saved there"
        )


def _training_data(args):
    """The training set and, where there is one, the test set."""
    if args.train is None:
        train, test = make_extreme(**SYNTHETIC)
        log.info("no training file given: training on synthetic data (slide.data.make_extreme)")
        return train, test
    train = load(args.train, args)
    test = None
    if args.test is not None:
        test = load_as(args.test, args, train.n_features, train.n_labels, "the training data")
    return train, test


def _check_memory(data, config):
    """Refuse a network that is clearly larger than the memory this machine has left."""
    batch = BatchShape.of(data.X, data.Y, config.training.batch_size)
    needs = Network.bytes_needed(data.n_features, data.n_labels, config.network, batch=batch)
    if config.training.keeps_best:
        units = [layer.units for layer in config.network.hidden]
        needs["copy of the best weights"] = 4 * n_parameters([data.n_features, *units, data.n_labels])
    log.info("the network takes %s", arithmetic(needs, resident(needs, config.network.hugepages)))
    check_fit(needs, config.network.hugepages)


def _course(history, training):
    """What was best, whose weights the network has, and whether the run ended before its time."""
    quality = f"{training.monitor} {history.best_quality[training.monitor]:.1%} in validation"
    kept = "; its weights are kept" if training.keeps_best else ""
    ended = "; stopped, out of patience" if history.out_of_patience else ""
    return f"best epoch: {history.best_epoch} of {len(history.epochs)}, {quality}{kept}{ended}"


def _popular_baseline(train, test):
    """The quality of always predicting the labels most frequent in training."""
    counts = np.zeros(max(train.n_labels, max(KS)))
    counts[: train.n_labels] = column_counts(train.Y)
    popular = np.argsort(-counts, kind="stable")[: max(KS)]
    popular[popular >= train.n_labels] = -1
    return metrics.evaluate_topk(np.tile(popular, (test.n_points, 1)), test.Y, KS)


def _training_report(network, history, progress, quality, popular, path):
    """What ``slide train --json`` prints."""
    # ru_maxrss counts KiB, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        **{f"P@{k}": None for k in KS},
        **quality,
        "popular": popular,
        "train_seconds": history.train_seconds,
        "ms_per_batch": history.ms_per_batch,
        "rehash_share": history.rehash_share,
        "samples_per_second": progress.samples / history.train_seconds,
        "active_per_sample": history.active_per_sample,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "batches": history.batches,
        "epochs": len(history.epochs),
        "loss": history.epochs[-1].loss,
        "stopped": history.stopped,
        "out_of_patience": history.out_of_patience,
        "best_epoch": history.best_epoch,
        "best_quality": history.best_quality,
        "threads": network.threads,
        "seed": network.config.seed,
        "model": str(path),
    }


class _StopSignals:
    """While in use, the first SIGINT or SIGTERM is only noted, in `signum`; the next acts as ever."""

    def __init__(self):
        self.signum = None
        self._former = {}

    def __enter__(self):
        # Python allows handlers in the main thread only; elsewhere signals are someone else's.
        if threading.current_thread() is threading.main_thread():
            self._former = {
                number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *exception):
        self._restore()

    def _note(self, signum, frame):
        self.signum = signum
        self._restore()

    def _restore(self):
        while self._former:
            signal.signal(*self._former.popitem())


def _run_config(args):
    """The defaults, changed by the configuration file, changed by the options."""
    config = RunConfig() if args.config is None else RunConfig.from_toml(args.config)
    values = to_dict(config)
    for option, path in SETTINGS.items():
        value = getattr(args, option)
        if value is not None:
            section, name = find_setting(values, path)
            section[name] = _with_units(section[name], value) if option == "hidden" else value
    return from_dict(RunConfig, values)


def _with_units(layers, units):
    """The hidden layers with these numbers of units; default ones if there are not as many layers as numbers."""
    if len(layers) != len(units):
        layers = [{}] * len(units)
    return [{**layer, "units": n} for layer, n in zip(layers, units, strict=True)]
