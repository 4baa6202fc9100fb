"""``slide import-reference``: make a network from weights that the C++ program saved."""

from __future__ import annotations

import argparse
from pathlib import Path

from slide import reference
from slide.commands.console import log
from slide.commands.options import add_command, add_threads, positive
from slide.commands.training_run import check_destination
from slide.reference.weights import load_weights


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(
        commands,
        "import-reference",
        execute,
        "make a network from weights that the authors' C++ program saved",
        check=_check,
    )
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help=".npz file that the program saved")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="configuration of the program (.csv), for the network's settings"
    )
    parser.add_argument(
        "--out", metavar="MODEL", type=Path, default=Path("slide-model"), help="folder to save the network in"
    )
    parser.add_argument("--moments", action="store_true", help="take over Adam's moments too, to train on")
    parser.add_argument(
        "--step",
        metavar="N",
        type=positive,
        help="number of batches trained on before, with --moments (default: all that --config plans)",
    )
    add_threads(parser)


def _check(args: argparse.Namespace) -> str | None:
    if args.step is not None and not args.moments:
        return "--step says how many batches the moments are from: it needs --moments"
    if args.moments and args.step is None and args.config is None:
        return "--moments needs the number of batches trained on: --step N, or --config FILE"
    return None


def execute(args: argparse.Namespace) -> int:
    """Make the network and save it."""
    check_destination(args.out)
    settings = None if args.config is None else reference.read(args.config)
    network = load_weights(args.weights, settings, moments=args.moments, step=args.step, threads=args.threads)
    log.info(
        "%s: the biases are those from before training; the C++ program does not save the trained ones",
        args.weights,
    )
    network.save(args.out, moments=args.moments)
    print(f"{network!r} in {args.out}")
    return 0
