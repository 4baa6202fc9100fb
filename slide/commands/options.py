"""Options that several commands have, and how a command's parser is made."""

from __future__ import annotations

import argparse
import functools
import operator
from collections.abc import Callable
from pathlib import Path

from slide.config import RunConfig
from slide.config.dicts import to_dict
from slide.data.readers import FORMATS
from slide.predict.indexes import MODES

SHARE, K_NEIGHBOURS = 0.5, 50
"""Of a mixture with neighbours: their share, and how many vote."""

DIMS = 64
"""Of a sketch."""

ZERO_BASED = {"auto": "auto", "yes": True, "no": False}

SETTINGS = {
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "max_batches": "training.max_batches",
    "schedule": "training.schedule",
    "warmup": "training.warmup",
    "patience": "training.patience",
    "holdout": "training.holdout",
    "on_fault": "training.on_fault",
    "lr": "network.optimizer.lr",
    "hidden": "network.hidden",
    "candidates": "network.output.candidates",
    "budget": "network.output.budget",
    "update": "network.update",
    "precision": "network.precision",
    "seed": "network.seed",
}
"""Where the options of ``slide train`` go in the configuration."""


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


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def positive_list(text: str) -> tuple[int, ...]:
    """Whole numbers from 1, with commas between."""
    return tuple(positive(part) for part in text.split(","))


def depths(text: str) -> tuple[int, ...]:
    """Depths of metrics, sorted."""
    return tuple(sorted(set(positive_list(text))))


def add_command(
    commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str = "",
    check: Callable[[argparse.Namespace], str | None] | None = None,
) -> argparse.ArgumentParser:
    """Add the parser of a command."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description or f"{summary.capitalize()}.",
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=run, check=check or (lambda args: None))
    return parser


def add_top(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--top``."""
    parser.add_argument("--top", metavar="N", type=positive, default=10, help="best neurons to be found for a sample")


def add_neighbours(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options of a mixture with neighbours; see `unused_neighbours`."""
    group = parser.add_argument_group("mixture with nearest neighbours, whose scores are probabilities")
    group.add_argument(
        "--neighbours", metavar="TRAIN", type=Path, help="training data, of which a sample's nearest vote for labels"
    )
    group.add_argument(
        "--share", metavar="X", type=share, help=f"of the neighbours, from 0 to 1 (default: {SHARE:g})"
    )
    group.add_argument(
        "--k-neighbours", metavar="N", type=positive, help=f"neighbours that vote (default: {K_NEIGHBOURS})"
    )


def unused_neighbours(args: argparse.Namespace) -> str | None:
    """Return what is wrong where options of `add_neighbours` lack the neighbours."""
    if args.neighbours is None:
        for option in ("share", "k_neighbours"):
            if getattr(args, option) is not None:
                return f"--{option.replace('_', '-')} needs the neighbours too: --neighbours TRAIN"
    return None


def add_format(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add what says how a file is to be understood."""
    parser.add_argument("--format", choices=FORMATS, default="auto", help="format of the data")
    parser.add_argument(
        "--zero-based", choices=ZERO_BASED, default="auto", help="whether svmlight's feature ids count from 0"
    )


def add_reading(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options of reading data."""
    add_format(parser)
    parser.add_argument(
        "--no-cache", action="store_true", help="neither use nor keep a parsed copy of the data"
    )


def add_masking(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--mask-inputs``."""
    parser.add_argument(
        "--mask-inputs",
        action="store_true",
        help="never predict a label whose id is one of the sample's features",
    )


def add_search(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--mode`` and what belongs to it; see `unused_search`."""
    group = parser.add_argument_group("search")
    group.add_argument(
        "--mode",
        choices=MODES,
        default="exact",
        help="score every label; or those that a sketch of all labels or hash tables (lsh) propose; or count the hash "
        "tables that find a label and score none (lsh-votes); an index is built before the start",
    )
    group.add_argument(
        "--candidates", metavar="N", type=positive, help="labels proposed for each sample, in a mode other than exact"
    )
    group.add_argument("--dims", metavar="N", type=positive, help=f"dimensions of a sketch (default: {DIMS})")
    group.add_argument(
        "--coverage",
        metavar="X",
        type=share,
        help="have only the likelier labels in a sketch: as many as hold this share of the samples' best (default: 1)",
    )


def unused_search(args: argparse.Namespace) -> str | None:
    """Return what is wrong where options of `add_search` do not go together, or not with neighbours."""
    if args.mode == "exact" and args.candidates is not None:
        return "--candidates needs a mode that proposes some: --mode sketch"
    if args.mode != "sketch" and (args.dims is not None or args.coverage is not None):
        return "--dims and --coverage are those of a sketch: --mode sketch"
    if args.mode != "exact" and args.neighbours is not None:
        return "a mixture with neighbours scores every label: it takes no --mode"
    return unused_neighbours(args)


def add_threads(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--threads``."""
    parser.add_argument(
        "--threads", metavar="N", type=positive, help="threads to run on (default: all cores)"
    )


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the runs that are looked at."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="folder of a network that slide train saved, or a history"
    )


def add_json(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, in which metrics are fractions of 1"
    )


def find_setting(values: dict, path: str) -> tuple[dict, str]:
    """Return the dictionary that holds a setting, and the setting's name."""
    *sections, name = path.split(".")
    return functools.reduce(operator.getitem, sections, values), name
