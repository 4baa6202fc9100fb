"""Memory of converting text to a folder and of training from it, over the size: python bench/streaming_memory.py

Text of each size is made of the same random samples over and over, converted, and trained on from the folder, each in a
process of its own that reads /proc/self/status every few milliseconds. What is shown is the most that resident memory
grew by from the start of the work on: what the process allocated (RssAnon), and pages of the files it maps (RssFile).
The files are removed as soon as they are used up.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import table

from slide import HiddenConfig, Network, NetworkConfig, TrainingConfig
from slide.data import convert, load, make_extreme, save_xc

MEGABYTES = (100, 300, 1000, 2000)
POINTS, FEATURES, LABELS = 12_000, 50_000, 20_000
"""Of the text that is repeated."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", metavar="MB", type=int, nargs="+", default=MEGABYTES, help="of the text")
    parser.add_argument("--batches", metavar="N", type=int, default=1500)
    parser.add_argument("--batch-size", metavar="N", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where the files are made; by default the system's temporary one")
    parser.add_argument("--json", action="store_true", help="print a record for every size instead of the table")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(STEPS[args.step](args)))
        return
    runs = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            runs.append({"text_mb": size, **measure(Path(folder), size, args)})
        if args.json:
            print(json.dumps(runs[-1]), flush=True)
    if not args.json:
        print(table(HEADER, [show(run) for run in runs]))


HEADER = [
    "text", "points", "folder",
    "converting", "allocated", "mapped",
    "training", "allocated", "mapped",
]  # fmt: skip


def show(run):
    cells = [f"{run['text_mb']:,} MB", f"{run['samples']:,}", f"{run['folder_mb']:,.0f} MB"]
    for step in STEPS:
        cells += [f"{run[step]['seconds']:.0f} s", f"{run[step]['anon_mb']:.0f} MB", f"{run[step]['file_mb']:.0f} MB"]
    return cells


def measure(folder, size, args):
    """Return the figures of one size."""
    samples = write_text(folder / "text.txt", size * 10**6)
    options = ["--folder", str(folder), "--batches", str(args.batches), "--batch-size", str(args.batch_size)]
    figures = {"points": samples}
    for step in STEPS:
        command = [sys.executable, __file__, "--step", step, *options]
        figures[step] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        if step == "convert":
            figures["folder_mb"] = sum(file.stat().st_size for file in (folder / "data").iterdir()) / 1e6
            (folder / "text.txt").unlink()
    shutil.rmtree(folder / "data")
    return figures


def write_text(path, n_bytes):
    """Write text of about this size, and return its number of samples."""
    save_xc(path, make_extreme(POINTS, FEATURES, LABELS, seed=0))
    body = path.read_bytes().partition(b"\n")[2]
    times = max(1, round(n_bytes / len(body)))
    with open(path, "wb") as file:
        file.write(f"{times * POINTS} {FEATURES} {LABELS}\n".encode())
        for _ in range(times):
            file.write(body)
    return times * POINTS


def convert_text(args):
    with Peaks() as peaks:
        convert(args.folder / "text.txt", args.folder / "data")
    return peaks.grown


def train(args):
    config = NetworkConfig(HiddenConfig(32))
    # What a process allocates once, for whatever network comes first, is not the data's.
    small = make_extreme(1000, FEATURES, LABELS, seed=0)
    Network(FEATURES, LABELS, config, threads=1).fit(small.X, small.Y, config=TrainingConfig(epochs=1))
    network = Network(FEATURES, LABELS, config, threads=1)
    training = TrainingConfig(epochs=100, max_batches=args.batches, batch_size=args.batch_size)
    with Peaks() as peaks:
        data = load(args.folder / "data")
        network.fit(data.X, data.Y, config=training)
    return peaks.grown


STEPS = {"convert": convert_text, "train": train}


class Peaks:
    """Follows this process's resident memory while a block runs."""

    def __enter__(self):
        self._start, self._began = resident(), time.perf_counter()
        self._most, self._done = list(self._start), threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._done.set()
        self._thread.join()
        anon, file = ((most - start) / 1e6 for most, start in zip(self._most, self._start, strict=True))
        self.grown = {"seconds": time.perf_counter() - self._began, "anon_mb": anon, "file_mb": file}

    def _follow(self):
        while not self._done.wait(0.005):
            self._most = [max(pair) for pair in zip(self._most, resident(), strict=True)]


def resident():
    """Return the bytes of RssAnon and RssFile."""
    status = Path("/proc/self/status").read_text()
    return [1024 * int(re.search(rf"{name}:\s+(\d+) kB", status).group(1)) for name in ("RssAnon", "RssFile")]


if __name__ == "__main__":
    main()
