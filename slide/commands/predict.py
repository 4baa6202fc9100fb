"""``slide predict``: write the best labels of each sample."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from scipy.sparse import csr_matrix

from slide.commands.console import log
from slide.commands.inputs import build_index, label_ids, load_as, predictor_of, some
from slide.commands.options import (
    add_command,
    add_masking,
    add_neighbours,
    add_reading,
    add_search,
    add_threads,
    positive,
    unused_search,
)
from slide.data.files import replacing
from slide.files.atomic import is_device, naming, write_in_place
from slide.files.fields import as_json
from slide.network import Network
from slide.predict.profile import BATCH, PERCENTILES, SINGLES, timings

PREDICT_BLOCK = 4096
"""Number of samples predicted and written at a time."""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's options."""
    parser = add_command(commands, "predict", execute, "write the best labels of each sample", check=_check)
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a saved network")
    parser.add_argument("input", metavar="INPUT", type=Path, help="data, with or without labels")
    parser.add_argument("--k", metavar="K", type=positive, default=5, help="number of labels per sample")
    parser.add_argument("--output", metavar="FILE", default="-", help="file to write, - for standard output")
    parser.add_argument(
        "--output-format",
        choices=("tsv", "jsonl"),
        default="tsv",
        help="form of each sample's line: label:score with tabs between, or a JSON object with labels and scores",
    )
    parser.add_argument(
        "--allow", metavar="FILE", type=Path, help="ids of the only labels that may be predicted, one per line"
    )
    add_search(parser)
    profile = parser.add_argument_group("profile")
    profile.add_argument(
        "--profile",
        action="store_true",
        help="report on standard error the time per single sample and the samples per second in batches, for the mode "
        "and for exact prediction",
    )
    profile.add_argument("--profile-json", metavar="FILE", type=Path, help="file to write that report to, as JSON")
    add_neighbours(parser)
    add_reading(parser)
    add_masking(parser)
    add_threads(parser)


def _check(args: argparse.Namespace) -> str | None:
    if args.allow is not None and args.neighbours is not None:
        return "a mixture with neighbours scores every label: it takes no --allow"
    return unused_search(args)


def execute(args: argparse.Namespace) -> int:
    """Write the best labels of every sample."""
    network = Network.load(args.model, threads=args.threads)
    masks: dict[str, Any] = {} if args.allow is None else {"allowed": label_ids(args.allow, network.n_labels)}
    data = load_as(args.input, args, network.n_features, None, "the model")
    predictor = predictor_of(network, args)
    how: dict[str, Any] = {}
    if args.mode != "exact" and data.n_samples:
        build_index(network, args, data.X)
        how = {"mode": args.mode, "candidates": args.candidates}

    def predict(X: csr_matrix, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        return predictor.predict(X, args.k, exclude=X if args.mask_inputs else None, **masks, **how)

    if (args.profile or args.profile_json is not None) and data.n_samples:
        calls: dict[str, Callable[[csr_matrix], object]] = {"exact" if args.neighbours is None else "mixture": predict}
        if how:
            calls[args.mode] = functools.partial(predict, **how)
        _profile(timings(calls, some(data.X, max(SINGLES, BATCH), network)), args, network)
    write = _write_tsv if args.output_format == "tsv" else _write_jsonl
    with _output(args.output) as file:
        for first in range(0, data.n_samples, PREDICT_BLOCK):
            ids, scores = predict(data.X[first : first + PREDICT_BLOCK], **how)
            for labels, values in zip(ids.tolist(), scores.tolist(), strict=True):
                # Where fewer than k labels may be predicted, the others are -1.
                found = [(label, value) for label, value in zip(labels, values, strict=True) if label >= 0]
                write(file, found)
    return 0


def _profile(times: dict[str, dict[str, float]], args: argparse.Namespace, network: Network) -> None:
    """Report how long predictions take, for each way to make them."""
    for name, figures in times.items():
        log.info(
            "%s: single samples p50 %.2f ms, p90 %.2f ms, p99 %.2f ms; in batches %s samples/s",
            name,
            *(figures[key] for key in PERCENTILES),
            f"{figures['points_per_second']:,.0f}",
        )
    if args.profile_json is not None:
        about = {"model": str(args.model), "k": args.k, "threads": network.threads, "n_labels": network.n_labels}
        text = as_json({**about, "modes": times}) + "\n"
        write_in_place(args.profile_json, lambda file: file.write(text.encode("ascii")))


@contextmanager
def _output(path: str) -> Iterator[TextIO]:
    """Open standard output for "-", or else a file, which appears once it is complete."""
    if path == "-":
        with naming(Path("standard output")):
            yield sys.stdout
        return
    if is_device(Path(path)):
        with naming(Path(path)), open(path, "w", encoding="ascii") as file:
            yield file
        return
    target = Path(path).resolve()
    with replacing(target) as temporary, open(temporary, "w", encoding="ascii") as file:
        yield file


def _write_tsv(file: TextIO, found: list[tuple[int, float]]) -> None:
    print("\t".join(f"{label}:{score:.6g}" for label, score in found), file=file)


def _write_jsonl(file: TextIO, found: list[tuple[int, float]]) -> None:
    sample = {"labels": [label for label, _ in found], "scores": [float(f"{score:.6g}") for _, score in found]}
    print(json.dumps(sample), file=file)
