"""The run of ``slide train``, in one process or on several ranks: reads, trains, saves, measures, reports."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
from slide.model.footprint import BatchShape
from slide.network import Network
from slide.persist import saved_network
from slide.persist.format import HISTORY, ONE_FILE
from slide.ranks.network import DistributedNetwork
from slide.reference import Reference
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
N = TypeVar("N", Network, DistributedNetwork)

KS = (1, 3, 5)
"""Depths at which a run reports quality."""

HOLDOUT = 0.1
"""Default share of the training samples to hold out where quality decides something."""

WORTH_A_SUM = 1 << 28
"""Smallest network, in bytes, whose memory the log lists part by part."""

MODEL = "slide-model"
"""Default folder to save the network in."""

CHECKPOINTS = ".checkpoints"
"""End of the name of a run's folder of checkpoints; the beginning is the network's name."""

SYNTHETIC: dict[str, Any] = {
    "n_samples": 100_000,
    "n_features": 50_000,
    "n_labels": 100_000,
    "noise": 0.5,
    "test_samples": 5_000,
}
"""Data to train on where none is given: about a minute on two cores."""


class Group(Protocol[N]):
    """The processes that make a run together: `Alone`, or `slide.commands.distributed_run.OnRanks`.

    Attributes
    ----------
    leads : bool
        Whether this process logs, prints and writes for all.
    """

    leads: bool

    def on_root(self, call: Callable[[], T]) -> T | None:
        """Return the result of a call on the process that leads, None on the others; its exception is raised on all."""

    def bcast(self, value: T) -> T:
        """Return the value of the process that leads."""

    def saved_run(self, args: argparse.Namespace) -> SavedRun | None:
        """Return the run to be resumed, or None."""

    def read(self, call: Callable[[], T]) -> T:
        """Return the result of a call that reads data."""

    def own(self, data: Dataset, config: TrainingConfig) -> Dataset:
        """Return the samples that this process trains on."""

    def make_network(self, data: Dataset, config: RunConfig, threads: int | None) -> N:
        """Return the network, or this process's part of it."""

    def describe(self, network: N) -> str:
        """Return what computes, in words."""

    def fit(self, network: N, data: Dataset, **options: Any) -> History:
        """Train on the samples of ``own``; options as for `slide.Network.fit`."""

    def trained(self, history: History) -> None:
        """Log what only this kind of group has to report after training."""

    def save(self, network: N, path: Path, beside: dict[str, bytes]) -> None:
        """Save the network and the files beside it."""


class Alone(Group[Network]):
    """One process, which makes a run by itself."""

    leads = True

    def on_root(self, call: Callable[[], T]) -> T:
        """See `Group.on_root`."""
        return call()

    def bcast(self, value: T) -> T:
        """See `Group.bcast`."""
        return value

    def saved_run(self, args: argparse.Namespace) -> SavedRun | None:
        """See `Group.saved_run`."""
        return None if args.resume is None else SavedRun(args.resume)

    def read(self, call: Callable[[], T]) -> T:
        """See `Group.read`."""
        return call()

    def own(self, data: Dataset, config: TrainingConfig) -> Dataset:
        """See `Group.own`."""
        return data

    def make_network(self, data: Dataset, config: RunConfig, threads: int | None) -> Network:
        """See `Group.make_network`; raises MemoryError where the memory that is left is clearly too small."""
        _check_memory(data, config)
        return Network(data.n_features, data.n_labels, config.network, threads=threads)

    def describe(self, network: Network) -> str:
        """See `Group.describe`."""
        return f"threads: {network.threads}"

    def fit(self, network: Network, data: Dataset, **options: Any) -> History:
        """See `Group.fit`."""
        return network.fit(data.X, data.Y, **options)

    def trained(self, history: History) -> None:
        """See `Group.trained`."""

    def save(self, network: Network, path: Path, beside: dict[str, bytes]) -> None:
        """See `Group.save`; where that fails, the network is saved in a temporary folder, which the error names."""
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


