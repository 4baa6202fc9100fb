"""How long does a step take over slow links, and how many bytes? Beside the same network's dense gradients.

    python bench/distributed_links.py [--nodes 2 4] [--mbit 1000 100] [--labels 670091] [--json]

Every rank is a node of its own (network namespaces on this machine, joined by links of the given speed in either
direction; see `bench/links.py`; needs root and MPICH). Measured are

- ``slide``: ``--batches`` batches of a network whose output neurons the ranks share, median milliseconds after a few to
  warm up, and the bytes that a rank receives, counted by the communicator and, with all headers, by the interface;
- ``dense``: what data parallel training with dense gradients does in each step besides computing: MPI's Allreduce of as
  many float32 numbers as the network has parameters. Nothing is computed, so that it is a lower bound of such a step;
- ``calls``: single collectives of some sizes, which `bench/distributed_model.py` has its latency and bandwidth from.

Also computed: the bytes that a ring moves for the dense gradients, 2 (N - 1) / N of them in either direction, and the
time that these take on the link. The ranks share this machine's cores and memory: two on two cores are as fast as two
machines, four compute half as fast each. As set: 12 minutes and 6 GB, most of it for dense gradients at 100 Mbit/s.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import links
from common import groups, table
from shapes import FEATURES, LABELS, UNITS, make_samples

CALLS = (1_000, 100_000, 1_000_000, 4_000_000)
"""Bytes that a rank receives from all others together in the calls that are timed."""


def main():
    args = parse_arguments()
    if args.worker:
        WORKERS[args.worker](args)
        return
    why = links.possible()
    if why is not None:
        sys.exit(f"no nodes can be made here: {why}")
    runs = []
    for n in args.nodes:
        for mbit in args.mbit:
            for worker in args.only:
                if n == 1 and worker != "slide":
                    continue
                run = {"nodes": n, "mbit": mbit, "what": worker} | measure(worker, n, mbit, args)
                runs.append(run)
                print(json.dumps(run), file=sys.stdout if args.json else sys.stderr, flush=True)
    if not args.json:
        print(markdown(runs, parameters(args)))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", nargs="+", type=int, default=[2, 4], metavar="N")
    parser.add_argument("--mbit", nargs="+", type=int, default=[0, 1000, 100], help="0 for as fast as it goes")
    parser.add_argument("--only", nargs="+", choices=WORKERS, default=list(WORKERS), metavar="WHAT")
    parser.add_argument("--labels", type=int, default=LABELS)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--units", type=int, default=UNITS)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--dense-steps", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="a line of JSON for every run, as soon as it is there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def parameters(args):
    return args.features * args.units + args.units + args.labels * (args.units + 1)


def measure(worker, n, mbit, args):
    """Run a worker on n nodes; return what its first rank says, and what the first node sent meanwhile."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", worker]
    for name in ("labels", "features", "units", "batch_size", "points", "batches", "dense_steps"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    with links.nodes(n, mbit) as hosts:
        done = subprocess.run(links.mpiexec(hosts, command), stdout=subprocess.PIPE, text=True, check=True)
    sizes = {name: getattr(args, name) for name in ("labels", "features", "units", "batch_size")}
    return sizes | json.loads(done.stdout.splitlines()[-1])


def interface_bytes():
    """What this node has received so far, headers of all layers included; 0 outside of one."""
    counter = Path("/sys/class/net/eth0/statistics/rx_bytes")
    return int(counter.read_text()) if counter.exists() else 0


def dense(args):
    """Sum as many float32 numbers as there are parameters over all ranks."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    gradients = np.ones(parameters(args), np.float32)
    # Connections are made by the first call.
    comm.Allreduce(MPI.IN_PLACE, gradients[:1000])
    seconds, before = [], interface_bytes()
    for _ in range(args.dense_steps):
        gradients[:] = 1
        comm.Barrier()
        start = time.perf_counter()
        comm.Allreduce(MPI.IN_PLACE, gradients)
        seconds.append(time.perf_counter() - start)
    wire = (interface_bytes() - before) / args.dense_steps
    assert (gradients == comm.size).all()
    if comm.rank == 0:
        received = 2 * (comm.size - 1) / comm.size * gradients.nbytes
        print(json.dumps({"ms": 1e3 * float(np.median(seconds)), "computed_mb": received / 1e6, "wire_mb": wire / 1e6}))


def calls(args):
    """Time single collectives: what a rank has goes to all (join), and each rank's part goes to it (exchange)."""
    from mpi4py import MPI

    from slide.ranks.comm import Ranks

    ranks, found = Ranks(MPI.COMM_WORLD), []
    for size in CALLS:
        each = max(1, size // max(1, ranks.size - 1))
        own, counts = np.ones(each, np.uint8), np.full(ranks.size, each)
        parts = np.ones(each * ranks.size, np.uint8)
        for name, call in (
            ("join", lambda own=own, counts=counts: ranks.allgatherv("calls", own, counts)),
            ("exchange", lambda parts=parts, counts=counts: ranks.alltoallv("calls", parts, counts)),
        ):
            seconds = []
            for _ in range(12):
                ranks.comm.Barrier()
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            found.append({"call": name, "bytes": each * (ranks.size - 1), "ms": 1e3 * float(np.median(seconds[2:]))})
    if ranks.rank == 0:
        print(json.dumps({"calls": found}))


def slide(args):
    """Train for some batches and tell how long they took and what arrived."""
    from mpi4py import MPI

    from slide import HiddenConfig, Network, NetworkConfig, TrainingConfig

    comm, seconds, received = MPI.COMM_WORLD, [], []
    X, Y = make_samples(args.points, args.features, args.labels)
    network = Network(args.features, args.labels, NetworkConfig(HiddenConfig(args.units)), comm=comm, threads=1)

    def on_batch(progress):
        seconds.append(time.perf_counter())
        received.append(interface_bytes())

    config = TrainingConfig(batch_size=args.batch_size, max_batches=args.batches)
    history = network.fit(X, Y, config=config, callbacks=[on_batch])
    if comm.rank == 0:
        skipped = len(seconds) // 4
        times, wire = np.diff(seconds)[skipped:], np.diff(received)[skipped:]
        kinds = {kind: round(n) for kind, n in history.bytes_per_batch.items() if n >= 1}
        run = {"ms": 1e3 * float(np.median(times)), "mean_ms": 1e3 * float(times.mean())}
        print(json.dumps(run | {"counted_bytes": kinds, "wire_mb": float(wire.mean()) / 1e6}))


WORKERS = {"slide": slide, "dense": dense, "calls": calls}


def markdown(runs, n_parameters):
    """A row for each number of nodes and speed of links."""
    header = ["nodes", "link, Mbit/s", "slide, ms", "slide, MB received (counted)", "dense, ms", "dense, MB received"]
    header += ["dense computed, ms", "dense / slide, time", "dense / slide, bytes"]
    rows = []
    for (n, mbit), some in groups([run for run in runs if run["what"] != "calls"], ["nodes", "mbit"]).items():
        by = {run["what"]: run for run in some}
        ours, dense = by.get("slide"), by.get("dense")
        row = [f"{n}", f"{mbit}" if mbit else "unlimited"]
        if ours:
            counted = sum(ours["counted_bytes"].values()) / 1e6
            row += [f"{ours['ms']:,.1f}", f"{ours['wire_mb']:.2f} ({counted:.2f})"]
        else:
            row += ["", ""]
        computed = 2 * (n - 1) / n * 4 * n_parameters
        row += [f"{dense['ms']:,.0f}", f"{dense['wire_mb']:,.0f}"] if dense else ["", f"{computed / 1e6:,.0f} computed"]
        row += [f"{8e-3 * computed / mbit:,.0f}" if mbit else ""]
        if ours and dense:
            row += [f"{dense['ms'] / ours['ms']:,.0f}", f"{dense['wire_mb'] / ours['wire_mb']:,.0f}"]
        rows.append(row + [""] * (len(header) - len(row)))
    return table(header, rows)


if __name__ == "__main__":
    main()
