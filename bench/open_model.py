"""How long does a saved network take to open, mapped for serving and read into memory, and to predict its first sample?

    python bench/open_model.py [--labels 670091] [--features 135909] [--units 128] [--repeats 5]

Random weights, saved twice in a temporary folder. Each opening is in a process of its own: medians of the seconds of
``Network.load``, of the first prediction and of one after it, and the memory that is the process's own and that it
shares with the file. The system has the files in its cache; from a cold disk the first predictions take what reading
the rows takes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from common import table

from slide import HiddenConfig, Network, NetworkConfig

OPEN = """
import json, sys, time
import numpy as np
from scipy.sparse import csr_matrix
from slide import Network

def seconds(action):
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start

path, mapped = sys.argv[1], sys.argv[2] == "True"
network, opened = seconds(lambda: Network.load(path, threads=1, mmap=mapped))
features = np.arange(0, network.n_features, network.n_features // 50, dtype=np.int32)
ones = np.ones(len(features), np.float32)
X = csr_matrix((ones, features, [0, len(features)]), shape=(1, network.n_features))
(ids, _), first = seconds(lambda: network.predict(X, 5))
_, later = seconds(lambda: network.predict(X, 5))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
own, shared = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
print(json.dumps({"open": opened, "first": first, "later": later, "own": own, "shared": shared, "ids": ids.tolist()}))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=670_091)
    parser.add_argument("--features", type=int, default=135_909)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(prefix="slide.") as folder:
        network = Network(args.features, args.labels, NetworkConfig(HiddenConfig(args.units)), trainable=False)
        network.save(Path(folder, "mapped"), serving=True)
        network.save(Path(folder, "read"))
        del network
        found = {"mapped": [], "read": []}
        for _ in range(args.repeats):
            for name, runs in found.items():
                runs.append(opened(Path(folder, name), name == "mapped"))
    assert found["mapped"][0]["ids"] == found["read"][0]["ids"], "the predictions differ"
    for name, runs in found.items():
        middle = {field: median(run[field] for run in runs) for field in runs[0] if field != "ids"}
        times = (f"{1e3 * middle[field]:.1f}" for field in ("open", "first", "later"))
        lines.append((name, *times, f"{middle['own']:.0f}", f"{middle['shared']:.0f}"))
    print(table(("", "opening, ms", "first sample, ms", "later, ms", "own memory, MiB", "of files, MiB"), lines))


def opened(path, mapped):
    command = [sys.executable, "-c", OPEN, str(path), str(mapped)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
