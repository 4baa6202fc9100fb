"""Runs a user's own build of the released C++, or of the optimised one; neither is part of this package."""

import os
import re
import subprocess
import sys
import time

import numpy as np
from systems import Unavailable

from slide.data import save_xc

MEASURED = (
    "the released C++ 805 ms a batch in the median and 983 in the mean, with rebuilt tables, in 14.8 GB; "
    "the optimised C++ with AVX-512 98 to 125 and 195 to 240, in 9.0 GB"
)

# Both read these settings. Their tables are rebuilt every 6,400 samples, and read new functions every 128,000.
SETTINGS = {
    "RangePow": "6,18",
    "K": "2,6",
    "L": "20,50",
    "Sparsity": "1,0.005,1,1",
    "Rehash": 6400,
    "Rebuild": 128_000,
    "Lr": 0.0001,
    "numLayer": 2,
}


def configuration(folder, train, test, args):
    """Write the data and the configuration file, and return its path and the log's."""
    samples = min(args.reference_batches * args.batch_size, train.n_samples // args.batch_size * args.batch_size)
    # It measures itself on 20 batches before it starts, whatever it is told, and on 50 after an epoch.
    tested = min(test.n_samples, 50 * args.batch_size)
    save_xc(folder / "reference-train.txt", train.subset(np.arange(samples)))
    save_xc(folder / "reference-test.txt", test.subset(np.resize(np.arange(tested), 50 * args.batch_size)))
    log = folder / "reference.log"
    log.unlink(missing_ok=True)
    settings = SETTINGS | {
        "Batchsize": args.batch_size,
        "InputDim": train.n_features,
        "totRecords": samples,
        "totRecordsTest": 50 * args.batch_size,
        "Epoch": 2,
        "Stepsize": 10**9,
        "sizesOfLayers": f"{args.units},{train.n_labels}",
        "trainData": folder / "reference-train.txt",
        "testData": folder / "reference-test.txt",
        "weight": folder / "reference-start.npz",
        "savedweight": folder / "reference-weights.npz",
        "logFile": log,
    }
    path = folder / "reference.csv"
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return path, log


def run_reference(binary, train, test, folder, args):
    """Return the figures of one epoch of ``--reference-batches`` batches.

    Raises
    ------
    Unavailable
        It cannot be run, or ended without an epoch.
    """
    if not os.access(binary, os.X_OK):
        raise Unavailable("it is not a program that can be run")
    config, log = configuration(folder, train, test, args)
    output = folder / "reference.out"
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    with output.open("wb") as out:
        process = subprocess.Popen([binary.resolve(), config], stdout=out, stderr=out, cwd=folder, env=environment)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            found = last_entry(log)
            if pid or (found and found[0] > 0):
                break
            time.sleep(0.5)
        if not pid:
            # The epoch is over; another one would say nothing new.
            process.kill()
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if not found or not found[0]:
        raise Unavailable(f"it ended before an epoch did, and wrote: {output.read_text(errors='replace')[-500:]}")
    batches, seconds, quality = found
    printed = []
    if args.reference_pattern:
        printed = [float(ms) for ms in re.findall(args.reference_pattern, output.read_text(errors="replace"))]
    return {
        "batches": batches,
        "mean_ms": float(np.mean(printed)) if printed else 1e3 * seconds / batches,
        "median_ms": float(np.median(printed)) if printed else None,
        "peak_mb": usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3),
        "curve": [(seconds, batches, quality)],
    }


def last_entry(log):
    """Return (batches, seconds, P@1) from the log's last whole line of three numbers, None if there is none."""
    if not log.exists():
        return None
    lines = [line.split() for line in log.read_text().rpartition("\n")[0].splitlines()]
    entries = [line for line in lines if len(line) == 3]
    return (int(entries[-1][0]), float(entries[-1][1]), float(entries[-1][2])) if entries else None
