"""Has anything become slower? The ratios of the kernels' and batches' times to their twins', against the baseline's.

    python bench/compare_baseline.py [-k EXPRESSION] [--tolerance 0.15]
    python bench/compare_baseline.py --update

Runs `bench_kernels.py` and `bench_batch.py`, about two minutes on a quiet machine, prints a table and fails where a
ratio is more than 15 % above that in `baseline.json`. What seems slower is measured up to twice more, and its lowest
ratio counts: a busy machine makes things slower, never faster. ``--update`` writes the baseline anew, the medians of
three runs (``--runs``). A baseline from another instruction set, which is shown, is for orientation alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import table

from slide.kernels.parallel import isa

BENCH = Path(__file__).resolve().parent
FILES = ("bench_kernels.py", "bench_batch.py")
BASELINE = BENCH / "baseline.json"


def main(arguments=None):
    args = parse_arguments(arguments)
    if args.update:
        runs = [measure(args.k) for _ in range(args.runs)]
        ratios = {name: float(np.median([run[name]["ratio"] for run in runs])) for name in runs[0]}
        kept = read(args.baseline)["ratios"] if args.k and args.baseline.exists() else {}
        write(args.baseline, kept | ratios)
        print(f"wrote {len(ratios)} ratios to {args.baseline}")
        return 0
    if not args.baseline.exists():
        raise SystemExit(f"there is no baseline at {args.baseline}; make one with --update")
    baseline = read(args.baseline)
    if baseline["isa"] != isa():
        print(f"the baseline was measured with {baseline['isa']}, this is {isa()}: ratios may differ", file=sys.stderr)
    found = measure(args.k)
    for _ in range(args.attempts - 1):
        slower = [name for name in found if verdict(found, baseline["ratios"], name, args.tolerance) == "SLOWER"]
        if not slower:
            break
        for name, again in measure(None, slower).items():
            found[name] = min(found[name], again, key=lambda run: run["ratio"])
    gone = [] if args.k else sorted(set(baseline["ratios"]) - set(found))
    print(markdown(found, baseline["ratios"], gone, args.tolerance))
    verdicts = {verdict(found, baseline["ratios"], name, args.tolerance) for name in found}
    return 1 if gone or "SLOWER" in verdicts else 0


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", metavar="EXPRESSION", help="only these, as pytest's -k")
    parser.add_argument("--update", action="store_true", help="write the baseline in place of comparing with it")
    parser.add_argument("--runs", type=int, default=3, help="of which --update takes the medians")
    parser.add_argument("--tolerance", type=float, default=0.15, help="how far a ratio may be above the baseline")
    parser.add_argument("--attempts", type=int, default=3, help="measurements of what seems slower, at most")
    parser.add_argument("--baseline", type=Path, default=BASELINE, metavar="FILE.json")
    return parser.parse_args(arguments)


def measure(expression, names=()):
    """Return each benchmark's figures by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        chosen = [str(BENCH / name) for name in names or FILES]
        command = [sys.executable, "-m", "pytest", *chosen, f"--benchmark-json={report}"]
        if expression:
            command += ["-k", expression]
        run = subprocess.run(command, cwd=BENCH.parent, capture_output=True, text=True, check=False)
        if run.returncode:
            raise SystemExit(f"the benchmarks failed:\n{run.stdout[-4000:]}{run.stderr[-2000:]}")
        benchmarks = json.loads(report.read_text())["benchmarks"]
    return {
        benchmark["fullname"].removeprefix("bench/"): {
            "ms": 1e3 * benchmark["stats"]["median"],
            "rounds": benchmark["stats"]["rounds"],
            **benchmark["extra_info"],
        }
        for benchmark in benchmarks
    }


def verdict(found, baseline, name, tolerance):
    if name not in baseline:
        return "new"
    change = found[name]["ratio"] / baseline[name] - 1
    if change > tolerance:
        return "SLOWER"
    return "faster" if change < -tolerance else ""


def markdown(found, baseline, gone, tolerance):
    header = ["benchmark", "ms", "twin, ms", "rounds", "ratio", "baseline", "change, %", ""]
    rows = []
    for name, run in found.items():
        before = baseline.get(name)
        change = "" if before is None else f"{100 * (run['ratio'] / before - 1):+.0f}"
        row = [name, f"{run['ms']:.2f}", f"{run['twin_ms']:.2f}", run["rounds"], f"{run['ratio']:.4f}"]
        row += ["" if before is None else f"{before:.4f}", change, verdict(found, baseline, name, tolerance)]
        rows.append(row)
    rows += [[name, "", "", "", "", f"{baseline[name]:.4f}", "", "GONE"] for name in gone]
    return table(header, rows)


def read(path):
    return json.loads(path.read_text())


def write(path, ratios):
    ratios = {name: float(f"{ratio:.4g}") for name, ratio in sorted(ratios.items())}
    path.write_text(json.dumps({"isa": isa(), "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
