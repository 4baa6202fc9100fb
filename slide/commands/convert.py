"""``slide convert``: turn a file of data into a folder that is mapped into memory instead of being read."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from slide.commands.console import PiecesDisplay, log
from slide.commands.options import ZERO_BASED, add_command, add_format, add_json
from slide.data import convert, load, verify
from slide.files.fields import as_json


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(
        commands,
        "convert",
        execute,
        "turn data into a folder that is mapped into memory",
        "Turn a file of data into a folder that every command maps into memory instead of reading it, so that data may "
        "be larger than memory. An existing folder is replaced once the new one is complete.",
        _check,
    )
    parser.add_argument("source", metavar="INPUT", type=Path, help="data in any format; with --verify, such a folder")
    parser.add_argument("target", metavar="OUTPUT", nargs="?", type=Path, help="folder to write")
    parser.add_argument(
        "--verify", action="store_true", help="convert nothing; read all of a folder and compare its digests"
    )
    add_format(parser)
    for what in ("features", "labels"):
        parser.add_argument(
            f"--n-{what}", metavar="N", type=int, help=f"number of {what}, if the file does not state it"
        )
    add_json(parser)


def _check(args: argparse.Namespace) -> str | None:
    if (args.target is None) != args.verify:
        return "convert needs an INPUT and an OUTPUT: slide convert train.txt train; --verify takes a folder alone"
    return None


def execute(args: argparse.Namespace) -> int:
    """Write the folder, or verify one."""
    if args.verify:
        verify(args.source)
        log.info("%s is as it was written", args.source)
        folder = args.source
    else:
        log.info("converting %s", args.source)
        with _ending_on_sigterm(), PiecesDisplay() as display:
            convert(
                args.source,
                args.target,
                format=args.format,
                n_features=args.n_features,
                n_labels=args.n_labels,
                zero_based=ZERO_BASED[args.zero_based],
                on_piece=display.piece_done,
            )
        folder = args.target
    data = load(folder)
    if args.json:
        sizes = ("n_points", "n_features", "n_labels")
        report = {name: getattr(data, name) for name in sizes} | {"values": data.X.nnz, "labels_of_points": data.Y.nnz}
        print(as_json(report | {"folder": str(folder)}))
    else:
        print(f"{data!r} in {folder}")
    return 0


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block like an error, so that unfinished files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
