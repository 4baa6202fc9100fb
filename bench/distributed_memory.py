"""Ten million labels on four ranks: what do they take in memory, all together?

    python bench/distributed_memory.py [--labels 10000000] [--ranks 4] [--units 128] [--precision bf16] [--batches 100]

Trains on synthetic samples, as many as Amazon-670K's have of features and labels, in the default mode, each rank with
its share of the output neurons. Resident memory of all ranks is added up ten times a second: its largest sum is what
the machines must have together (pages that ranks share are counted once for each), beside the sum of the ranks' own
largest. Also the milliseconds of a batch, the bytes that a rank receives in it, and the loss at both ends. With
``--save`` the network is saved with its moments at the end, in shares, and that counts too.

As set 11 GB and some minutes on two cores; with ``--precision fp32`` 19 GB. Refuses to begin if less is free.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))

from links import launcher
from shapes import FEATURES, make_samples

from slide import HiddenConfig, Network, NetworkConfig, TrainingConfig
from slide.kernels.rows import PRECISIONS

SPARE = 1 << 30
"""Bytes to leave free on the machine, beside what ranks need for everything but parameters."""

EACH = 400 << 20
"""Bytes of a rank besides its parameters: libraries, data, frequencies of all labels."""


def main():
    args = parse_arguments()
    if args.worker:
        work(args)
        return
    needed = bytes_needed(args)
    free = psutil.virtual_memory().available
    if needed + SPARE > free:
        sys.exit(f"{needed / 1e9:.1f} GB are needed and a spare one, {free / 1e9:.1f} are free; see --precision")
    run = measure(args)
    if args.json:
        print(json.dumps(run))
        return
    print(
        f"{args.labels:,} labels x {args.units} units in {args.precision} on {args.ranks} ranks, {run['batches']} "
        f"batches: {run['peak_gb']:.2f} GB resident at most in all ({run['largest_gb']:.2f} GB the sum of the ranks' "
        f"largest, {run['parameters_gb']:.2f} GB of it parameters), {run['ms']:,.0f} ms a batch (median), "
        f"{sum(run['bytes'].values()) / 1e3:,.0f} KB received a batch, "
        f"loss {run['loss'][0]:.2f} to {run['loss'][1]:.2f}"
    )


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=10_000_000)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--save", action="store_true", help="save the network at the end, in a folder that is removed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def configuration(args):
    return NetworkConfig(HiddenConfig(args.units), precision=args.precision)


def bytes_needed(args):
    """What all ranks take: hidden layers on each, a share of the output layer, and what each process takes besides."""
    rows = -(-args.labels // args.ranks)
    each = Network.bytes_needed(args.features, rows, configuration(args))
    return args.ranks * (sum(each.values()) + EACH + 24 * args.labels)


def measure(args):
    """Run the ranks and follow their memory; return the figures."""
    command = [launcher(), "-n", str(args.ranks), sys.executable, str(Path(__file__).resolve()), "--worker", "yes"]
    for name in ("labels", "features", "units", "precision", "batches", "batch_size"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    command += ["--save"] if args.save else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak = [0]

    def follow():
        while process.poll() is None:
            peak[0] = max(peak[0], resident(process.pid))
            time.sleep(0.1)

    follower = threading.Thread(target=follow)
    follower.start()
    said = process.communicate()[0]
    follower.join()
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(said.splitlines()[-1]) | {"peak_gb": peak[0] / 1e9}


def resident(pid):
    """Return the resident bytes of an mpiexec's ranks, added up."""
    total = 0
    try:
        for child in psutil.Process(pid).children(recursive=True):
            total += child.memory_info().rss
    except psutil.Error:
        # One has ended meanwhile.
        pass
    return total


def work(args):
    """Train as one of the ranks; rank 0 prints the figures."""
    from mpi4py import MPI

    comm, rank = MPI.COMM_WORLD, MPI.COMM_WORLD.rank
    X, Y = make_samples(args.batch_size * 40, args.features, args.labels)
    network = Network(args.features, args.labels, configuration(args), comm=comm, threads=1)
    seconds, losses = [], []

    def on_batch(progress):
        seconds.append(time.perf_counter())
        losses.append(progress.loss)

    config = TrainingConfig(epochs=1000, batch_size=args.batch_size, max_batches=args.batches)
    history = network.fit(X, Y, config=config, callbacks=[on_batch])
    if args.save:
        folder = comm.bcast(tempfile.mkdtemp(prefix="slide.memory.") if rank == 0 else None)
        network.save(Path(folder) / "network", moments=True)
        comm.Barrier()
        if rank == 0:
            subprocess.run(["rm", "-r", folder], check=True)
    parameters = sum(buffer["bytes"] for buffer in network.memory_report() if buffer["name"].endswith(" weights"))
    found = comm.gather((psutil.Process().memory_full_info().rss, largest(), parameters))
    if rank == 0:
        received = {kind: round(n) for kind, n in history.bytes_per_batch.items() if n >= 1}
        run = {"batches": history.batches, "ms": 1e3 * float(np.median(np.diff(seconds))), "bytes": received}
        run |= {"loss": [losses[0], losses[-1]], "largest_gb": sum(each[1] for each in found) / 1e9}
        print(json.dumps(run | {"parameters_gb": sum(each[2] for each in found) / 1e9}))


def largest():
    """Return the largest resident memory of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    main()
