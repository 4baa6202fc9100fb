"""Train with frequent checkpoints, kill the process at random moments, and see that every restart goes on.

    python tools/kill_anywhere.py --kills 200

A run of ``slide train`` writes a checkpoint every few batches and is killed (SIGKILL) again and again: at a moment
drawn evenly from its first second, or within the time that it takes to write a checkpoint or, less often, the network.
After every kill

- every checkpoint that there is must load, and be finite;
- the newest must be no older than the last that was complete before the kill;
- the network of an earlier run, if one was saved, must load: killed or not, its place is never empty;
- ``slide train --resume`` must go on from the newest checkpoint.

Whenever a run gets to its end its weights are held against those of a run that nobody killed, bit for bit, and another
begins. The children are forked from this process, which has imported everything already: a restart takes a fraction of
a second. Exit status 1 if anything was lost.
"""

from __future__ import annotations

import os

# A process that has never had threads may fork.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import mmap
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from slide import cli
from slide.data import make_extreme, save_npz
from slide.network import Network
from slide.persist import saved_network
from slide.train.checkpoints import Checkpoints, SavedRun, names_in

SETTINGS = """
[network]
precision = "bf16-moments"
[[network.hidden]]
units = 32
[network.output]
candidates = "lsh+tail"
budget = 16
tail = 16
[network.output.lsh]
k = 3
l = 4
[training]
epochs = 3
batch_size = 40
"""
"""Of a run: tables, debts, draws and rounding all must go on as they were."""

EVERY = 4
"""Batches from one checkpoint to the next."""

SPAN = 1.0
"""Seconds within which a kill that waits for nothing comes."""

ANYWHERE, NETWORK = 0.4, 0.1
"""Shares of the kills that wait for nothing, and for the network to be written; the others wait for a checkpoint."""

LONGEST = 900.0
"""Seconds after which a child that neither ends nor does what is waited for has hung."""

WRITING, WRITES, COMPLETE, SECONDS, CHECKED, RESUMED = range(6)
"""What a child tells, in memory that it shares: what it is writing now (1: a checkpoint, 2: the network), how many
writes it has begun, the batch of the last checkpoint that it completed, the mean seconds of a write, how many
checkpoints it found sound, and the batch it goes on from."""


class Board:
    """Numbers that a child writes and its parent reads, also once the child is dead."""

    def __init__(self):
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.numbers = np.frombuffer(self._memory, np.float64, 6)

    def clear(self):
        """Forget what the last child told, but for what it completed."""
        complete, seconds = self.numbers[COMPLETE], self.numbers[SECONDS]
        self.numbers[:] = 0
        self.numbers[COMPLETE], self.numbers[SECONDS] = complete, seconds


class Run:
    """A run of training in a folder, begun or gone on with by one child at a time.

    Parameters
    ----------
    folder : Path
        With the data and the settings.
    name : str
        Of the network.
    board : Board
    """

    def __init__(self, folder: Path, name: str, board: Board):
        self.folder, self.model, self.board = folder, folder / name, board
        self.checkpoints = folder / f"{name}.checkpoints"

    def start(self) -> int:
        """Fork a child that trains; return its process id."""
        self.board.clear()
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            status = self._train()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _train(self):
        had_model = (self.folder / f"{self.model.name} was saved").exists()
        if had_model:
            check(self.model)
        names = names_in(self.checkpoints) if self.checkpoints.is_dir() else []
        for name in names:
            check(self.checkpoints / name)
        told = self.board.numbers
        told[CHECKED] = len(names)
        rest = []
        if names:
            rest, told[RESUMED] = ["--resume", str(self.checkpoints)], SavedRun(self.checkpoints).batch
        if told[RESUMED] < told[COMPLETE]:
            raise RuntimeError(f"went on from batch {told[RESUMED]:.0f}, complete was {told[COMPLETE]:.0f}")
        self._watch()
        options = ["--config", "run.toml", "--out", str(self.model), "--checkpoint-every", str(EVERY), "--threads", "1"]
        os.chdir(self.folder)
        status = cli.main(["train", "train.npz", *options, *rest])
        (self.folder / f"{self.model.name} was saved").touch()
        return status

    def _watch(self):
        """Tell of every write."""
        told, write, save = self.board.numbers, Checkpoints._write, saved_network.save

        def telling(kind, function, *arguments, **options):
            start = time.perf_counter()
            told[WRITES] += 1
            told[WRITING] = kind
            function(*arguments, **options)
            told[WRITING] = 0
            seconds = time.perf_counter() - start
            told[SECONDS] = 0.8 * told[SECONDS] + 0.2 * seconds if told[SECONDS] else seconds

        def telling_write(self, network, state, facts, name):
            telling(1, write, self, network, state, facts, name)
            told[COMPLETE] = state.progress.batch

        Checkpoints._write = telling_write
        saved_network.save = lambda *arguments, **options: telling(2, save, *arguments, **options)

    def forget(self):
        """Make ready for another run, in which the network of this one is replaced."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.board.numbers[COMPLETE] = 0

    def digest(self) -> dict[str, bytes]:
        """Return the bytes of all that was saved of the network's weights."""
        return {file.name: file.read_bytes() for file in sorted(self.model.glob("*.npy"))}


