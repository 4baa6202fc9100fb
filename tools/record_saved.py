"""Writes a small file of every format that this version saves, and the weights that its training reaches.

``python tools/record_saved.py tests/data/saved/VERSION`` is run once for each release, with that release installed. The
tests load these files with every later version, and train again to compare the weights.

Weights are equal to the bit only where the same instructions compute them. So the recorder runs itself with the
instruction set of `PINNED`, which every x86-64 processor of the last ten years has, and ``environment.json`` says what
else counts. Elsewhere the comparison has a tolerance.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PINNED = {
    "SLIDE_ISA": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
}
"""Environment in which all recent x86-64 processors compute the same bits."""

TABLES = {"k": 3, "l": 6}

OUTPUTS = {
    "uniform": {},
    "uniform-frequency": {"tail_power": 0.5, "label_smoothing": 1e-3},
    "uniform-softmax": {"loss": "softmax"},
    "lsh": {"candidates": "lsh", "loss": "softmax", "lsh": TABLES},
    "lsh-tail": {"candidates": "lsh+tail", "lsh": TABLES},
    "lsh-inbatch": {"candidates": "lsh+inbatch", "loss": "softmax", "lsh": TABLES},
    "inbatch": {"candidates": "inbatch"},
    "topk": {"candidates": "topk", "loss": "softmax"},
    "topk-tail": {"candidates": "topk+tail"},
    "full": {"candidates": "full", "loss": "softmax", "targets": "sum"},
    "full-propensity": {"candidates": "full", "label_weights": "propensity"},
    "start-from-means": {"loss": "softmax", "init": "mean"},
}
"""Output layers that are trained, by name; see `slide.OutputConfig`."""

NETWORKS = {
    "two-hidden-layers": {"hidden": [{"units": 24}, {"units": 16, "dropout": 0.3}]},
    "sampled-hidden-layer": {
        "hidden": [{"units": 32}, {"units": 64, "candidates": "lsh", "budget": 12, "lsh": {"k": 2, "l": 4}}]
    },
    "sampled-first-layer": {"hidden": [{"units": 64, "candidates": "lsh", "budget": 24, "lsh": {"k": 2, "l": 4}}]},
    "bf16": {"precision": "bf16"},
    "adagrad": {"optimizer": {"name": "adagrad", "lr": 0.05}},
    "sgd": {"optimizer": {"name": "sgd", "lr": 0.5}},
    "clipped": {"optimizer": {"clip_norm": 0.5}, "hidden": [{"units": 24}, {"units": 16}]},
    "decayed-and-idf": {"optimizer": {"weight_decay": 0.01}, "feature_weights": "idf", "input_dropout": 0.2},
}
"""Other settings of the network, by name; see `slide.NetworkConfig`."""

RANKS = {
    "label-shards": {},
    "data-shards": {"data_shards": 2},
    "shard-features": {"shard_features": True},
    "keep-rows": {"data_shards": 2, "keep_rows": 0.5},
}
"""Grids of two ranks, by name; see `slide.distributed.DistributionConfig`."""


def configurations():
    """Return the settings of every network that is trained in one process, as nested dictionaries, by name."""
    found = {name: {"output": {"budget": 20, "tail": 30, **output}} for name, output in OUTPUTS.items()}
    for name, settings in NETWORKS.items():
        found[name] = {"output": {"budget": 20, "tail": 30}, **settings}
    for settings in found.values():
        settings.setdefault("hidden", [{"units": 16}])
    return found


def data():
    """Return the data that the networks are trained on, and more of its kind."""
    from slide.data import make_extreme

    return make_extreme(200, 80, 60, test_points=40, seed=5)


def config_of(settings):
    """Return a `slide.NetworkConfig`."""
    from slide import RunConfig

    with tempfile.TemporaryDirectory() as folder:
        import tomli_w

        file = Path(folder, "run.toml")
        file.write_text(tomli_w.dumps({"network": settings}))
        return RunConfig.from_toml(file).network


def training(**fields):
    """Return a `slide.TrainingConfig`."""
    from slide import TrainingConfig

    return TrainingConfig(**{"epochs": 2, "batch_size": 32, **fields})


def train(settings, *, threads=2, **options):
    """Return a network with these settings, trained."""
    from slide import Network

    known, _ = data()
    network = Network(known.n_features, known.n_labels, config_of(settings), threads=threads)
    network.fit(known.X, known.Y, config=training(), **options)
    return network


def train_on_ranks(distribution, comm, **options):
    """Return a network over the ranks of a communicator, trained."""
    from slide import Network
    from slide.distributed import DistributionConfig

    known, _ = data()
    settings = {"output": {"budget": 20, "tail": 30}, "hidden": [{"units": 16}]}
    network = Network(
        known.n_features,
        known.n_labels,
        config_of(settings),
        threads=1,
        comm=comm,
        distribution=DistributionConfig(**distribution),
    )
    network.fit(known.X, known.Y, config=training(), **options)
    return network


def environment():
    """Return what the bits of the weights depend on, besides the program."""
    import platform

    import numpy as np
    from threadpoolctl import threadpool_info

    from slide.kernels.parallel import isa

    blas = [f"{info['internal_api']} {info['version']}" for info in threadpool_info() if info["user_api"] == "blas"]
    return {
        "machine": platform.machine(),
        "isa": isa(),
        "numpy": np.__version__,
        "blas": sorted(set(blas)),
        "libc": " ".join(platform.libc_ver()),
    }


def weights(folder):
    """Train every configuration and write the weights, an .npz file for each."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in configurations().items():
        np.savez_compressed(folder / f"{name}.npz", **train(settings).copy_weights())
    (folder / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n")


def weights_of_ranks(folder):
    """Train over the ranks that mpiexec has started and write the weights; every rank calls this."""
    import numpy as np
    from mpi4py import MPI

    for name, distribution in RANKS.items():
        whole = train_on_ranks(distribution, MPI.COMM_WORLD).gather()
        if whole is not None:
            np.savez_compressed(folder / f"ranks-{name}.npz", **whole.copy_weights())


def formats(folder):
    """Write a file or folder of every format that one process saves, and what the networks predict."""
    import numpy as np

    from slide import Checkpoints, SlideClassifier, cli
    from slide.data import convert, save_npz, save_xc

    folder.mkdir(parents=True, exist_ok=True)
    known, others = data()
    names = configurations()
    tables = train(names["lsh-tail"])
    bf16, deep = train(names["bf16"]), train(names["two-hidden-layers"])
    for name, network in (("network", tables), ("network-bf16", bf16), ("network-deep", deep)):
        network.save(folder / name)
    tables.save(folder / "network-moments", moments=True)
    bf16.save(folder / "network-bf16-moments", moments=True)
    tables.save(folder / "network-serving", serving=True)
    bf16.save(folder / "network-bf16-serving", serving=True)
    tables.save(folder / "network.safetensors")

    # Seven batches make an epoch: the checkpoint is in the middle of the second.
    run = train(names["uniform"], checkpoints=Checkpoints(folder / "checkpoints", every=5, keep=1))
    run.save(folder / "checkpoints-end", moments=True)

    labels = [[f"tag {label}" for label in row.indices] for row in known.Y]
    classifier = SlideClassifier(hidden_units=16, epochs=2, batch_size=32, random_state=1, n_jobs=2)
    classifier.fit(known.X, labels)
    classifier.save(folder / "classifier")

    text = folder / "data.txt"
    save_xc(text, others)
    save_npz(folder / "data.npz", others)
    convert(text, folder / "converted")
    # With its history, as the command line saves it.
    cli.main(["train", str(text), "--out", str(folder / "run"), "--epochs", "2", "--hidden", "16"])

    predicted = {}
    for name, network in (("tables", tables), ("bf16", bf16), ("deep", deep), ("end", run)):
        predicted[f"{name}.ids"], predicted[f"{name}.scores"] = network.predict(others.X)
    predicted["classifier.probabilities"] = classifier.predict_proba(others.X)
    np.savez_compressed(folder / "predicted.npz", **predicted)


def formats_of_ranks(folder):
    """Write a network and a checkpoint in shards; every rank calls this."""
    from mpi4py import MPI

    from slide import Checkpoints

    checkpoints = Checkpoints(folder / "shards-checkpoints", every=5, keep=1)
    network = train_on_ranks({}, MPI.COMM_WORLD, checkpoints=checkpoints)
    network.save(folder / "shards", moments=True)


PARTS = {
    "weights": weights,
    "formats": formats,
    "weights-of-ranks": weights_of_ranks,
    "formats-of-ranks": formats_of_ranks,
}


def command(part, folder):
    """Return the command that does a part of the work in a process with the pinned environment."""
    start = []
    if part.endswith("of-ranks"):
        beside = Path(sys.executable).parent
        start = [shutil.which("mpiexec", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"), "-n", "2"]
    return [*start, sys.executable, str(Path(__file__).resolve()), str(folder), part]


def main():
    """Do one part of the work in this process or, without one, all parts in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go, such as tests/data/saved/VERSION")
    parser.add_argument("part", nargs="?", choices=PARTS, help="do this part alone, in this process")
    options = parser.parse_args()
    if options.part is not None:
        PARTS[options.part](options.folder / "weights" if options.part.startswith("weights") else options.folder)
        return
    for part in PARTS:
        subprocess.run(command(part, options.folder.resolve()), check=True, env={**os.environ, **PINNED})


if __name__ == "__main__":
    main()
