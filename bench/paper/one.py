"""One training run in a process of its own, measured; prints one JSON object. Started by report.py."""

import ctypes
import json
import resource
import sys
import time
from dataclasses import replace

from slide.hugepages.counters import Counters
from slide.system.smaps import resident_bytes


def main():
    job = json.loads(sys.argv[1])
    if job["config"]["network"]["hugepages"] == "off":
        # For the whole process, whatever allocates: prctl(PR_SET_THP_DISABLE).
        ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
    # Before the first parallel loop, whose threads they then count too.
    counters = Counters(children=True)
    from slide import Network, RunConfig
    from slide.config.dicts import from_dict
    from slide.data import load

    config = from_dict(RunConfig, job["config"])
    train, test = load(job["train"]), load(job["test"])
    if job["limit"]:
        train = train.subset(slice(job["limit"]))
    network = Network(train.n_features, train.n_labels, config.network, threads=job["threads"])
    # Tables, scratch and threads are there when the clock starts.
    warm = replace(config.training, max_batches=2, eval_points=0)
    network.fit(train.X, train.Y, config=warm)
    before, cpu = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    with counters:
        history = network.fit(train.X, train.Y, config=replace(config.training, eval_points=0))
    after, cpu = resource.getrusage(resource.RUSAGE_SELF), time.process_time() - cpu
    report = network.memory_report()
    told = [line for line in report if line["resident_bytes"]]
    resident = sum(line["resident_bytes"] for line in told)
    quality = network.evaluate(test.X, test.Y, ks=(1,))
    print(
        json.dumps(
            {
                "seconds": history.train_seconds,
                "ms_per_batch": history.ms_per_batch,
                "utilisation": cpu / (history.train_seconds * network.threads),
                "P@1": quality["P@1"],
                "active": history.active_per_sample,
                "minor_faults": after.ru_minflt - before.ru_minflt,
                "major_faults": after.ru_majflt - before.ru_majflt,
                "resident": resident_bytes(),
                "huge_share": sum(line["hugepage_bytes"] for line in told) / resident if resident else None,
                "events": counters.read(),
                "missing": counters.missing,
            }
        )
    )


if __name__ == "__main__":
    main()