def train_and_save(args: argparse.Namespace, group: Group[N]) -> int:
    """Train a network, save it and measure its quality; return 128 + n if signal n ended the training.

    `args` are the options of ``slide train``. The test set decides nothing: where quality decides something, it is
    measured on training samples that are held out.
    """
    settings = read_reference(args)
    saved = group.saved_run(args)
    config = run_config(args, settings, saved)
    if saved is not None:
        saved.check_config(config.network, config.training)
    path = args.out or destination(args.resume)
    checkpoints = Checkpoints(path.with_name(path.name + CHECKPOINTS), every=args.checkpoint_every, keep=args.keep)
    record = HistoryFile(history_of(path), data=data_names(args, settings))
    recorders: list[Callback] = group.on_root(lambda: _prepare(args, record, path, checkpoints, saved)) or []
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
            data,
            config=config.training,
            validation=None if test is None or config.training.holdout else (test.X, test.Y),
            mask_inputs=args.mask_inputs,
            callbacks=[*recorders, display, stop],
            checkpoints=checkpoints,
            resume=None if saved is None else saved.path,
        )
    signum = group.bcast(stop.signum)
    if signum is not None and group.leads:
        signal_name = signal.Signals(signum).name
        log.warning("stopped by %s after %s batches; saving what was learnt", signal_name, f"{history.batches:,}")
    if config.training.needs_validation and history.best_epoch is not None:
        log.info("%s", course(history, config.training))
    group.trained(history)
    group.save(network, path, beside(record.path, path) if group.leads else {})
    log.info("saved %r in %s", network, path)
    if history.stopped and checkpoints.latest is not None:
        log.info("the run goes on with the same command and --resume %s", checkpoints.folder)
    quality: dict[str, float] = {}
    if test is not None and signum is None:
        log.info("evaluating on %r", test)
        inv_propensity = metrics.known_propensities(counts, n_samples)
        quality = network.evaluate(
            test.X, test.Y, ks=KS, inv_propensity=inv_propensity, mask_inputs=args.mask_inputs
        )

    def finish() -> None:
        """Write the quality into the history, print the results, and draw the curves."""
        popular = None
        if test is not None and quality:
            record.tested(quality, test.n_samples)
            popular = None if args.mask_inputs else popular_baseline(counts, test)
        if args.json:
            print(as_json(_training_report(network, history, display, quality, popular, path)))
        else:
            _print_results(network, history, quality, popular)
        if args.plot is not None:
            plots.draw([read_history(record.path)], args.plot)
            log.info("drew %s", args.plot)

    group.on_root(finish)
    return 0 if signum is None else 128 + signum


def _prepare(
    args: argparse.Namespace, record: HistoryFile, path: Path, checkpoints: Checkpoints, saved: SavedRun | None
) -> list[Callback]:
    """Check, before hours of training, that all results can be written; return the callbacks that record the run."""
    check_destination(path, args.tensorboard)
    if args.plot is not None:
        plots.check(args.plot)
    checkpoints.begin(saved)
    return [record] if args.tensorboard is None else [record, TensorBoard(args.tensorboard)]


def _print_results(
    network: Network | DistributedNetwork,
    history: History,
    quality: dict[str, float],
    popular: dict[str, float] | None,
) -> None:
    rehashing = f", {history.rehash_share:.0%} of it rehashing" if history.rehash_seconds else ""
    print(
        f"{history.batches:,} batches in {history.train_seconds:.1f} s, "
        f"{history.ms_per_batch:.2f} ms each{rehashing}\n"
        f"{history.active_per_sample:,.0f} of {network.n_labels:,} outputs active for a sample"
    )
    if quality:
        print(quality_table(quality, KS, popular))


