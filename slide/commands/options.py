"""Options that several commands have, and the parser of a command."""

from __future__ import annotations

import argparse
import functools
import operator
from collections.abc import Callable
from pathlib import Path

from slide.config import RunConfig
from slide.config.dicts import to_dict
from slide.data.readers import FORMATS, ZeroBased
from slide.predict.indexes import MODES

SHARE, K_NEIGHBOURS = 0.5, 50
"""Defaults of a mixture with neighbours: weight of their votes, and number of neighbours that vote."""

DIMS = 64
"""Default dimensions of a sketch."""

ZERO_BASED: dict[str, ZeroBased] = {"auto": "auto", "yes": True, "no": False}
"""Arguments of `slide.data.load` for the choices of ``--zero-based``."""

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
"""Path in the configuration of each option of ``slide train``."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults; those of settings come from the configuration."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
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
    """Read a whole number, 1 or more."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def positive_list(text: str) -> tuple[int, ...]:
    """Read whole numbers, 1 or more, with commas between."""
    return tuple(positive(part) for part in text.split(","))


def depths(text: str) -> tuple[int, ...]:
    """Read depths of metrics; return them sorted, each once."""
    return tuple(sorted(set(positive_list(text))))


def add_command(
    commands: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str = "",
    check: Callable[[argparse.Namespace], str | None] | None = None,
) -> argparse.ArgumentParser:
    """Add the parser of a command; see `slide.commands` for `run` and `check`."""
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
    parser.add_argument("--top", metavar="N", type=positive, default=10, help="best neurons to look for, per sample")


def add_neighbours(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options of a mixture with neighbours; see `unused_neighbours`."""
    group = parser.add_argument_group("mixture with nearest neighbours, whose scores are probabilities")
    group.add_argument(
        "--neighbours", metavar="TRAIN", type=Path, help="training data; a sample's nearest neighbours in it vote"
    )
    group.add_argument(
        "--share", metavar="X", type=share, help=f"weight of the votes, from 0 to 1 (default: {SHARE:g})"
    )
    group.add_argument(
        "--k-neighbours", metavar="N", type=positive, help=f"neighbours that vote (default: {K_NEIGHBOURS})"
    )


def unused_neighbours(args: argparse.Namespace) -> str | None:
    """Return what is wrong if there are options of `add_neighbours` but no neighbours."""
    if args.neighbours is None:
        for option in ("share", "k_neighbours"):
            if getattr(args, option) is not None:
                return f"--{option.replace('_', '-')} needs the neighbours too: --neighbours TRAIN"
    return None


def add_format(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--format`` and ``--zero-based``."""
    parser.add_argument("--format", choices=FORMATS, default="auto", help="format of the data")
    parser.add_argument(
        "--zero-based", choices=ZERO_BASED, default="auto", help="whether svmlight's feature ids count from 0"
    )


def add_reading(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options of reading data."""
    add_format(parser)
    parser.add_argument("--no-cache", action="store_true", help="neither use nor keep a parsed copy of the data")


def add_masking(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--mask-inputs``."""
    parser.add_argument(
        "--mask-inputs",
        action="store_true",
        help="never predict a label whose id is one of the sample's features",
    )


def add_search(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--mode`` and its options; see `unused_search`."""
    group = parser.add_argument_group("search")
    group.add_argument(
        "--mode",
        choices=MODES,
        default="exact",
        help="way to predict: score every label (exact); score only labels that a sketch or hash tables (lsh) propose; "
        "or score none and count the hash tables that contain a label (lsh-votes)",
    )
    group.add_argument(
        "--candidates", metavar="N", type=positive, help="labels proposed per sample, in modes other than exact"
    )
    group.add_argument("--dims", metavar="N", type=positive, help=f"dimensions of a sketch (default: {DIMS})")
    group.add_argument(
        "--coverage",
        metavar="X",
        type=share,
        help="share of the samples' best labels that a sketch must contain; below 1 it has only the likelier labels "
        "(default: 1)",
    )


def unused_search(args: argparse.Namespace) -> str | None:
    """Return what is wrong if options of `add_search` do not go together, or not with neighbours."""
    if args.mode == "exact" and args.candidates is not None:
        return "--candidates needs a mode that proposes some: --mode sketch"
    if args.mode != "sketch" and (args.dims is not None or args.coverage is not None):
        return "--dims and --coverage need a sketch: --mode sketch"
    if args.mode != "exact" and args.neighbours is not None:
        return "a mixture with neighbours scores every label: it takes no --mode"
    return unused_neighbours(args)


def add_threads(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--threads``."""
    parser.add_argument("--threads", metavar="N", type=positive, help="number of threads (default: all cores)")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name runs."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="folder of a network that slide train saved, or a history"
    )


def add_json(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object; its metrics are fractions of 1")


def find_setting(values: dict, path: str) -> tuple[dict, str]:
    """Return the dictionary that holds a setting, and the setting's name."""
    *sections, name = path.split(".")
    return functools.reduce(operator.getitem, sections, values), name
