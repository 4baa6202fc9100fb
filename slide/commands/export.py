"""``slide export``: write a saved network in another form."""

from __future__ import annotations

import argparse
from pathlib import Path

from slide.commands.console import log
from slide.commands.options import add_command
from slide.network import Network
from slide.persist.format import ONE_FILE
from slide.persist.vectors import save_output_matrix


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(
        commands,
        "export",
        execute,
        "write a saved network in another form",
        "Write a saved network in another form: as a safetensors file, or from one as a folder again; as a folder that "
        "opens at once, for serving; or its output layer as a plain matrix, for libraries of nearest-neighbour search.",
        _check,
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder or .safetensors file of a saved network")
    parser.add_argument(
        "out", metavar="OUT", nargs="?", type=Path, help="file to write, whose name ends in .safetensors, or folder"
    )
    parser.add_argument(
        "--serving", action="store_true", help="write rows as kernels read them, for Network.load(OUT, mmap=True)"
    )
    parser.add_argument(
        "--output-matrix",
        metavar="FILE",
        type=Path,
        help=".npy file to write the labels' weights to, with their biases in the last column; the mean of all rows is "
        "subtracted: searches need it, and no ranking depends on it",
    )
    parser.add_argument("--raw", action="store_true", help="do not subtract the mean from --output-matrix")


def _check(args: argparse.Namespace) -> str | None:
    if args.out is None and args.output_matrix is None:
        return "nothing to write: name OUT, or --output-matrix FILE"
    if args.raw and args.output_matrix is None:
        return "--raw is about the rows of --output-matrix FILE, which is missing"
    if args.serving and (args.out is None or args.out.suffix == ONE_FILE):
        return "--serving needs a folder to write: slide export MODEL OUT --serving"
    if args.out is not None and args.out.resolve() == args.model.resolve():
        return "OUT is MODEL itself; choose another name"
    return None


def execute(args: argparse.Namespace) -> int:
    """Write a saved network in another form."""
    network = Network.load(args.model)
    if args.out is not None:
        network.save(args.out, serving=args.serving)
        log.info("wrote %r in %s", network, args.out)
    if args.output_matrix is not None:
        save_output_matrix(network.layers, args.output_matrix, centred=not args.raw)
        log.info(
            "wrote %s: %s labels, %d weights and the bias of each",
            args.output_matrix,
            f"{network.n_labels:,}",
            network.output.table.dim,
        )
    return 0
