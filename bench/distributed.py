"""Do several ranks learn what one does, how long does a step take them, and what travels?

    python bench/distributed.py [TRAIN TEST] [--ranks 1 2 4] [--grids labels features data] [--candidates uniform full]

Trains the same network on 1, 2 and 4 ranks of this machine, a thread each, with label shards, with the features in
shards too (`features`) and with two replicas of each label shard (`data`); synthetic data without TRAIN. All runs have
the same shares of the samples, and so the same batches. The table has the loss of each epoch, P@1 on TEST, the median
milliseconds of a step and the kilobytes that rank 0 receives in it, by kind. Ranks need cores: with fewer free cores
than ranks times say nothing. Needs the extra `mpi` and mpiexec. As set: 6 minutes on four cores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import table

GRIDS = ("labels", "features", "data")
KINDS = ("features", "hidden", "loss", "gradient", "rows", "average")


def main():
    args = parse_arguments()
    if args.child:
        child(args)
        return
    launcher = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if launcher is None:
        sys.exit("there is no mpiexec: pip install mpich, or the system's MPI")
    runs = []
    for candidates in args.candidates:
        for grid in args.grids:
            for ranks in args.ranks:
                if grid != "labels" and ranks < 2:
                    continue
                command = [launcher, "-n", str(ranks), sys.executable, __file__, *sys.argv[1:], "--child"]
                command += ["--grids", grid, "--candidates", candidates]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                runs.append(json.loads(done.stdout))
                print(json.dumps(runs[-1]), file=sys.stdout if args.json else sys.stderr, flush=True)
    if not args.json:
        print(markdown(runs))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN", type=Path, nargs="?")
    parser.add_argument("test", metavar="TEST", type=Path, nargs="?")
    parser.add_argument("--ranks", nargs="+", type=int, default=(1, 2, 4), metavar="N")
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=GRIDS)
    parser.add_argument("--candidates", nargs="+", default=("uniform", "full"), metavar="MODE")
    parser.add_argument("--loss", choices=("bce", "softmax"), default="softmax")
    parser.add_argument("--labels", type=int, default=50_000, help="of the synthetic data")
    parser.add_argument("--points", type=int, default=20_000, help="of the synthetic data")
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-batches", type=int)
    parser.add_argument("--average-every", type=int, help="of the grid data: batches between averages")
    parser.add_argument("--keep-rows", type=float, default=1.0, help="of the grid data: share of the rows that travel")
    parser.add_argument("--json", action="store_true", help="a line of JSON for every run, as soon as it is there")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train is not None and args.test is None:
        parser.error("TEST is needed too")
    return args


def child(args):
    """Train on the ranks that there are; rank 0 prints what came of it."""
    from mpi4py import MPI

    from slide import HiddenConfig, Network, NetworkConfig, OutputConfig, TrainingConfig
    from slide.data import load, make_extreme
    from slide.distributed import DistributionConfig

    if args.train is None:
        sizes = {"n_samples": args.points, "n_features": 20_000, "n_labels": args.labels}
        train, test = make_extreme(**sizes, noise=0.3, test_samples=1000)
    else:
        train, test = load(args.train), load(args.test)
    comm, (grid,), (candidates,) = MPI.COMM_WORLD, args.grids, args.candidates
    portions = int(np.lcm.reduce([*args.ranks, comm.Get_size()]))
    options = {"portions": portions}
    if grid == "features":
        options["shard_features"] = True
    if grid == "data":
        options |= {"data_shards": 2, "average_every": args.average_every, "keep_rows": args.keep_rows}
    config = NetworkConfig(HiddenConfig(args.units), OutputConfig(candidates=candidates, loss=args.loss))
    distribution = DistributionConfig(**options)
    network = Network(train.n_features, train.n_labels, config, threads=1, comm=comm, distribution=distribution)
    times = [time.perf_counter()]
    training = TrainingConfig(epochs=args.epochs, batch_size=args.batch_size, max_batches=args.max_batches)
    history = network.fit(
        train.X, train.Y, config=training, callbacks=[lambda progress: times.append(time.perf_counter())]
    )
    quality = network.evaluate(test.X, test.Y)
    if network.leads:
        steps = 1e3 * np.diff(times)
        print(
            json.dumps(
                {
                    "candidates": candidates,
                    "ranks": comm.Get_size(),
                    "grid": f"{grid}: {network.grid.data.size} x {network.grid.labels.size}",
                    "losses": [epoch.loss for epoch in history.epochs],
                    "P@1": quality["P@1"],
                    "ms": float(np.median(steps)),
                    "active": history.active_per_sample,
                    "bytes": {kind: history.bytes_per_batch.get(kind, 0.0) for kind in KINDS},
                }
            )
        )


def markdown(runs):
    head = ["candidates", "ranks", "grid: data x labels", "loss, epoch by epoch", "P@1, %", "ms a step"]
    head += [f"{kind}, kB" for kind in KINDS]
    rows = []
    for run in runs:
        losses = ", ".join(f"{loss:.4f}" for loss in run["losses"])
        traffic = [f"{run['bytes'][kind] / 1e3:.0f}" for kind in KINDS]
        figures = [run["ranks"], run["grid"], losses, f"{100 * run['P@1']:.2f}", f"{run['ms']:.1f}"]
        rows.append([run["candidates"], *figures, *traffic])
    return table(head, rows)


if __name__ == "__main__":
    main()
