"""``slide predict``: write the best labels of each point."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from slide.commands.inputs import load_as, predictor_of, some
from slide.commands.options import (
    add_command,
    add_masking,
    add_neighbours,
    add_reading,
    add_threads,
    positive,
    unused_neighbours,
)
from slide.console import log
from slide.network import Network
from slide.search import MODES

PREDICT_BLOCK = 4096
"""Points predicted and written at a time."""

FITTED = 4096
"""Points that a sketch is fitted to."""

PROFILED = 200
"""Points that are predicted one by one where that is to be timed."""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(commands, "predict", run, "write the best labels of each point", check=_check)
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a saved network")
    parser.add_argument("input", metavar="INPUT", type=Path, help="data, with or without labels")
    parser.add_argument("--k", metavar="K", type=positive, default=5, help="labels for each point")
    parser.add_argument("--output", metavar="FILE", default="-", help="file to write, - for standard output")
    parser.add_argument(
        "--output-format",
        choices=("tsv", "jsonl"),
        default="tsv",
        help="a line for each point: label:score with tabs between, or a JSON object with labels and scores",
    )
    search = parser.add_argument_group("search")
    search.add_argument(
        "--mode",
        choices=MODES,
        default="exact",
        help="score every label, or those that a sketch of all labels or hash tables propose, built before the start",
    )
    search.add_argument(
        "--candidates", metavar="N", type=positive, help="labels proposed for each point, in a mode other than exact"
    )
    search.add_argument(
        "--profile", action="store_true", help="report on standard error how long single points take to predict"
    )
    add_neighbours(parser)
    add_reading(parser)
    add_masking(parser)
    add_threads(parser)


def _check(args):
    if args.mode == "exact" and args.candidates is not None:
        return "--candidates needs a mode that proposes some: --mode sketch"
    if args.mode != "exact" and args.neighbours is not None:
        return "a mixture with neighbours scores every label: it takes no --mode"
    return unused_neighbours(args)


def run(args: argparse.Namespace) -> int:
    """Write the best labels of every point."""
    network = Network.load(args.model, threads=args.threads)
    data = load_as(args.input, args, network.n_features, None, "the model")
    predictor = predictor_of(network, args)
    how = {}
    if args.mode != "exact" and data.n_points:
        start = time.perf_counter()
        index = network.build_search_index(args.mode, some(data.X, FITTED, network))
        log.info("built the %s index: %.1f s, %s bytes", args.mode, time.perf_counter() - start, f"{index.nbytes:,}")
        how = {"mode": args.mode, "candidates": args.candidates}
    if args.profile:
        _profile(predictor, some(data.X, PROFILED, network), args, how)
    write = _write_tsv if args.output_format == "tsv" else _write_jsonl
    with _output(args.output) as file:
        for first in range(0, data.n_points, PREDICT_BLOCK):
            X = data.X[first : first + PREDICT_BLOCK]
            ids, scores = predictor.predict(X, args.k, exclude=X if args.mask_inputs else None, **how)
            for labels, values in zip(ids.tolist(), scores.tolist(), strict=True):
                # Where fewer than k labels may be predicted the rest is -1.
                found = [(label, value) for label, value in zip(labels, values, strict=True) if label >= 0]
                write(file, found)
    return 0


def _profile(predictor, X, args, how):
    """Report how long points take that are predicted one by one."""
    milliseconds = []
    for i in range(X.shape[0]):
        start = time.perf_counter()
        predictor.predict(X[i], args.k, exclude=X[i] if args.mask_inputs else None, **how)
        milliseconds.append(1000 * (time.perf_counter() - start))
    if milliseconds:
        p50, p99 = np.percentile(milliseconds, (50, 99))
        log.info("%s points one by one: p50 %.2f ms, p99 %.2f ms each", f"{len(milliseconds):,}", p50, p99)


@contextmanager
def _output(path):
    """Standard output for "-", else a file."""
    if path == "-":
        yield sys.stdout
    else:
        with open(path, "w", encoding="ascii") as file:
            yield file


def _write_tsv(file, found):
    print("\t".join(f"{label}:{score:.6g}" for label, score in found), file=file)


def _write_jsonl(file, found):
    point = {"labels": [label for label, _ in found], "scores": [float(f"{score:.6g}") for _, score in found]}
    print(json.dumps(point), file=file)
