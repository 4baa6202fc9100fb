"""``slide evaluate``: measure a saved network's quality."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from slide.commands.console import modes_table, quality_table
from slide.commands.inputs import build_index, load_as, predictor_of
from slide.commands.options import (
    add_command,
    add_json,
    add_masking,
    add_neighbours,
    add_reading,
    add_search,
    add_threads,
    depths,
    unused_search,
)
from slide.data import Dataset
from slide.data.statistics import column_counts
from slide.files.fields import as_json
from slide.metrics import known_propensities
from slide.network import Network
from slide.predict.mixture import Mixture
from slide.predict.profile import compare_with_exact


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(commands, "evaluate", execute, "measure a saved network's quality", check=unused_search)
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a saved network")
    parser.add_argument("test", metavar="TEST", type=Path, help="data to measure quality on")
    parser.add_argument(
        "--train",
        metavar="FILE",
        type=Path,
        help="training data: PSP takes the propensities of its labels, and a sketch is fitted to its samples",
    )
    parser.add_argument("--k", metavar="K,K", type=depths, default="1,3,5", help="depths to measure at")
    add_search(parser)
    add_neighbours(parser)
    add_reading(parser)
    add_masking(parser)
    add_threads(parser)
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Measure a saved network's quality."""
    network = Network.load(args.model, threads=args.threads)
    test = load_as(args.test, args, network.n_features, network.n_labels, "the model")
    train, inv_propensity = None, None
    if args.train is not None:
        train = load_as(args.train, args, network.n_features, network.n_labels, "the model")
        inv_propensity = known_propensities(column_counts(train.Y), train.n_samples)
    if args.mode != "exact" and test.n_samples:
        return _beside_exact(network, test, train, inv_propensity, args)
    predictor = predictor_of(network, args)
    start = time.perf_counter()
    quality = predictor.evaluate(test.X, test.Y, ks=args.k, inv_propensity=inv_propensity, mask_inputs=args.mask_inputs)
    seconds = time.perf_counter() - start
    if args.json:
        about = {
            "points": test.n_samples,
            "seconds": seconds,
            "threads": network.threads,
            "model": str(args.model),
        }
        if isinstance(predictor, Mixture):
            about["neighbours"] = str(args.neighbours)
            about["share"], about["k_neighbours"] = predictor.share, predictor.neighbours.k
        print(as_json({**quality, **about}))
    else:
        print(quality_table(quality, args.k))
    return 0


def _beside_exact(
    network: Network,
    test: Dataset,
    train: Dataset | None,
    inv_propensity: np.ndarray | None,
    args: argparse.Namespace,
) -> int:
    """Measure a mode and exact prediction, and print both."""
    index = build_index(network, args, (train or test).X)
    found = compare_with_exact(
        network,
        test.X,
        test.Y,
        args.mode,
        candidates=args.candidates,
        ks=args.k,
        inv_propensity=inv_propensity,
        mask_inputs=args.mask_inputs,
    )
    if args.json:
        about = {
            "mode": args.mode,
            "candidates": args.candidates,
            "index_bytes": index.nbytes,
            "points": test.n_samples,
            "threads": network.threads,
            "model": str(args.model),
        }
        print(as_json({**found, **about}))
    else:
        print(modes_table(found, args.mode))
    return 0
