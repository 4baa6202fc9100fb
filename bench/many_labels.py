"""Ten million labels of eight dimensions: python bench/many_labels.py

A network is made, trained on a few batches and asked for the best labels of some samples. Printed are the seconds of
each, what the process has in memory beside what was predicted, and how many of the samples find one of their labels:
the samples are trained on many times over, so that most should.
"""

import argparse
import json
import time

import numpy as np
import psutil
from scipy.sparse import csr_matrix

from slide import HiddenConfig, Network, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.model.footprint import BatchShape
from slide.system.info import peak_rss_bytes
from slide.system.memory import resident

FEATURES, FEATURES_OF_A_POINT, LABELS_OF_A_POINT = 50_000, 20, 2
RATES = {"sgd": 1.0, "adam": 0.05, "adagrad": 0.5}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", metavar="N", type=int, default=10_000_000)
    parser.add_argument("--units", metavar="N", type=int, default=8)
    parser.add_argument("--points", metavar="N", type=int, default=512)
    parser.add_argument("--epochs", metavar="N", type=int, default=60)
    parser.add_argument("--optimizer", choices=tuple(RATES), default="adagrad")
    parser.add_argument("--precision", choices=("fp32", "bf16-moments", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    print(json.dumps(measure(parser.parse_args())))


def measure(args):
    """Return the figures."""
    X, Y = samples(args.points, args.labels)
    config = NetworkConfig(
        HiddenConfig(args.units, "linear", dropout=0.0),
        OutputConfig(tail=1024, loss="softmax"),
        OptimizerConfig(args.optimizer, lr=RATES[args.optimizer]),
        precision=args.precision,
    )
    training = TrainingConfig(epochs=args.epochs, batch_size=128, schedule="constant")
    shape = BatchShape.of(X, Y, training.batch_size)
    before = psutil.Process().memory_info().rss
    begin = time.perf_counter()
    network = Network(FEATURES, args.labels, config, threads=args.threads)
    made = time.perf_counter()
    history = network.fit(X, Y, config=training)
    trained = time.perf_counter()
    resident_bytes = psutil.Process().memory_info().rss
    found = network.predict(X, 5)[0]
    predicted = time.perf_counter()
    hits = np.mean([bool(set(Y[i].indices) & set(found[i])) for i in range(args.points)])
    return {
        "labels": args.labels,
        "units": args.units,
        "optimizer": args.optimizer,
        "precision": args.precision,
        "make_seconds": round(made - begin, 2),
        "fit_seconds": round(trained - made, 2),
        "ms_per_batch": round(history.ms_per_batch, 2),
        "batches": history.batches,
        "predict_ms_per_point": round(1e3 * (predicted - trained) / args.points, 2),
        "loss": history.epochs[-1].loss,
        "points_that_find_a_label": float(hits),
        "predicted_bytes": resident(Network.bytes_needed(FEATURES, args.labels, config, batch=shape)),
        "grown_bytes": resident_bytes - before,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def samples(n, n_labels):
    """Samples of random features and labels."""
    rng = np.random.default_rng(0)
    offsets = [np.arange(n + 1) * each for each in (FEATURES_OF_A_POINT, LABELS_OF_A_POINT)]
    features, labels = (
        np.concatenate([np.sort(rng.choice(among, each, replace=False, shuffle=False)) for _ in range(n)])
        for among, each in ((FEATURES, FEATURES_OF_A_POINT), (n_labels, LABELS_OF_A_POINT))
    )
    values = np.ones(len(features), np.float32), np.ones(len(labels), np.float32)
    return (
        csr_matrix((values[0], features, offsets[0]), shape=(n, FEATURES)),
        csr_matrix((values[1], labels, offsets[1]), shape=(n, n_labels)),
    )


if __name__ == "__main__":
    main()
