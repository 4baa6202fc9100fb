"""The run of ``slide train``, in one process or on several ranks: read, train, save, measure, report."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from slide import metrics
from slide.commands.console import log, quality_table
from slide.commands.inputs import load, load_as
from slide.commands.options import SETTINGS, find_setting
from slide.commands.reference_run import read_reference, reference_data
from slide.config import RunConfig, TrainingConfig
from slide.config.dicts import from_dict, to_dict
from slide.data import Dataset, make_extreme
from slide.data.statistics import column_counts
from slide.files.fields import as_json
from slide.model.base import BaseNetwork
from slide.model.footprint import BatchShape
from slide.network import Network
from slide.persist import saved_network
from slide.persist.format import HISTORY, ONE_FILE
from slide.runs import plots
from slide.runs.display import TrainingDisplay
from slide.runs.history import HistoryFile, read_history
from slide.runs.tensorboard import TensorBoard
from slide.system.info import peak_rss_bytes
from slide.system.memory import arithmetic, check_fit, resident
from slide.train.callbacks import Callback
from slide.train.checkpoints import Checkpoints, SavedRun
from slide.train.feed import training_needs
from slide.train.interrupts import StopSignals
from slide.train.records import History

T = TypeVar("T")

KS = (1, 3, 5)
"""Depths at which a run reports quality."""

HOLDOUT = 0.1
"""Share of the training samples that is held out where quality decides something and nothing else is said."""

WORTH_A_SUM = 1 << 28
"""Bytes from which on the log says what takes them."""

MODEL = "slide-model"
"""Where the network is saved if nothing else is said."""

CHECKPOINTS = ".checkpoints"
"""What the folder of a run's checkpoints is called, after the network's name."""

SYNTHETIC = {
    "n_samples": 100_000,
    "n_features": 50_000,
    "n_labels": 100_000,
    "noise": 0.5,
    "test_samples": 5_000,
}
"""Data to train on where none is given: about a minute on two cores."""


class Alone:
    """One process, which makes a run by itself; `slide.commands.distributed_run.OnRanks` is its counterpart."""

    leads = True
    """Whether this process logs, prints and writes for all."""

    def on_root(self, call: Callable[[], T]) -> T:
        """Return what a call returns on the process that leads; what it raises is raised everywhere."""
        return call()

    def bcast(self, value: T) -> T:
        """Return the value of the process that leads."""
        return value

    def saved_run(self, args: argparse.Namespace) -> SavedRun | None:
        """Return the run to be resumed, if there is one."""
        return None if args.resume is None else SavedRun(args.resume)

    def read(self, call: Callable[[], T]) -> T:
        """Return what a call reads."""
        return call()

    def own(self, data: Dataset, config: TrainingConfig) -> Dataset:
        """Return the samples that this process trains on."""
        return data

    def make_network(self, data: Dataset, config: RunConfig, threads: int | None) -> Network:
        """Return the network, or raise MemoryError if it is clearly larger than the memory that this machine has left."""
        _check_memory(data, config)
        return Network(data.n_features, data.n_labels, config.network, threads=threads)

    def describe(self, network: BaseNetwork) -> str:
        """Return in words what computes."""
        return f"threads: {network.threads}"

    def fit(self, network: Network, X, Y, **options) -> History:
        """Train."""
        return network.fit(X, Y, **options)

    def trained(self, history: History, checkpoints: Checkpoints) -> None:
        """Log what is special about the end of a run."""

    def save(self, network: Network, path: Path, beside: dict[str, bytes]) -> None:
        """Save what was learnt or, where that fails, save it elsewhere before saying so."""
        try:
            network.save(path, beside=beside)
        except OSError as error:
            rescue = Path(tempfile.mkdtemp(prefix="slide-rescue.")) / path.name
            try:
                network.save(rescue, beside=beside)
            except OSError:
                shutil.rmtree(rescue.parent, ignore_errors=True)
                raise error from None
            raise OSError(error.errno, f"{error.strerror}. What was learnt is in {rescue}", str(path)) from error


def train_and_save(args: argparse.Namespace, group: Alone) -> int:
    """Train a network, save it and measure its quality; return 128 + n if signal n ended the training.

    The test set decides nothing: where quality does, it is measured on training samples that are held out.

    Parameters
    ----------
    args : Namespace
        Options of ``slide train``.
    group : Alone or OnRanks
        The processes that make the run.
    """
    settings = read_reference(args)
    saved = group.saved_run(args)
    config = run_config(args, settings, saved)
    if saved is not None:
        saved.check_config(config.network, config.training)
    path = args.out or destination(args.resume)
    checkpoints = Checkpoints(path.with_name(path.name + CHECKPOINTS), every=args.checkpoint_every, keep=args.keep)
    callbacks = group.on_root(lambda: _prepare(args, settings, path, checkpoints, saved)) or []
    data, test = group.read(lambda: training_data(args) if settings is None else reference_data(args, settings))
    counts, n_samples, name = column_counts(data.Y), data.n_samples, repr(data)
    data = group.own(data, config.training)
    network = group.make_network(data, config, args.threads)
    log.info("training on %s, %s", name, group.describe(network))
    if saved is not None:
        log.info("going on from %s, batch %s", saved.path, f"{saved.batch:,}")
    display = TrainingDisplay("validation" if config.training.holdout else "test", config.training.monitor)
    with StopSignals() as stop:
        history = group.fit(
            network,
            data.X,
            data.Y,
            config=config.training,
            validation=None if test is None or config.training.holdout else (test.X, test.Y),
            mask_inputs=args.mask_inputs,
            callbacks=[*callbacks, display, stop],
            checkpoints=checkpoints,
            resume=None if saved is None else saved.path,
        )
    signum = group.bcast(stop.signum)
    if signum is not None and group.leads:
        signal_name = signal.Signals(signum).name
        log.warning("stopped by %s after %s batches; saving what was learnt", signal_name, f"{history.batches:,}")
    if config.training.needs_validation and history.best_epoch is not None:
        log.info("%s", course(history, config.training))
    group.trained(history, checkpoints)
    group.save(network, path, beside(callbacks[0].path, path) if callbacks else {})
    log.info("saved %r in %s", network, path)
    if history.stopped and checkpoints.latest is not None:
        log.info("the run goes on with the same command and --resume %s", checkpoints.folder)
    quality: dict[str, float] = {}
    if test is not None and signum is None:
        log.info("evaluating on %r", test)
        inv_propensity = metrics.inverse_propensities(counts, n_samples) if n_samples >= 3 else None
        quality = network.evaluate(
            test.X, test.Y, ks=KS, inv_propensity=inv_propensity, mask_inputs=args.mask_inputs
        )
    group.on_root(lambda: _finish(args, network, history, display, callbacks, quality, counts, test, path))
    return 0 if signum is None else 128 + signum


def _prepare(args, settings, path: Path, checkpoints: Checkpoints, saved: SavedRun | None) -> list[Callback]:
    """Check, before hours of training, where things are to go; return what follows the run, the history first."""
    check_destination(path, args.tensorboard)
    if args.plot is not None:
        plots.check(args.plot)
    checkpoints.begin(saved)
    history = HistoryFile(history_of(path), data=data_names(args, settings))
    return [history] if args.tensorboard is None else [history, TensorBoard(args.tensorboard)]


def _finish(args, network, history, display, callbacks, quality, counts, test, path) -> None:
    """Note the quality in the history, print what the run has come to, and draw its curves."""
    popular = None
    if quality:
        callbacks[0].tested(quality, test.n_samples)
        popular = None if args.mask_inputs else popular_baseline(counts, test)
    report(args, network, history, display.progress, quality, popular, path)
    if args.plot is not None:
        plots.draw([read_history(callbacks[0].path)], args.plot)
        log.info("drew %s", args.plot)


def report(args, network, history, progress, quality, popular, path):
    """Print what a run has come to."""
    if args.json:
        print(as_json(_training_report(network, history, progress, quality, popular, path)))
        return
    rehashing = f", {history.rehash_share:.0%} of it rehashing" if history.rehash_seconds else ""
    print(
        f"{history.batches:,} batches in {history.train_seconds:.1f} s, "
        f"{history.ms_per_batch:.2f} ms each{rehashing}\n"
        f"{history.active_per_sample:,.0f} of {network.n_labels:,} outputs active for a sample"
    )
    if quality:
        print(quality_table(quality, KS, popular))


def _training_report(network, history, progress, quality, popular, path):
    """What ``slide train --json`` prints."""
    return {
        **{f"P@{k}": None for k in KS},
        **quality,
        "popular": popular,
        "train_seconds": history.train_seconds,
        "ms_per_batch": history.ms_per_batch,
        "rehash_share": history.rehash_share,
        "samples_per_second": progress.samples / history.train_seconds,
        "active_per_sample": history.active_per_sample,
        "peak_rss_bytes": peak_rss_bytes(),
        "bytes_per_batch": history.bytes_per_batch,
        "batches": history.batches,
        "skipped": history.skipped,
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


def check_destination(path, tensorboard=None):
    """Refuse, before hours of training, a place where the network could not be saved."""
    if tensorboard is not None and tensorboard.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"--tensorboard {tensorboard} is in the folder {path}, which saving replaces; choose another")
    saved_network.check_destination(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{folder} is not a folder that can be written to; {path} could not be saved there"
        )


def training_data(args):
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


def data_names(args, settings):
    """The names of the data, for the history: files without their folders."""
    files = {"train": args.train, "test": args.test}
    if settings is not None:
        files = {"train": args.train or settings.train, "test": args.test or settings.test}
    return {what: path.name for what, path in files.items() if path is not None} or {"train": "synthetic"}


def history_of(path: Path) -> Path:
    """Return where the history of a run goes: into the network's folder or, where it is one file, next to that.

    Parameters
    ----------
    path : Path
        Of the network.
    """
    if path.suffix == ONE_FILE:
        return path.with_name(f"{path.name}.{HISTORY}")
    return path / HISTORY


def beside(history, path):
    """What is saved in the network's folder: the history, if nobody has taken it away meanwhile."""
    if history.parent != path:
        return {}
    try:
        return {HISTORY: history.read_bytes()}
    except OSError as error:
        log.warning("%s: %s; the network is saved without its history", history, error.strerror)
        return {}


