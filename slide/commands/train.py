"""``slide train``: train a network, save it and measure its quality."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from slide import metrics
from slide.commands.console import log, quality_table
from slide.commands.inputs import load, load_as
from slide.commands.options import (
    SETTINGS,
    add_command,
    add_json,
    add_masking,
    add_reading,
    add_threads,
    find_setting,
    positive,
    positive_list,
    share,
)
from slide.commands.reference_run import read_reference, reference_data
from slide.config import CANDIDATES, FAULTS, SCHEDULES, UPDATES, RunConfig
from slide.config.dicts import from_dict, to_dict
from slide.data import make_extreme
from slide.data.statistics import column_counts
from slide.files.fields import as_json
from slide.kernels.rows import PRECISIONS
from slide.metrics import known_propensities
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
from slide.train.checkpoints import Checkpoints, SavedRun
from slide.train.feed import training_needs
from slide.train.interrupts import StopSignals

KS = (1, 3, 5)
"""Depths at which training reports quality."""

HOLDOUT = 0.1
"""Share of the training points that is held out where quality decides something and nothing else is said."""

WORTH_A_SUM = 1 << 28
"""Bytes from which on the log says what takes them."""

MODEL = "slide-model"
"""Where the network is saved if nothing else is said."""

CHECKPOINTS = ".checkpoints"
"""What the folder of a run's checkpoints is called, after the network's name."""

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
        "Ctrl-C ends training after the batch and saves what was learnt, and a checkpoint from which --resume goes on.",
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
        "--reference-config",
        metavar="FILE",
        type=Path,
        help="settings and data as the authors' C++ program reads them (.csv); what is done otherwise is logged",
    )
    course.add_argument(
        "--out", metavar="MODEL", type=Path, help=f"folder to save the network in (default: {MODEL})"
    )
    course.add_argument(
        "--checkpoint-every",
        metavar="N",
        type=positive,
        help="batches from one checkpoint in MODEL.checkpoints to the next; the best epoch has one too",
    )
    course.add_argument("--keep", metavar="N", type=positive, default=2, help="newest checkpoints that are kept")
    course.add_argument(
        "--resume",
        metavar="FOLDER",
        type=Path,
        help="go on from a checkpoint, or a folder's newest, to the same weights as without the interruption; with the "
        "same data, and the settings of that run",
    )
    add_threads(course)
    course.add_argument("--plot", metavar="FILE.png", type=Path, help="draw the run's curves, as slide plot does")
    course.add_argument("--tensorboard", metavar="FOLDER", type=Path, help="write what TensorBoard reads")
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
        "--on-fault",
        choices=FAULTS,
        help="what to do about a batch whose numbers are NaN, infinite or about to overflow: end the run, or leave the "
        "batch out",
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


    ranks = parser.add_argument_group("ranks, of a run that mpiexec starts: mpiexec -n 4 slide train ... --distributed")
    ranks.add_argument(
        "--distributed", action="store_true", help="train on all ranks together, each with a part of labels and points"
    )
    ranks.add_argument(
        "--label-shards", metavar="N", type=positive, help="parts of the output layer (default: one for each rank)"
    )
    ranks.add_argument(
        "--data-shards", metavar="N", type=positive, help="replicas of each part, on other points (default: 1)"
    )
    ranks.add_argument(
        "--shares",
        metavar="N",
        type=positive,
        help="parts that the points are cut into, a multiple of the ranks (default: one for each): runs with as many "
        "have the same batches on any number of ranks, also where they go on with --resume",
    )
    ranks.add_argument(
        "--shard-features",
        action="store_true",
        help="cut the rows of the first hidden layer into parts too, for an exchange more in each step",
    )
    ranks.add_argument(
        "--average-every",
        metavar="N",
        type=positive,
        help="batches after which replicas average their weights, in place of gradients in each: for slow networks",
    )
    ranks.add_argument(
        "--keep-rows",
        metavar="X",
        type=share,
        help="share of the touched rows whose gradients replicas send in a batch, the others later: for slow networks",
    )


def _check(args):
    if not args.distributed:
        if args.shard_features:
            return "--shard-features needs --distributed too, in a run that mpiexec -n N starts"
        for option in ("label_shards", "data_shards", "shares", "average_every", "keep_rows"):
            if getattr(args, option) is not None:
                return f"--{option.replace('_', '-')} needs --distributed too, in a run that mpiexec -n N starts"
    if args.reference_config is not None:
        return "--config and --reference-config exclude each other" if args.config is not None else None
    if args.test is not None and args.train is None:
        return "--test needs the training data too: slide train TRAIN --test FILE"
    return None


def run(args: argparse.Namespace) -> int:
    """Train a network, save it and measure its quality; return 128 + n if signal n ended the training.

    The test set decides nothing: where quality does, it is measured on training points that are held out.
    """
    if args.distributed:
        from slide.commands import distributed_run

        return distributed_run.run(args)
    saved = None if args.resume is None else SavedRun(args.resume)
    settings = read_reference(args)
    config = run_config(args, settings, saved)
    if saved is not None:
        saved.check_config(config.network, config.training)
    path = args.out or destination(args.resume)
    check_destination(path, args.tensorboard)
    if args.plot is not None:
        plots.check(args.plot)
    checkpoints = Checkpoints(path.with_name(path.name + CHECKPOINTS), every=args.checkpoint_every, keep=args.keep)
    checkpoints.begin(saved)
    history_file = HistoryFile(history_of(path), data=data_names(args, settings))
    callbacks = [history_file] if args.tensorboard is None else [history_file, TensorBoard(args.tensorboard)]
    data, test = training_data(args) if settings is None else reference_data(args, settings)
    _check_memory(data, config)
    network = Network(data.n_features, data.n_labels, config.network, threads=args.threads)
    log.info("training on %r, threads: %d", data, network.threads)
    if saved is not None:
        log.info("going on from %s, batch %s", saved.path, f"{saved.batch:,}")

    display = TrainingDisplay("validation" if config.training.holdout else "test", config.training.monitor)
    with StopSignals() as stop:
        history = network.fit(
            data.X,
            data.Y,
            config=config.training,
            validation=None if test is None or config.training.holdout else (test.X, test.Y),
            mask_inputs=args.mask_inputs,
            callbacks=[*callbacks, display, stop],
            checkpoints=checkpoints,
            resume=None if saved is None else saved.path,
        )
    if stop.signum is not None:
        name = signal.Signals(stop.signum).name
        log.warning("stopped by %s after %s batches; saving what was learnt", name, f"{history.batches:,}")
    if config.training.needs_validation and history.best_epoch is not None:
        log.info("%s", course(history, config.training))
    _save(network, path, beside(history_file.path, path))
    log.info("saved %r in %s", network, path)
    if history.stopped and checkpoints.latest is not None:
        log.info("the run goes on with the same command and --resume %s", checkpoints.folder)

    quality, popular = {}, None
    if test is not None and stop.signum is None:
        log.info("evaluating on %r", test)
        inv_propensity = known_propensities(data.Y)
        quality = network.evaluate(
            test.X, test.Y, ks=KS, inv_propensity=inv_propensity, mask_inputs=args.mask_inputs
        )
        history_file.tested(quality, test.n_points)
        if not args.mask_inputs:
            popular = popular_baseline(column_counts(data.Y), test)
    report(args, network, history, display.progress, quality, popular, path)
    if args.plot is not None:
        plots.draw([read_history(history_file.path)], args.plot)
        log.info("drew %s", args.plot)
    return 0 if stop.signum is None else 128 + stop.signum


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


def _save(network, path, beside):
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
    return metrics.evaluate_topk(np.tile(popular, (test.n_points, 1)), test.Y, KS)


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


def destination(resume):
    """Where the network goes if nothing is said: where it would have gone before the run was interrupted."""
    for folder in () if resume is None else (resume.absolute(), resume.absolute().parent):
        if folder.name.endswith(CHECKPOINTS) and folder.name != CHECKPOINTS:
            return folder.with_name(folder.name.removesuffix(CHECKPOINTS))
    return Path(MODEL)


def run_config(args, settings, saved):
    """What a configuration file of either kind, the run to be resumed or else the defaults say, changed by options.

    Where quality decides something, points to measure it on are held out.
    """
    config = _configured(args, settings, saved)
    if not config.training.needs_validation or config.training.holdout:
        return config
    log.info(
        "no holdout given: %s of the training points, at most %s, are set aside to follow quality on",
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
