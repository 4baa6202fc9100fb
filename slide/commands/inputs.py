"""What commands work on: data that is read from files, and predictors."""

from __future__ import annotations

import time

import numpy as np
from scipy.sparse import csr_matrix, random_array

from slide.commands.console import log
from slide.commands.options import DIMS, K_NEIGHBOURS, SHARE, ZERO_BASED
from slide.data import DataError
from slide.data import load as load_data
from slide.data.readers import detect_format
from slide.predict.indexes import index_of
from slide.predict.mixture import Mixture
from slide.predict.neighbours import Neighbours

QUERIES = 256
"""Samples on which hash tables are measured."""

RANDOM_FEATURES = 32
"""Features of a random sample."""

FITTED = 4096
"""Samples that a sketch is fitted to."""


def load(path, args, **options):
    """Read data as the options of `add_reading` say."""
    log.info("reading %s", path)
    options = {"format": args.format, **options}
    return load_data(path, zero_based=ZERO_BASED[args.zero_based], cache=not args.no_cache, **options)


def load_as(path, args, n_features, n_labels, model):
    """Load data for something of that many features and, unless that is None, labels."""
    stated = args.format if args.format != "auto" else detect_format(path)
    # svmlight does not state its sizes; its largest ids may be smaller.
    sizes = {"n_features": n_features, "n_labels": n_labels} if stated == "svmlight" else {}
    data = load(path, args, format=stated, **sizes)
    for what, found, expected in (
        ("features", data.n_features, n_features),
        ("labels", data.n_labels, n_labels),
    ):
        if expected is not None and found != expected:
            raise DataError(f"{path} has {found:,} {what}, {model} {expected:,}: they do not belong together")
    return data


def predictor_of(network, args):
    """The network, mixed with the neighbours that the options ask for."""
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


def build_index(network, args, X):
    """Make the index that the mode searches, fitted to samples of X if need be; return it."""
    start, name = time.perf_counter(), index_of(args.mode)
    sketch = {"dims": args.dims or DIMS, "coverage": 1.0 if args.coverage is None else args.coverage}
    index = network.build_search_index(name, some(X, FITTED, network), **sketch)
    seconds = time.perf_counter() - start
    log.info("built the %s index: %.1f s, %s bytes", name, seconds, f"{index.nbytes:,}")
    return index


def label_ids(path, n_labels):
    """Read label ids, one a line."""
    ids = []
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
        raise DataError(f"{path} has no label ids, so that nothing could be predicted; expected one a line")
    return np.array(ids)


def queries(network, args):
    """Samples that look neurons up, and a description of them."""
    rng = np.random.default_rng(network.config.seed)
    if args.data is None:
        shape = (QUERIES, network.n_features)
        # A sample has RANDOM_FEATURES of them, on average.
        X = random_array(shape, density=min(1.0, RANDOM_FEATURES / shape[1]), rng=rng, format="csr", dtype=np.float32)
        return csr_matrix(X), f"{QUERIES} random samples, which need not resemble real ones; --data FILE takes those"
    data = load_as(args.data, args, network.n_features, None, "the model")
    if not data.n_samples:
        raise DataError(f"{args.data} has no samples")
    rows = np.sort(rng.permutation(data.n_samples)[:QUERIES])
    return data.X[rows], f"{len(rows)} samples of {args.data}"


def some(X, n, network):
    """At most n of some samples, drawn at random but always the same."""
    return X[np.sort(np.random.default_rng(network.config.seed).permutation(X.shape[0])[:n])]
