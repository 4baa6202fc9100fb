"""``slide train``: train a network, save it and measure its quality."""

from __future__ import annotations

import argparse
from pathlib import Path

from slide.commands import distributed_run, training_run
from slide.commands.options import (
    add_command,
    add_json,
    add_masking,
    add_reading,
    add_threads,
    positive,
    positive_list,
    share,
)
from slide.commands.training_run import HOLDOUT, MODEL
from slide.config import CANDIDATES, FAULTS, SCHEDULES, UPDATES
from slide.kernels.rows import PRECISIONS


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(
        commands,
        "train",
        execute,
        "train a network and save it",
        "Train a network and save it. Options override the configuration file, which overrides the defaults. "
        "Ctrl-C ends training after the current batch, and saves the network and a checkpoint from which --resume goes "
        "on.",
        _check,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "train",
        metavar="TRAIN",
        nargs="?",
        type=Path,
        help="training data (default: synthetic data)",
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
        help="settings and data as the authors' C++ program reads them (.csv); the log lists what is done differently",
    )
    course.add_argument(
        "--out", metavar="MODEL", type=Path, help=f"folder to save the network in (default: {MODEL})"
    )
    course.add_argument(
        "--checkpoint-every",
        metavar="N",
        type=positive,
        help="batches between two checkpoints in MODEL.checkpoints; the best epoch has one too",
    )
    course.add_argument("--keep", metavar="N", type=positive, default=2, help="number of newest checkpoints to keep")
    course.add_argument(
        "--resume",
        metavar="FOLDER",
        type=Path,
        help="checkpoint, or folder of checkpoints, to go on from; with the same data and settings, the weights are "
        "the same as without the interruption",
    )
    add_threads(course)
    course.add_argument("--plot", metavar="FILE.png", type=Path, help="figure of the curves, as slide plot draws it")
    course.add_argument("--tensorboard", metavar="FOLDER", type=Path, help="folder to write files for TensorBoard to")
    add_json(course)
    settings = parser.add_argument_group("settings")
    settings.add_argument("--epochs", metavar="N", type=int, help="passes over the data")
    settings.add_argument("--batch-size", metavar="N", type=int, help="samples per batch")
    settings.add_argument("--max-batches", metavar="N", type=int, help="number of batches after which to end the run")
    settings.add_argument("--lr", metavar="X", type=float, help="learning rate")
    settings.add_argument("--schedule", choices=SCHEDULES, help="how the learning rate falls over the run")
    settings.add_argument(
        "--warmup",
        metavar="X",
        type=float,
        help="batches over which the learning rate first rises; below 1, a share of the run's batches",
    )
    settings.add_argument(
        "--patience",
        metavar="N",
        type=int,
        help="number of epochs without improvement after which to end the run, with the best epoch's weights; measured "
        "on --holdout, never on the test data",
    )
    settings.add_argument(
        "--holdout",
        metavar="X",
        type=float,
        help=f"share of the training samples to set aside and measure quality on; {HOLDOUT} with --patience",
    )
    settings.add_argument(
        "--on-fault",
        choices=FAULTS,
        help="what to do about a batch whose numbers are NaN, infinite or about to overflow: end the run, or skip the "
        "batch",
    )
    settings.add_argument(
        "--hidden", metavar="N[,N...]", type=positive_list, help="units of each hidden layer, from the features upward"
    )
    settings.add_argument("--candidates", choices=CANDIDATES, help="which output neurons a sample computes")
    settings.add_argument(
        "--budget", metavar="N", type=int, help="neurons per sample from hash tables, for --candidates lsh..."
    )
    settings.add_argument(
        "--update", choices=UPDATES, help="how threads share a batch's gradients; hogwild: no locks, not reproducible"
    )
    settings.add_argument(
        "--precision", choices=PRECISIONS, help="type in which weights and the optimizer's moments are stored"
    )
    settings.add_argument("--seed", metavar="N", type=int, help="seed of everything random")

    ranks = parser.add_argument_group("ranks, which mpiexec starts: mpiexec -n 4 slide train ... --distributed")
    ranks.add_argument(
        "--distributed", action="store_true", help="train on all ranks, each with some of the labels and samples"
    )
    ranks.add_argument(
        "--label-shards", metavar="N", type=positive, help="shards of the output layer (default: one per rank)"
    )
    ranks.add_argument(
        "--data-shards", metavar="N", type=positive, help="replicas of each shard, on different samples (default: 1)"
    )
    ranks.add_argument(
        "--portions",
        "--shares",
        metavar="N",
        type=positive,
        help="portions that the samples are cut into, a multiple of the ranks (default: one per rank); runs with the "
        "same number have the same batches on any number of ranks, also after --resume",
    )
    ranks.add_argument(
        "--shard-features",
        action="store_true",
        help="cut the rows of the first hidden layer into shards too, for one more exchange in each step",
    )
    ranks.add_argument(
        "--average-every",
        metavar="N",
        type=positive,
        help="batches after which replicas average their weights, instead of gradients in each: for slow connections",
    )
    ranks.add_argument(
        "--keep-rows",
        metavar="X",
        type=share,
        help="share of the touched rows whose gradients replicas send in a batch; the others follow later: for slow "
        "connections",
    )


def _check(args: argparse.Namespace) -> str | None:
    if not args.distributed:
        if args.shard_features:
            return "--shard-features needs --distributed too, with ranks that mpiexec -n N starts"
        for option in ("label_shards", "data_shards", "portions", "average_every", "keep_rows"):
            if getattr(args, option) is not None:
                return f"--{option.replace('_', '-')} needs --distributed too, with ranks that mpiexec -n N starts"
    if args.reference_config is not None:
        return "--config and --reference-config exclude each other" if args.config is not None else None
    if args.test is not None and args.train is None:
        return "--test needs the training data too: slide train TRAIN --test FILE"
    return None


def execute(args: argparse.Namespace) -> int:
    """Train a network, save it and measure its quality; return 128 + n if signal n ended the training."""
    if args.distributed:
        return distributed_run.execute(args)
    return training_run.train_and_save(args, training_run.Alone())
