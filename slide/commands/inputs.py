"""Data that commands read from files, and predictors that they make."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, csr_matrix, random_array

from slide.commands.console import log
from slide.commands.options import DIMS, K_NEIGHBOURS, SHARE, ZERO_BASED
from slide.data import DataError, Dataset
from slide.data import load as load_data
from slide.data.readers import Format, detect_format
from slide.network import Network
from slide.predict.indexes import HashIndex, SketchIndex, index_of
from slide.predict.mixture import Mixture
from slide.predict.neighbours import Neighbours

QUERIES = 256
"""Number of samples that hash tables are measured on."""

RANDOM_FEATURES = 32
"""Mean number of features of a random sample."""

FITTED = 4096
"""Number of samples that a sketch is fitted to."""


def load(
    path: Path,
    args: argparse.Namespace,
    *,
    format: Format | None = None,
    n_features: int | None = None,
    n_labels: int | None = None,
) -> Dataset:
    """Read data as the options of `add_reading` say; `format` overrides one of them."""
    log.info("reading %s", path)
    return load_data(
        path,
        format=args.format if format is None else format,
        n_features=n_features,
        n_labels=n_labels,
        zero_based=ZERO_BASED[args.zero_based],
        cache=not args.no_cache,
    )


def load_as(path: Path, args: argparse.Namespace, n_features: int, n_labels: int | None, model: str) -> Dataset:
    """Read data that must have so many features and, unless `n_labels` is None, labels.

    Raises
    ------
    DataError
        The data has other sizes than what `model` names, or cannot be read.
    """
    stated = args.format if args.format != "auto" else detect_format(path)
    if stated == "svmlight":
        # svmlight does not state its sizes; its largest ids may be smaller.
        data = load(path, args, format=stated, n_features=n_features, n_labels=n_labels)
    else:
        data = load(path, args, format=stated)
    for what, found, expected in (
        ("features", data.n_features, n_features),
        ("labels", data.n_labels, n_labels),
    ):
        if expected is not None and found != expected:
            raise DataError(f"{path} has {found:,} {what}, {model} {expected:,}: they do not belong together")
    return data


def predictor_of(network: Network, args: argparse.Namespace) -> Network | Mixture:
    """Return the network, mixed with the neighbours that the options ask for."""
    if args.neighbours is None:
        return network
    train = load_as(args.neighbours, args, network.n_features, network.n_labels, "the model")
    neighbours = Neighbours(
        train.X,
        train.Y,
        k=args.k_neighbours or K_NEIGHBOURS,
        feature_weights=network.feature_weights,
        threads=args.threads,
    )
    return Mixture(network, neighbours, SHARE if args.share is None else args.share)


def build_index(network: Network, args: argparse.Namespace, X: csr_matrix) -> SketchIndex | HashIndex:
    """Build and return the index that the mode searches; a sketch is fitted to samples of X."""
    start, name = time.perf_counter(), index_of(args.mode)
    coverage = 1.0 if args.coverage is None else args.coverage
    index = network.build_search_index(name, some(X, FITTED, network), dims=args.dims or DIMS, coverage=coverage)
    seconds = time.perf_counter() - start
    log.info("built the %s index: %.1f s, %s bytes", name, seconds, f"{index.nbytes:,}")
    return index


def label_ids(path: Path, n_labels: int) -> np.ndarray:
    """Read label ids, one per line.

    Raises
    ------
    DataError
        A line is no label id, or there are none.
    """
    ids: list[int] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            text = line.strip()
            if not text:
                continue
            if not text.isascii() or not text.isdecimal() or int(text) >= n_labels:
                raise DataError(
                    f"{path}, line {number}: expected the id of a label, a number from 0 to {n_labels - 1:,}, "
                    f"got {text[:40]!r}"
                )
            ids.append(int(text))
    if not ids:
        raise DataError(f"{path} has no label ids, so that nothing could be predicted; expected one per line")
    return np.array(ids)


def queries(network: Network, args: argparse.Namespace) -> tuple[csr_matrix, str]:
    """Return samples to look neurons up for, and a description of them."""
    rng = np.random.default_rng(network.config.seed)
    if args.data is None:
        shape = (QUERIES, network.n_features)
        density = min(1.0, RANDOM_FEATURES / shape[1])
        X = random_array(shape, density=density, rng=rng, format="csr", dtype=np.float32)
        assert isinstance(X, csr_array), "the format that was asked for"
        source = f"{QUERIES} random samples, which need not resemble real ones; --data FILE takes real ones"
        return csr_matrix(X), source
    data = load_as(args.data, args, network.n_features, None, "the model")
    if not data.n_samples:
        raise DataError(f"{args.data} has no samples")
    rows = np.sort(rng.permutation(data.n_samples)[:QUERIES])
    return data.X[rows], f"{len(rows)} samples of {args.data}"


def some(X: csr_matrix, n: int, network: Network) -> csr_matrix:
    """Return n of the samples, drawn at random but always the same, or all if there are fewer."""
    return X[np.sort(np.random.default_rng(network.config.seed).permutation(X.shape[0])[:n])]
