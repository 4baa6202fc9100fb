"""What a batch costs with and without locks: update "grouped" against "hogwild", in the paper's mode.

    python bench/hogwild.py [--labels 50000] [--batches 20] [--threads 1 2]

Synthetic data, ``candidates = "lsh"``. The two train in turn, a batch each, so that whatever else the machine does
meets both; the ratio is that of their medians.
"""

import argparse
import json

import numpy as np
from common import table

from slide import Network, NetworkConfig, OutputConfig
from slide.config import UPDATES
from slide.data import make_extreme

WARM_UP = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--budget", type=int, default=256)
    parser.add_argument("--loss", choices=("softmax", "bce"), default="softmax")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="a line of JSON for every number of threads")
    args = parser.parse_args()
    train, _ = make_extreme(args.batch_size * 10, args.features, args.labels, test_samples=1)
    runs = [{"threads": threads, **medians(args, threads, train)} for threads in args.threads]
    if args.json:
        print("\n".join(map(json.dumps, runs)))
    else:
        rows = [[run["threads"], *(f"{run[name]:.2f}" for name in (*UPDATES, "ratio"))] for run in runs]
        print(table(["threads", "grouped, ms a batch", "hogwild, ms a batch", "hogwild / grouped"], rows))


def medians(args, threads, train):
    """Return the median milliseconds of a batch for each update, and their ratio."""
    output = OutputConfig("lsh", budget=args.budget, loss=args.loss)
    frequency = np.asarray(train.Y.sum(axis=0)).ravel() / train.n_samples
    networks, seconds = {}, {update: [] for update in UPDATES}
    for update in UPDATES:
        config = NetworkConfig(output=output, update=update)
        networks[update] = Network(train.n_features, train.n_labels, config, threads=threads)
        networks[update].output.set_label_frequency(frequency, samples=train.n_samples)
    reader = networks["grouped"].reader(train.X, train.Y, args.batch_size)
    for i in range(WARM_UP + args.batches):
        first = i * args.batch_size % train.n_samples
        batch = reader.read(np.arange(first, first + args.batch_size))
        for update, network in networks.items():
            seconds[update].append(network.train_batch(batch).seconds)
    found = {update: 1000 * float(np.median(times[WARM_UP:])) for update, times in seconds.items()}
    return {**found, "ratio": found["hogwild"] / found["grouped"]}


if __name__ == "__main__":
    main()
