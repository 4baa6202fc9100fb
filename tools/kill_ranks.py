"""Does a distributed run survive the death of a rank? Runs that lose one again and again, and go on each time.

    python tools/kill_ranks.py [--kills 20] [--ranks 4 2 3] [--seed 0]

A small network is trained over MPI with a checkpoint every few batches. A rank drawn at random is killed (SIGKILL) at a
moment drawn at random, every other time while a checkpoint is being written. Then ``mpiexec`` must end by itself, no
rank may be left, every checkpoint under its own name must be whole, none of those that were complete may be lost, and
the run must go on from the newest with ``--resume``. There are two series of half of the kills each: one stays at the
first number of ranks, and its weights at the end must be those of a run that nobody killed, to the bit; the other goes
on with the next number of ranks every time, and its weights must be the same but for rounding.

A line for every kill: seconds until ``mpiexec`` was back, whether a checkpoint was being written, the newest checkpoint
before and after, what was said. Ends with status 1 if anything was lost. About four minutes as set.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from slide.data import make_extreme, save_npz
from slide.network import Network
from slide.persist import saved_network
from slide.train import checkpoints

CONFIG = """
[[network.hidden]]
units = 32

[network.output]
candidates = "inbatch"

[network.optimizer]
lr = 0.01

[training]
batch_size = 60
"""
"""The candidates are the same on any number of ranks: other modes draw for each shard of the labels."""

SHARES = "12"
"""Twelve shares of the samples are the same batches on any number of ranks that divides it."""

LAUNCHER = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

PATIENCE = 120.0
"""Seconds after which something hangs."""


def main():
    """Run the series; return 1 if anything was lost."""
    args = parse_arguments()
    if LAUNCHER is None:
        sys.exit("there is no mpiexec: pip install mpich, or the system's MPI")
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory(prefix="slide.kill.", dir=args.folder) as folder:
        folder = Path(folder)
        data = make_extreme(args.points, 300, 500, labels_per_sample=2, seed=1)
        save_npz(folder / "train.npz", data)
        (folder / "config.toml").write_text(CONFIG)
        undisturbed = Run(folder, "undisturbed", args)
        undisturbed.finish(args.ranks[0])
        expected = undisturbed.weights()
        same = Run(folder, "same", args)
        others = Run(folder, "others", args)
        kills = []
        for i in range(args.kills):
            run, ranks = same, args.ranks[0]
            if i % 2:
                run, ranks = others, args.ranks[i // 2 % len(args.ranks)]
            kill = {"kill": i + 1, "series": run.name} | run.kill(ranks, rng, writing=i // 2 % 2 == 1)
            kills.append(kill)
            print(json.dumps(kill) if args.json else line(kill), flush=True)
        same.finish(args.ranks[0])
        others.finish(args.ranks[-1])
        summary = {
            "kills": len(kills),
            "lost": sum(bool(kill["lost"]) for kill in kills),
            "while_writing": sum(kill["writing"] for kill in kills),
            "seconds_to_end": [round(f([kill["seconds"] for kill in kills]), 2) for f in (np.median, np.max)],
            "same_ranks_bitwise": equal(same.weights(), expected),
            "other_ranks_difference": difference(others.weights(), expected),
        }
    if args.json:
        print(json.dumps(summary))
    else:
        print(
            f"{summary['kills']} kills, {summary['while_writing']} of them while a checkpoint was written, "
            f"{summary['lost']} lost; mpiexec was back after {summary['seconds_to_end'][0]} s (median; at most "
            f"{summary['seconds_to_end'][1]} s). Weights at the end: as without kills "
            f"{'to the bit' if summary['same_ranks_bitwise'] else 'NOT to the bit'} on {args.ranks[0]} ranks, within "
            f"{summary['other_ranks_difference']:.1e} of the largest on changing numbers of ranks"
        )
    ok = not summary["lost"] and summary["same_ranks_bitwise"] and summary["other_ranks_difference"] < args.tolerance
    return 0 if ok else 1


def parse_arguments():
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 2, 3], metavar="N")
    parser.add_argument("--points", type=int, default=6000, help="to train on, of which a batch has 60")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--every", type=int, default=4, help="batches from one checkpoint to the next")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="of weights on other numbers of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs are, by default where temporary files are")
    parser.add_argument("--json", action="store_true", help="a line of JSON for every kill")
    return parser.parse_args()


class Run:
    """A run that is killed and goes on."""

    def __init__(self, folder, name, args):
        self.name = name
        self._folder, self._args = folder, args
        self._model = folder / name
        self._checkpoints = folder / f"{name}.checkpoints"

    def finish(self, ranks):
        """Let the run go on to its end."""
        with self._start(ranks) as process:
            said = process.communicate(timeout=10 * PATIENCE)[0]
        if process.returncode:
            raise RuntimeError(f"{self.name} on {ranks} ranks ended with status {process.returncode}:\n{said}")

    def weights(self):
        """Return the weights at the end."""
        network = Network.load(self._model, threads=1)
        return network.copy_weights()

    def kill(self, ranks, rng, *, writing):
        """Let the run go on for a while and kill a rank; return what became of it."""
        before = self._complete()
        victim, written, delay = int(rng.integers(ranks)), int(rng.integers(1, 4)), float(rng.uniform(0, 0.3))
        with self._start(ranks) as process:
            self._wait_for(process, lambda: len(set(self._complete()) - set(before)) > 0)
            for _ in range(written - 1):
                newest = self._complete()[-1]
                self._wait_for(process, lambda newest=newest: self._complete()[-1] > newest)
            if writing:
                self._wait_for(process, self._unfinished)
                delay /= 30
            time.sleep(delay)
            members = ranks_of(process.pid)
            complete, unfinished = self._complete(), self._unfinished()
            ended = process.poll() is not None
            start = time.perf_counter()
            if not ended:
                os.kill(members[victim].pid, signal.SIGKILL)
            said = process.communicate(timeout=PATIENCE)[0]
            seconds = time.perf_counter() - start
        left = psutil.wait_procs(list(members.values()), timeout=1)[1]
        return {
            "ranks": ranks,
            "victim": victim,
            "seconds": round(seconds, 3),
            "status": process.returncode,
            "writing": unfinished,
            "newest_before": complete[-1],
            "newest": self._complete()[-1],
            "ended_before": ended,
            "lost": self._lost(complete, left),
            "said": said[-1500:],
        }

    def _lost(self, complete, left):
        """What is not as it should be, empty if nothing."""
        found = self._complete()
        if found[-1] < complete[-1]:
            return f"{complete[-1]} is gone"
        if left:
            return f"{len(left)} ranks were left"
        for name in found:
            try:
                Network.load(self._checkpoints / name, threads=1)
            except saved_network.CheckpointError as error:
                return str(error)
        return ""

    def _start(self, ranks):
        command = [LAUNCHER, "-n", str(ranks), sys.executable, "-m", "slide", "train", self._folder / "train.npz"]
        command += ["--distributed", "--config", self._folder / "config.toml", "--out", self._model, "--threads", "1"]
        command += ["--checkpoint-every", self._args.every, "--shares", SHARES, "--epochs", self._args.epochs]
        if self._checkpoints.exists() and self._complete():
            command += ["--resume", self._checkpoints]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
        return subprocess.Popen(list(map(str, command)), **pipes)

    def _complete(self):
        return checkpoints.names_in(self._checkpoints) if self._checkpoints.is_dir() else []

    def _unfinished(self):
        return self._checkpoints.is_dir() and any(name.startswith(".") for name in os.listdir(self._checkpoints))

    def _wait_for(self, process, condition):
        until = time.monotonic() + PATIENCE
        while not condition() and process.poll() is None:
            if time.monotonic() > until:
                process.kill()
                raise RuntimeError(f"{self.name}: nothing for {PATIENCE:.0f} seconds:\n{process.communicate()[0]}")
            time.sleep(5e-4)


def ranks_of(pid):
    """Return the processes that an mpiexec started and that have a rank, by its number, not what these started."""
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        try:
            environment = process.environ()
            # MPICH's name, and Open MPI's.
            rank = environment.get("PMI_RANK", environment.get("OMPI_COMM_WORLD_RANK"))
            if rank is not None and process.name().startswith("python"):
                found[int(rank)] = process
        except psutil.Error:
            continue
    return found


def equal(weights, expected):
    """Whether two networks' weights are the same to the bit."""
    return all(np.array_equal(weights[name], array) for name, array in expected.items())


def difference(weights, expected):
    """The largest difference of two networks' weights, of the largest weight of the same array."""
    return max(float(abs(weights[name] - array).max() / abs(array).max()) for name, array in expected.items())


def line(kill):
    """Return what became of a run as a line to read."""
    return (
        f"{kill['kill']:3d} {kill['series']:>6} {kill['ranks']} ranks, rank {kill['victim']} killed"
        f"{' while writing' * kill['writing']}: back after {kill['seconds']:.2f} s, status "
        f"{kill['status']}, newest {kill['newest_before']} before, {kill['newest']} after"
        f"{kill['lost'] and ', LOST: ' + kill['lost']}"
    )


if __name__ == "__main__":
    sys.exit(main())
