"""``slide tune``: search for the hash tables that suit a saved network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import tomli_w

from slide.commands.console import log
from slide.commands.inputs import queries
from slide.commands.options import add_command, add_json, add_reading, add_threads, add_top
from slide.config import NetworkConfig
from slide.config.dicts import to_dict
from slide.files.atomic import write_in_place
from slide.files.fields import as_json
from slide.lsh import tuning
from slide.model.layers import InputLayer
from slide.network import Network


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(
        commands,
        "tune",
        execute,
        "search for the hash tables that suit a saved network",
        "Search for the hash family, the numbers of codes and tables, the sampling policy and the budget that find "
        "most of a layer's best neurons in the least time, and print the settings to train with.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a saved network")
    parser.add_argument("data", metavar="DATA", type=Path, help="samples to look up, such as the training data")
    parser.add_argument("--layer", metavar="NAME", default="output", help="layer: output, hidden.0, hidden.1, ...")
    parser.add_argument("--time", metavar="S", type=float, default=60.0, help="longest time to search, in seconds")
    parser.add_argument(
        "--recall", metavar="X", type=float, default=0.9, help="share of the best neurons that the tables should find"
    )
    parser.add_argument("--toml", metavar="FILE", type=Path, help="file to write the settings to")
    add_top(parser)
    add_reading(parser)
    add_threads(parser)
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Search for a saved network's best hash tables; print what was found and how to configure it."""
    network = Network.load(args.model, threads=args.threads)
    layers = network.layers.by_name
    if args.layer not in layers:
        raise ValueError(f"the network has the layers {', '.join(layers)}; there is none named {args.layer!r}")
    layer = layers[args.layer]
    if isinstance(layer, InputLayer):
        raise ValueError(f"layer {args.layer} computes all units from the rows of features: it has no use for tables")
    X, source = queries(network, args)
    log.info("tuning layer %s on %s for at most %g s", args.layer, source, args.time)
    result = tuning.tune(
        layer,
        network.layer_inputs(X)[list(layers).index(args.layer)],
        top=args.top,
        recall_target=args.recall,
        time_limit=args.time,
        threads=network.threads,
    )
    settings = {"candidates": _with_tables(layer.config.candidates, args.layer), **result.settings()}
    section = tomli_w.dumps({"network": _tuned(network.config, args.layer, settings)})
    if args.toml is not None:
        write_in_place(args.toml, lambda file: file.write(section.encode()))
    if args.json:
        print(as_json({"layer": args.layer, **result.to_dict(), "settings": settings}))
    elif args.toml is None:
        print(f"{result}\n\n{section}", end="")
    else:
        print(result)
    return 0


def _tuned(config: NetworkConfig, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the configuration that has a layer's new settings; for a hidden layer, all hidden layers."""
    if name == "output":
        return {"output": settings}
    hidden = [to_dict(layer) for layer in config.hidden]
    hidden[int(name.removeprefix("hidden."))].update(settings)
    return {"hidden": hidden}


def _with_tables(candidates: str, name: str) -> str:
    """Return the mode that looks neurons up in hash tables and resembles this one most."""
    if candidates.startswith("lsh"):
        return candidates
    if name != "output" or candidates == "topk":
        return "lsh"
    return "lsh+inbatch" if candidates == "inbatch" else "lsh+tail"