def check(path: Path) -> None:
    """Load a saved network; raise if it is damaged or has anything that is not finite."""
    network = Network.load(path, threads=1)
    for name, layer in network.layers.by_name.items():
        for key, array in layer.state().items():
            if not np.isfinite(np.asarray(array)).all():
                raise RuntimeError(f"{path}: {name}.{key} is not finite")


def wait(pid: int) -> int | None:
    """Return a child's exit status, None if it has not ended."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def until(pid: int, condition) -> int | None:
    """Wait until something holds, or the child has ended, whose exit status is then returned."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        status = wait(pid)
        if status is not None:
            return status
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"a child did not get on within {LONGEST:.0f} s")
        time.sleep(0.0005)
    return None


def prepare(folder: Path, samples: int) -> None:
    """Write the data and the settings."""
    save_npz(folder / "train.npz", make_extreme(samples, 300, 200, labels_per_sample=3, seed=5))
    (folder / "run.toml").write_text(SETTINGS)


def harass(folder: Path, kills: int, seed: int, samples: int = 1600) -> dict:
    """Kill a run again and again; return what came of it.

    Parameters
    ----------
    folder : Path
        Empty; stays as the last run left it.
    kills, seed, samples : int
    """
    prepare(folder, samples)
    board, draws = Board(), random.Random(seed)
    told = board.numbers
    reference = Run(folder, "reference", board)
    if until(reference.start(), lambda: False) != 0:
        raise RuntimeError(f"the run that nobody kills failed; see {folder / 'log.txt'}")
    expected = reference.digest()
    run = Run(folder, "model", board)
    run.forget()
    report = {
        "kills": 0,
        "in_checkpoints": 0,
        "in_the_network": 0,
        "restarts": 0,
        "resumed": 0,
        "checkpoints_checked": 0,
        "runs_completed": 0,
        "lost": 0,
        "faults": [],
    }
    begin = time.monotonic()
    while True:
        last = report["kills"] >= kills
        pid = run.start()
        status, moment = None, time.monotonic() + draws.uniform(0, SPAN)
        if last:
            status = until(pid, lambda: False)
        else:
            kind, writes, part = draws.random(), draws.randint(1, 6), draws.uniform(0, 1)
            if kind < ANYWHERE:
                status = until(pid, lambda moment=moment: time.monotonic() >= moment)
            else:
                least = 2 if kind > 1 - NETWORK else 1
                status = until(pid, lambda n=writes, w=least: told[WRITING] >= w and (w == 2 or told[WRITES] >= n))
                moment = time.monotonic() + part * told[SECONDS]
                if status is None:
                    status = until(pid, lambda moment=moment: time.monotonic() >= moment)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        report["restarts"] += 1
        report["resumed"] += told[RESUMED] > 0
        report["checkpoints_checked"] += int(told[CHECKED])
        if status == -signal.SIGKILL:
            report["kills"] += 1
            report["in_checkpoints"] += told[WRITING] == 1
            report["in_the_network"] += told[WRITING] == 2
            continue
        if status == 0 and run.digest() == expected:
            report["runs_completed"] += 1
        else:
            report["lost"] += 1
            report["faults"].append(
                "the weights are others than without kills" if status == 0 else f"exit status {status}"
            )
            if status != 0:
                break
        if last:
            break
        run.forget()
    report = {name: value if isinstance(value, list) else int(value) for name, value in report.items()}
    return {**report, "seconds": round(time.monotonic() - begin, 1)}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", metavar="N", type=int, default=200)
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the moments")
    parser.add_argument("--points", metavar="N", type=int, default=1600, help="of the data: how long a run takes")
    parser.add_argument("--folder", metavar="FOLDER", type=Path, help="where to work; kept. By default a temporary one")
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="slide-kill."))
    folder.mkdir(parents=True, exist_ok=True)
    report = harass(folder.resolve(), args.kills, args.seed, args.points)
    print(json.dumps(report, indent=1))
    if report["lost"]:
        print(f"the log of all runs is {folder / 'log.txt'}", file=sys.stderr)
    elif args.folder is None:
        shutil.rmtree(folder)
    return 1 if report["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
