"""The ``slide`` command: its arguments, its errors and its exit status.

Results go to standard output, everything else to standard error. The exit status is 0, or 1 after an error, 2
after a wrong command line, and 128 + n after signal n.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from slide.commands import (
    HOLDOUT,
    K_NEIGHBOURS,
    SETTINGS,
    SHARE,
    ZERO_BASED,
    evaluate,
    find_setting,
    info,
    predict,
    train,
    tune,
)
from slide.config import CANDIDATES, SCHEDULES, UPDATES, RunConfig
from slide.console import logging_to_stderr
from slide.data.readers import FORMATS
from slide.hugepages.commands import main as hugepages
from slide.info import __version__
from slide.kernels.rows import PRECISIONS
from slide.search import MODES
from slide.settings import to_dict


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        The exit status.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["hugepages"]:
        # It has commands and options of its own, and reports its own errors.
        return hugepages(argv[1:], "slide hugepages")
    parser = _parser()
    args = parser.parse_args(argv)
    if args.run is None:
        parser.print_help(sys.stderr)
        return 2
    if args.run is train and args.test is not None and args.train is None:
        parser.error("--test needs the training data too: slide train TRAIN --test FILE")
    if args.run is info and args.index and args.model is None:
        parser.error("--index needs a saved network: slide info MODEL --index")
    if args.run in (evaluate, predict) and args.neighbours is None:
        for option in ("share", "k_neighbours"):
            if getattr(args, option) is not None:
                parser.error(f"--{option.replace('_', '-')} needs the neighbours too: --neighbours TRAIN")
    if args.run is predict:
        if args.mode == "exact" and args.candidates is not None:
            parser.error("--candidates needs a mode that proposes some: --mode sketch")
        if args.mode != "exact" and args.neighbours is not None:
            parser.error("a mixture with neighbours scores every label: it takes no --mode")
    try:
        with logging_to_stderr():
            status = args.run(args)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # The reader has had what it wanted. Python flushes once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("slide: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        print(f"slide: error: {_message(error)}", file=sys.stderr)
        return 1


def _message(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or "out of memory"


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults; those of settings are in the configuration."""

    def _get_help_string(self, action):
        if action.dest in SETTINGS:
            section, name = find_setting(to_dict(RunConfig()), SETTINGS[action.dest])
            value = section.get(name, "none")
            if isinstance(value, list):
                value = ",".join(str(layer["units"]) for layer in value)
            return f"{action.help} (default: {value})"
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def _positive(text):
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _share(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def _list(text):
    return tuple(_positive(part) for part in text.split(","))


def _depths(text):
    return tuple(sorted(set(_list(text))))


def _parser():
    parser = argparse.ArgumentParser(
        prog="slide",
        description="Train and use neural networks with 100,000 to millions of outputs on ordinary CPUs.",
        epilog="slide COMMAND --help describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"slide {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_info(commands)
    _add_tune(commands)
    commands.add_parser("hugepages", help="show what memory pages this system gives, and what they are worth")
    return parser


def _add_command(commands, run, summary, description=""):
    """Add the parser of a command, which is named after the function that runs it."""
    parser = commands.add_parser(
        run.__name__,
        help=summary,
        description=description or f"{summary.capitalize()}.",
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_train(commands):
    parser = _add_command(
        commands,
        train,
        "train a network and save it",
        "Train a network and save it. Options override the configuration file, which overrides the defaults. "
        "Ctrl-C ends training after the batch and saves what was learnt.",
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
    _add_reading(data)
    _add_masking(data)
    run = parser.add_argument_group("run")
    run.add_argument("--config", metavar="FILE", type=Path, help="settings, as TOML")
    run.add_argument(
        "--out", metavar="MODEL", type=Path, default=Path("slide-model"), help="folder to save the network in"
    )
    _add_threads(run)
    _add_json(run)
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
        "--hidden", metavar="N[,N...]", type=_list, help="units of each hidden layer, from the features upward"
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


def _add_evaluate(commands):
    parser = _add_command(commands, evaluate, "measure a saved network's quality")
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a saved network")
    parser.add_argument("test", metavar="TEST", type=Path, help="data to measure quality on")
    parser.add_argument(
        "--train", metavar="FILE", type=Path, help="training data, of whose labels PSP takes the propensities"
    )
    parser.add_argument("--k", metavar="K,K", type=_depths, default="1,3,5", help="depths to measure at")
    _add_neighbours(parser)
    _add_reading(parser)
    _add_masking(parser)
    _add_threads(parser)
    _add_json(parser)


def _add_predict(commands):
    parser = _add_command(commands, predict, "write the best labels of each point")
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a saved network")
    parser.add_argument("input", metavar="INPUT", type=Path, help="data, with or without labels")
    parser.add_argument("--k", metavar="K", type=_positive, default=5, help="labels for each point")
    parser.add_argument("--output", metavar="FILE", default="-", help="file to write, - for standard output")
    parser.add_argument(
        "--output-format",
        choices=("tsv", "jsonl"),
        default="tsv",
        help="a line for each point: label:score with tabs between, or a JSON object with labels and scores",
    )
    search = parser.add_argument_group("search")
    search.add_argument(
        "--mode",
        choices=MODES,
        default="exact",
        help="score every label, or those that a sketch of all labels or hash tables propose, built before the start",
    )
    search.add_argument(
        "--candidates", metavar="N", type=_positive, help="labels proposed for each point, in a mode other than exact"
    )
    search.add_argument(
        "--profile", action="store_true", help="report on standard error how long single points take to predict"
    )
    _add_neighbours(parser)
    _add_reading(parser)
    _add_masking(parser)
    _add_threads(parser)


def _add_info(commands):
    parser = _add_command(commands, info, "describe a saved network or, without one, this installation")
    parser.add_argument("model", metavar="MODEL", nargs="?", type=Path, help="folder of a saved network")
    index = parser.add_argument_group("hash tables")
    index.add_argument("--index", action="store_true", help="build the hash tables and measure what they find")
    index.add_argument("--data", metavar="FILE", type=Path, help="points to look up; random ones without it")
    _add_top(index)
    _add_reading(index)
    _add_threads(index)
    _add_json(parser)


def _add_tune(commands):
    parser = _add_command(
        commands,
        tune,
        "search for the hash tables that suit a saved network",
        "Search for the hash family, the numbers of codes and tables, the sampling policy and the budget that find the "
        "most of a layer's best neurons for their time, and print the settings to train with.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a saved network")
    parser.add_argument("data", metavar="DATA", type=Path, help="points to look up, such as the training data")
    parser.add_argument("--layer", metavar="NAME", default="output", help="output, hidden.0, hidden.1, ...")
    parser.add_argument("--time", metavar="S", type=float, default=60.0, help="seconds to search for")
    parser.add_argument(
        "--recall", metavar="X", type=float, default=0.9, help="share of the best neurons that should be found"
    )
    parser.add_argument("--toml", metavar="FILE", type=Path, help="write the settings there")
    _add_top(parser)
    _add_reading(parser)
    _add_threads(parser)
    _add_json(parser)


def _add_top(parser):
    parser.add_argument("--top", metavar="N", type=_positive, default=10, help="best neurons to be found for a point")


def _add_neighbours(parser):
    group = parser.add_argument_group("mixture with nearest neighbours, whose scores are probabilities")
    group.add_argument(
        "--neighbours", metavar="TRAIN", type=Path, help="training data, of which a point's nearest vote for labels"
    )
    group.add_argument(
        "--share", metavar="X", type=_share, help=f"of the neighbours, from 0 to 1 (default: {SHARE:g})"
    )
    group.add_argument(
        "--k-neighbours", metavar="N", type=_positive, help=f"neighbours that vote (default: {K_NEIGHBOURS})"
    )


def _add_reading(parser):
    parser.add_argument("--format", choices=FORMATS, default="auto", help="format of the data")
    parser.add_argument(
        "--zero-based", choices=ZERO_BASED, default="auto", help="whether svmlight's feature ids count from 0"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="neither use nor keep a parsed copy of the data"
    )


def _add_masking(parser):
    parser.add_argument(
        "--mask-inputs",
        action="store_true",
        help="never predict a label whose id is one of the point's features",
    )


def _add_threads(parser):
    parser.add_argument(
        "--threads", metavar="N", type=_positive, help="threads to run on (default: all cores)"
    )


def _add_json(parser):
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, in which metrics are fractions of 1"
    )
