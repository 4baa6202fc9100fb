"""``slide plot``: the curves of training runs as a figure."""

from __future__ import annotations

import argparse
from pathlib import Path

from slide.commands.console import log
from slide.commands.options import add_command, add_runs
from slide.runs import plots
from slide.runs.history import read_history


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(
        commands,
        "plot",
        execute,
        "draw the curves of training runs",
        "Draw loss, P@1, active neurons, the share of rehashing and the memory of training runs, one over the other. "
        "Runs that are not complete are drawn as far as they got.",
    )
    add_runs(parser)
    parser.add_argument(
        "--out", metavar="FILE.png", type=Path, default=Path("run.png"), help="figure, in the format of its name"
    )


def execute(args: argparse.Namespace) -> int:
    """Draw runs."""
    plots.draw([read_history(path) for path in args.runs], args.out)
    log.info("drew %s", args.out)
    return 0