def _training_report(
    network: Network | DistributedNetwork,
    history: History,
    display: TrainingDisplay,
    quality: dict[str, float],
    popular: dict[str, float] | None,
    path: Path,
) -> dict[str, Any]:
    """Return the results that ``slide train --json`` prints."""
    assert display.progress is not None, "a run that has ended has started"
    return {
        **{f"P@{k}": None for k in KS},
        **quality,
        "popular": popular,
        "train_seconds": history.train_seconds,
        "ms_per_batch": history.ms_per_batch,
        "rehash_share": history.rehash_share,
        "samples_per_second": display.progress.samples / history.train_seconds,
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


def check_destination(path: Path, tensorboard: Path | None = None) -> None:
    """Refuse, before hours of training, a path where the network could not be saved.

    Raises
    ------
    ValueError
        The folder for TensorBoard is inside the network's.
    FileExistsError, PermissionError
        Something else is there, or the folder cannot be written to.
    """
    if tensorboard is not None and tensorboard.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"--tensorboard {tensorboard} is in the folder {path}, which saving replaces; choose another")
    saved_network.check_destination(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not a folder that can be written to; {path} could not be saved there")


def training_data(args: argparse.Namespace) -> tuple[Dataset, Dataset | None]:
    """Return the training set and, if there is one, the test set."""
    if args.train is None:
        train, test = make_extreme(**SYNTHETIC)
        log.info("no training file given: training on synthetic data (slide.data.make_extreme)")
        return train, test
    train = load(args.train, args)
    test = None
    if args.test is not None:
        test = load_as(args.test, args, train.n_features, train.n_labels, "the training data")
    return train, test


def data_names(args: argparse.Namespace, settings: Reference | None) -> dict[str, str]:
    """Return the names of the data for the history: files without their folders."""
    files = {"train": args.train, "test": args.test}
    if settings is not None:
        files = {"train": args.train or settings.train, "test": args.test or settings.test}
    return {what: path.name for what, path in files.items() if path is not None} or {"train": "synthetic"}


def history_of(path: Path) -> Path:
    """Return the path of a run's history: in the network's folder or, if the network is one file, next to that."""
    if path.suffix == ONE_FILE:
        return path.with_name(f"{path.name}.{HISTORY}")
    return path / HISTORY


def beside(history: Path, path: Path) -> dict[str, bytes]:
    """Return what is saved in the network's folder beside the network: the history, if it is still there."""
    if history.parent != path:
        return {}
    try:
        return {HISTORY: history.read_bytes()}
    except OSError as error:
        log.warning("%s: %s; the network is saved without its history", history, error.strerror)
        return {}


def _check_memory(data: Dataset, config: RunConfig) -> None:
    """Raise MemoryError for a network that is clearly larger than the memory that this machine has left."""
    batch = BatchShape.of(data.X, data.Y, config.training.batch_size)
    needs = training_needs(data.n_features, data.n_labels, config.network, config.training, batch)
    total = resident(needs, config.network.hugepages)
    log.info("the network takes %s", arithmetic(needs, total) if total >= WORTH_A_SUM else f"{total / 2**20:.0f} MiB")
    check_fit(needs, config.network.hugepages)


def course(history: History, training: TrainingConfig) -> str:
    """Return which epoch was best, whether the network has its weights, and whether the run ended early."""
    quality = f"{training.monitor} {history.best_quality[training.monitor]:.1%} in validation"
    kept = "; its weights are kept" if training.keeps_best else ""
    ended = "; stopped, out of patience" if history.out_of_patience else ""
    return f"best epoch: {history.best_epoch} of {len(history.epochs)}, {quality}{kept}{ended}"


def popular_baseline(uses: np.ndarray, test: Dataset) -> dict[str, float]:
    """Return the quality of always predicting the labels most used in training; `uses` counts each label's uses."""
    n_labels = len(uses)
    counts = np.zeros(max(n_labels, max(KS)))
    counts[:n_labels] = uses
    popular = np.argsort(-counts, kind="stable")[: max(KS)]
    popular[popular >= n_labels] = -1
    return metrics.evaluate_topk(np.tile(popular, (test.n_samples, 1)), test.Y, KS)


def destination(resume: Path | None) -> Path:
    """Return the default path of the network: with `resume`, the path that the interrupted run had."""
    for folder in () if resume is None else (resume.absolute(), resume.absolute().parent):
        if folder.name.endswith(CHECKPOINTS) and folder.name != CHECKPOINTS:
            return folder.with_name(folder.name.removesuffix(CHECKPOINTS))
    return Path(MODEL)


def run_config(args: argparse.Namespace, settings: Reference | None, saved: SavedRun | None) -> RunConfig:
    """Return the settings of a run.

    Options override those of a configuration file of either kind or of the run to be resumed, which override the
    defaults. Where quality decides something, some of the training samples are held out to measure it on.
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


def _configured(args: argparse.Namespace, settings: Reference | None, saved: SavedRun | None) -> RunConfig:
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


def _with_units(layers: list[dict[str, Any]], units: Sequence[int]) -> list[dict[str, Any]]:
    """Return the hidden layers with these numbers of units; default layers if the numbers of layers differ."""
    if len(layers) != len(units):
        layers = [{}] * len(units)
    return [{**layer, "units": n} for layer, n in zip(layers, units, strict=True)]
