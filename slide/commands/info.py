"""``slide info``: describe a saved network or, without one, this installation."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import tomli_w

from slide.commands.inputs import queries
from slide.commands.options import add_command, add_json, add_reading, add_threads, add_top
from slide.files.fields import as_json
from slide.lsh.diagnostics import diagnose
from slide.model.footprint import n_parameters
from slide.network import Network
from slide.persist import saved_network
from slide.persist.checks import CheckpointError
from slide.persist.format import MANIFEST
from slide.system.info import config_facts, show_config


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(
        commands, "info", execute, "describe a saved network or, without one, this installation", check=_check
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", type=Path, help="folder of a saved network")
    index = parser.add_argument_group("hash tables")
    index.add_argument("--index", action="store_true", help="build the hash tables and measure their recall")
    index.add_argument("--data", metavar="FILE", type=Path, help="samples to look up (default: random ones)")
    add_top(index)
    add_reading(index)
    add_threads(index)
    add_json(parser)


def _check(args: argparse.Namespace) -> str | None:
    if args.index and args.model is None:
        return "--index needs a saved network: slide info MODEL --index"
    return None


def execute(args: argparse.Namespace) -> int:
    """Describe a saved network or, without one, this installation."""
    if args.model is None:
        if args.json:
            print(as_json(config_facts()))
        else:
            show_config()
        return 0
    if args.index:
        return _info_index(args)
    about = saved_network.describe(args.model)
    try:
        units = [layer["units"] for layer in about["config"]["hidden"]]
        widths = [about["n_features"], *units, about["n_labels"]]
        about["parameters"] = n_parameters(widths)
        files = args.model.iterdir() if args.model.is_dir() else [args.model]
        about["bytes"] = sum(file.stat().st_size for file in files)
        sections = {
            f"Network in {args.model}": {
                "features": about["n_features"],
                "hidden units": " + ".join(map(str, units)),
                "labels": about["n_labels"],
                "parameters": about["parameters"],
                "bytes on disk": about["bytes"],
                "batches": about["step"],
                "optimizer state": about["moments"],
                "saved by slide": about["slide"],
            },
            "Hash tables when it was saved": about["index"] or {},
        }
        settings = tomli_w.dumps(about["config"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{args.model / MANIFEST} lacks {error}") from None
    if args.json:
        print(as_json(about))
        return 0
    for heading, facts in sections.items():
        if facts:
            print(heading)
            for name, value in facts.items():
                print(f"  {name + ':':20}{_plain(value)}")
    print(f"Settings\n{textwrap.indent(settings, '  ')}", end="")
    return 0


def _info_index(args: argparse.Namespace) -> int:
    """Describe the hash tables of a saved network's layers."""
    network = Network.load(args.model, threads=args.threads)
    X, source = queries(network, args)
    reports = {}
    for (name, layer), hidden in zip(network.layers.by_name.items(), network.layer_inputs(X), strict=True):
        layer.make_index()
        if layer.index is not None:
            layer.index.rebuild(network.step, network.threads)
            reports[name] = diagnose(
                layer.index, hidden, budget=layer.config.budget, top=args.top, threads=network.threads
            )
    if args.json:
        print(as_json({"queries": source, "layers": {name: report.to_dict() for name, report in reports.items()}}))
        return 0
    if not reports:
        print(
            "No layer of this network has hash tables: its candidates are not looked up. "
            f"slide tune {args.model} DATA measures what tables would find."
        )
        return 0
    print(f"Queries: {source}")
    for name, report in reports.items():
        print(f"Hash tables of layer {name}\n{textwrap.indent(str(report), '  ')}")
    return 0


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
