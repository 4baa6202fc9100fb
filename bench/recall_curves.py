"""What hash tables find in a trained output layer: recall@10 against the budget, for each family and policy.

    python bench/recall_curves.py TRAIN [--epochs 1] [--max-batches N] [--plot FILE.png] [--json]

Trains the default network, then looks up hidden vectors of random training samples. Every family has the default number
of codes and, where it reaches the frontier of `slide.lsh.tuning.tune`, the number of codes found there.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from slide import Network, NetworkConfig, TrainingConfig
from slide.config import LSHConfig, RehashConfig, SamplingConfig
from slide.data import load
from slide.lsh.diagnostics import as_signal, draw, exact_top, recall
from slide.lsh.index import NeuronIndex
from slide.lsh.tuning import FAMILIES, POLICIES, tune
from slide.system.buffers import Buffers

BUDGETS = tuple(2**i for i in range(5, 14))


def main():
    args = parse_arguments()
    data = load(args.train)
    network = Network(data.n_features, data.n_labels, NetworkConfig(seed=args.seed))
    config = TrainingConfig(epochs=args.epochs, max_batches=args.max_batches)
    history = network.fit(data.X, data.Y, config=config)
    rows = np.sort(np.random.default_rng(args.seed).permutation(data.n_samples)[: args.queries])
    signal = network.layer_inputs(data.X[rows])[-1]
    result = tune(network.output, signal, recall_target=args.recall, time_limit=args.time, max_queries=args.queries)
    curves = measure(network, signal, best_codes(result))
    if args.json:
        print(json.dumps({"curves": curves, "tuning": result.to_dict(), "train_seconds": history.train_seconds}))
    else:
        print(f"{data!r}, {history.batches:,} batches in {history.train_seconds:.0f} s; {len(rows)} queries\n")
        print(markdown(curves))
        print(f"\n{result}")
    if args.plot is not None:
        plot(curves, result, args.plot, args.train.parent.name)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-batches", type=int)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--recall", type=float, default=0.9, help="recall that tuning aims at")
    parser.add_argument("--time", type=float, default=60.0, help="seconds of tuning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def best_codes(result):
    """Each family's values of k worth showing: the default, and the one that found the most."""
    codes = {}
    for family in FAMILIES:
        tried = [one for one in result.measurements if one.lsh.family == family and one.lsh.capacity is None]
        if tried:
            codes[family] = list(dict.fromkeys((tried[0].lsh.k, max(tried, key=lambda one: one.recall).lsh.k)))
    return codes


def measure(network, signal, codes):
    """Return a record for each family, k and policy, with the recall at every budget."""
    table, threads = network.output.table, network.threads
    signal = as_signal(signal, table)
    exact = exact_top(table, signal, 10, threads)
    budgets = [budget for budget in BUDGETS if budget <= table.n_rows]
    buffers, curves = Buffers(), []
    for family in codes:
        for k in codes[family]:
            lsh = LSHConfig(family=family, k=k)
            index = NeuronIndex(table, lsh, RehashConfig(), SamplingConfig(), network.config.seed, buffers)
            index.rebuild(0, threads)
            hashed = index.hash(signal, threads)
            for sampling in POLICIES:
                draws = [draw(index, hashed, sampling, budget, threads) for budget in budgets]
                curves.append(
                    {
                        "lsh": dataclasses.asdict(lsh),
                        "policy": sampling.policy,
                        "budget": budgets,
                        "recall": [recall(one, exact) for one in draws],
                        "active": [float(one.counts.mean()) for one in draws],
                    }
                )
    return curves


def markdown(curves):
    budgets = curves[0]["budget"]
    lines = [
        "| recall@10, % | policy | " + " | ".join(f"{budget:,}" for budget in budgets) + " |",
        "|---|---|" + "---:|" * len(budgets),
    ]
    for curve in curves:
        cells = " | ".join(f"{100 * value:.1f}" for value in curve["recall"])
        lines.append(f"| {name(curve)} | {curve['policy']} | {cells} |")
    return "\n".join(lines)


def name(curve):
    return f"{curve['lsh']['family']}, k = {curve['lsh']['k']}"


def plot(curves, result, path, title):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [sampling.policy for sampling in POLICIES]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), sharey=True, layout="constrained")
    for ax, policy in zip(axes, panels, strict=True):
        for curve in curves:
            if curve["policy"] == policy:
                ax.plot(curve["active"], curve["recall"], marker=".", label=name(curve))
        if result.choice.sampling.policy == policy:
            lsh = result.choice.lsh
            label = f"tuned: {lsh.family}, k = {lsh.k}, {lsh.l} tables"
            ax.plot(result.choice.active, result.choice.recall, "k*", markersize=12, label=label)
        ax.set(title=policy, xlabel="active neurons", xscale="log")
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    axes[0].set_ylabel("recall@10")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
