"""``slide compare``: a table of training runs."""

from __future__ import annotations

import argparse

from slide.commands.options import add_command, add_json, add_runs
from slide.files.fields import as_json
from slide.runs.comparison import compare, comparison_table
from slide.runs.history import read_history


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(
        commands,
        "compare",
        execute,
        "print a table of training runs",
        "Print a table of training runs, in Markdown: the settings in which they differ, their cost and the quality "
        "that they reached.",
    )
    add_runs(parser)
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Compare runs."""
    runs = [read_history(path) for path in args.runs]
    print(as_json({"runs": compare(runs)}) if args.json else comparison_table(runs))
    return 0
