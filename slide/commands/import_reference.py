"""``slide import-reference``: make a network of weights that the C++ program saved."""

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
        "make a network of weights that the authors' C++ program saved",
        check=_check,
    )
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="what the program saved, an .npz file")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="the program's configuration (.csv), for the network's settings"
    )
    parser.add_argument(
        "--out", metavar="MODEL", type=Path, default=Path("slide-model"), help="folder to save the network in"
    )
    parser.add_argument("--moments", action="store_true", help="take over Adam's moments too, to train on in Python")
    parser.add_argument(
        "--step", metavar="N", type=positive, help="batches behind the moments (default: all that --config plans)"
    )
    add_threads(parser)


def _check(args):
    if args.step is not None and not args.moments:
        return "--step is the age of the moments: it needs --moments"
    if args.moments and args.step is None and args.config is None:
        return "--moments needs their age too: --config FILE, or --step N"
    return None


def execute(args: argparse.Namespace) -> int:
    """Save the network."""
    check_destination(args.out)
    settings = None if args.config is None else reference.read(args.config)
    network = load_weights(args.weights, settings, moments=args.moments, step=args.step, threads=args.threads)
    log.info(
        "%s: the biases are those that its training began with, since the reference does not save the trained ones",
        args.weights,
    )
    network.save(args.out, moments=args.moments)
    print(f"{network!r} in {args.out}")
    return 0