def _check_memory(data, config):
    """Refuse a network that is clearly larger than the memory this machine has left."""
    batch = BatchShape.of(data.X, data.Y, config.training.batch_size)
    needs = training_needs(data.n_features, data.n_labels, config.network, config.training, batch)
    total = resident(needs, config.network.hugepages)
    log.info("the network takes %s", arithmetic(needs, total) if total >= WORTH_A_SUM else f"{total / 2**20:.0f} MiB")
    check_fit(needs, config.network.hugepages)


def course(history, training):
    """What was best, whose weights the network has, and whether the run ended before its time."""
    quality = f"{training.monitor} {history.best_quality[training.monitor]:.1%} in validation"
    kept = "; its weights are kept" if training.keeps_best else ""
    ended = "; stopped, out of patience" if history.out_of_patience else ""
    return f"best epoch: {history.best_epoch} of {len(history.epochs)}, {quality}{kept}{ended}"


def popular_baseline(frequent, test):
    """The quality of always predicting the labels most frequent in training, of which these are the counts."""
    n_labels = len(frequent)
    counts = np.zeros(max(n_labels, max(KS)))
    counts[:n_labels] = frequent
    popular = np.argsort(-counts, kind="stable")[: max(KS)]
    popular[popular >= n_labels] = -1
    return metrics.evaluate_topk(np.tile(popular, (test.n_samples, 1)), test.Y, KS)


def destination(resume):
    """Where the network goes if nothing is said: where it would have gone before the run was interrupted."""
    for folder in () if resume is None else (resume.absolute(), resume.absolute().parent):
        if folder.name.endswith(CHECKPOINTS) and folder.name != CHECKPOINTS:
            return folder.with_name(folder.name.removesuffix(CHECKPOINTS))
    return Path(MODEL)


def run_config(args, settings, saved):
    """What a configuration file of either kind, the run to be resumed or else the defaults say, changed by options.

    Where quality decides something, samples to measure it on are held out.
    """
    config = _configured(args, settings, saved)
    if not config.training.needs_validation or config.training.holdout:
        return config
    log.info(
        "no holdout given: %s of the training samples, at most %s, are set aside to follow quality on",
        f"{HOLDOUT:.0%}",
        f"{config.training.eval_points:,}",
    )
    return replace(config, training=replace(config.training, holdout=HOLDOUT))


def _configured(args, settings, saved):
    if settings is not None:
        config = settings.config
    elif args.config is not None:
        config = RunConfig.from_toml(args.config)
    else:
        config = RunConfig() if saved is None else RunConfig(saved.network, saved.training)
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
