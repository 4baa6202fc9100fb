"""How long the package takes to import, in a process of its own, beside what it builds on.

    python bench/import_time.py [--repeats 11]
"""

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = (
    "pass",
    "import slide",
    "from slide import RunConfig",
    "from slide import Network",
    "import numpy",
    "import scipy.sparse, scipy.linalg.cython_blas",
)


def seconds(statement):
    """Return the time of a process that does nothing else."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main():
    """Measure in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    for statement in STATEMENTS:
        seconds(statement)  # into the file cache
    times = [[seconds(statement) for statement in STATEMENTS] for _ in range(repeats)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    print("| statement | seconds, median | without Python's own start |\n|---|---:|---:|")
    for statement, median in zip(STATEMENTS, medians, strict=True):
        print(f"| `{statement}` | {median:.3f} | {median - medians[0]:.3f} |")


if __name__ == "__main__":
    main()
