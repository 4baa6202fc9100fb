"""Targets that are saved networks: folders, mapped ones, single files, and checkpoints of runs."""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from slide import (
    Checkpoints,
    ConfigError,
    HiddenConfig,
    LSHConfig,
    Network,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RehashConfig,
    SlideClassifier,
    TrainingConfig,
)
from slide.data import DataError, load, make_extreme
from slide.data.folder import _fingerprint as fingerprint_of
from slide.data.folder import save_folder, verify
from slide.persist import saved_network, shards
from slide.persist.checks import CheckpointError
from slide.persist.format import MANIFEST, manifest, training_arrays
from slide.train.checkpoints import SavedRun

from . import folders
from .readers import check_dataset
from .targets import MIB, Finding, Target

N_FEATURES, N_LABELS = 12, 10
LSH = LSHConfig(k=2, l=2)
TRAINING = TrainingConfig(epochs=3, batch_size=8, holdout=0.2, patience=2, eval_points=8)


def samples(n=24):
    """A data set for the networks."""
    return make_extreme(n, N_FEATURES, N_LABELS, seed=1)


def small(candidates="uniform", hidden=None, optimizer="adam", **fields):
    """The configuration of a small network."""
    hidden = hidden or HiddenConfig(4, dropout=0.0)
    output = OutputConfig(candidates, budget=4, tail=4, lsh=LSH, rehash=RehashConfig(period=2))
    return NetworkConfig(hidden, output, OptimizerConfig(optimizer, lr=0.01, **fields.pop("rule", {})), **fields)


def trained(config):
    """A small network that was trained for some batches, so that rows owe something and tables are built."""
    network = Network(N_FEATURES, N_LABELS, config, threads=1)
    data = samples()
    network.fit(data.X, data.Y, config=TrainingConfig(epochs=2, batch_size=8))
    batch = network.reader(data.X, data.Y, 8).read(np.arange(8))
    for _ in range(2):
        network.train_batch(batch)
    return network


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def saved(save) -> dict[str, bytes]:
    """Return the files of the folder that a function makes at the path it is given."""
    with tempfile.TemporaryDirectory(prefix="slide-fuzz.") as folder:
        path = Path(folder) / "saved"
        save(path)
        return files_of(path)


def use(network: Network) -> None:
    """Predict with a network that was loaded and, if it can be, train it: whatever it holds, ids stay in range."""
    n = 3
    rows, columns = np.repeat(np.arange(n), 2), np.array([0, network.n_features - 1] * n)
    X = csr_matrix((np.ones(2 * n, np.float32), (rows, columns)), shape=(n, network.n_features))
    ids, _ = network.predict(X, k=3)
    assert ((ids >= -1) & (ids < network.n_labels)).all(), "predicts labels that there are not"
    # A batch of what the configuration asks for is not the loader's to bound.
    if not network.trainable or network.step > 2**31 - 100 or network.config.output.tail > 2**16:
        return
    Y = csr_matrix((np.ones(n, np.float32), (np.arange(n), np.arange(n) % network.n_labels)), (n, network.n_labels))
    # As `fit` does.
    network.output.set_label_frequency(np.full(network.n_labels, 1 / network.n_labels), samples=network.n_labels)
    reader = network.reader(X, Y, n)
    # Finite weights may be too large to train on, which is said.
    with contextlib.suppress(FloatingPointError):
        for _ in range(3):
            network.train_batch(reader.read(np.arange(n)))
    network.settle()


def json_edits(content: bytes, file: int, count: int = 6) -> dict[str, bytes]:
    """Return edits of a JSON file of a folder, spread over its values, by place.

    Parameters
    ----------
    content : bytes
    file : int
        Its number among the folder's.
    count : int
    """
    places = folders.count_places(content)
    width = 1 if places <= 256 else 2
    chosen = range(0, places, max(1, places // count))
    return {
        str(place): bytes([4, file]) + place.to_bytes(width, "little") + bytes([place * 7 % len(folders.VALUES)])
        for place in chosen
    }


class _Folder(Target):
    """A folder, which the bytes edit."""

    documented = (CheckpointError,)

    def write(self, data, folder):
        path = folder / "saved"
        path.mkdir()
        folders.write(path, data, self.bases)
        return path

    def examine(self, data):
        """See `Target.examine`; a network may require pages of a size that the system has not got."""
        try:
            return super().examine(data)
        except Finding as finding:
            if "hugepages are required" not in str(finding):
                raise
            return False

    def allowance(self, path, data):
        # What is too large for a small network's tables to be honest, and NumPy's and the kernels' room for a batch.
        return 160 * MIB + 256 * sum(file.stat().st_size for file in path.iterdir() if file.is_file())

    def seeds(self):
        """Return every sound folder, what is done to files of the first, and changes here and there in its JSON."""
        edits = {
            "weights-nan": [8, "output.weights.npy", 5, 0, 0],
            "shape": [7, "output.weights.npy", 0],
            "objects": [7, "output.bias.npy", 2],
            "truncated": [2, "output.weights.npy", 130, 0],
            "missing": [10, "output.bias.npy"],
            "zero": [11, "network.json", 0],
            "fifo": [11, "output.weights.npy", len(folders.OUTSIDE) + 1],
        }
        seeds = {f"sound-{i}": bytes([i]) for i in range(len(self.bases))}
        names = sorted(self.bases[0])
        for what, (kind, name, *rest) in edits.items():
            if name in names:
                seeds[what] = bytes([0, kind, names.index(name), *rest])
        for name in names:
            if name.endswith(".json"):
                for what, edit in json_edits(self.bases[0][name], names.index(name)).items():
                    seeds[f"{name}-{what}"] = b"\x00" + edit
        return seeds


class Model(_Folder):
    """`slide.Network.load` and `slide.SlideClassifier.load` of folders, with moments and without."""

    name = "model"

    @cached_property
    def bases(self):
        """Networks of several kinds."""
        sampled = HiddenConfig(6, candidates="lsh", budget=3, lsh=LSHConfig("dwta", k=1, l=2, bin_size=4))
        networks = [
            small(),
            small("lsh+tail", rule={"weight_decay": 0.01}, feature_weights="idf"),
            small("uniform", (HiddenConfig(4), sampled), precision="bf16"),
            small("lsh", optimizer="adagrad"),
            small("full", optimizer="sgd", precision="bf16-moments"),
        ]
        bases = [saved(lambda path, c=c: trained(c).save(path, moments=True)) for c in networks]
        bases.append(saved(trained(small()).save))
        data = samples()
        labels = [[f"label {id_}" for id_ in data.Y[i].indices] or ["none"] for i in range(data.n_samples)]
        classifier = SlideClassifier(epochs=1, batch_size=8, hidden_units=4, n_jobs=1).fit(data.X, labels)
        bases.append(saved(classifier.save))
        return bases

    def read(self, path, data):
        use(Network.load(path, threads=1))
        if (path / "estimator.json").exists():
            classifier = SlideClassifier.load(path, n_jobs=1)
            classifier.predict(csr_matrix((2, classifier.n_features_in_), dtype=np.float32))


class Shards(_Folder):
    """`slide.Network.load` of what several processes saved, each some rows."""

    name = "shards"

    @cached_property
    def bases(self):
        """Two networks, one with hash tables and with the numbers of its shares' rows in files."""
        return [
            saved(lambda path, c=c, numbered=numbered: save_in_shares(path, trained(c), numbered))
            for c, numbered in ((small(), False), (small("lsh+tail"), True))
        ]

    def read(self, path, data):
        use(Network.load(path, threads=1))


def save_in_shares(path, network, numbered, n_shares=2):
    """Save a network as so many processes do, of which each has every n-th row, or rows that files number."""
    network.settle()
    path.mkdir()
    entries = [{} for _ in range(n_shares)]
    arrays = network.layers.parameters(moments=True) | training_arrays(network.layers)
    for name, array in arrays.items():
        for share, written in enumerate(entries):
            rows = range(share, len(array), n_shares)
            part = shards.Part(array[share::n_shares], np.array(rows) if numbered else rows)
            if len(part.rows):
                written[name] = shards.write_shard(path, name, f"{share}-of-{n_shares}", part)
    shards.write_manifest(path, entries)
    about = manifest(network.layers, moments=True, layout="shards")
    (path / MANIFEST).write_text(json.dumps(about))


class Mapped(_Folder):
    """`slide.Network.load` of what was saved for serving, mapped and read."""

    name = "mapped"

    @cached_property
    def bases(self):
        """Networks of both precisions, and one of two layers."""
        networks = [small(), small(precision="bf16"), small("lsh", (HiddenConfig(4), HiddenConfig(5)))]
        return [saved(lambda path, c=c: trained(c).save(path, serving=True)) for c in networks]

    def read(self, path, data):
        use(Network.load(path, threads=1, mmap=True))
        use(Network.load(path, threads=1))


class Safetensors(Target):
    """`slide.Network.load` of a single file: its length, its header, the JSON in that, or its numbers are edited."""

    name = "safetensors"
    documented = (CheckpointError,)

    @cached_property
    def bases(self):
        """The parts of one file, as the files of a folder."""
        with tempfile.TemporaryDirectory(prefix="slide-fuzz.") as folder:
            path = Path(folder) / "saved.safetensors"
            trained(small("lsh+tail", (HiddenConfig(4), HiddenConfig(5)), feature_weights="idf")).save(path)
            content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        about = header["__metadata__"].pop("slide")
        return [
            {
                "about.json": about.encode(),
                "header.json": json.dumps(header).encode(),
                "length": b"",
                "numbers.npy": bytes(128) + content[8 + size :],
            }
        ]

    def write(self, data, folder):
        path = folder / "saved.safetensors"
        parts = folder / "parts"
        parts.mkdir()
        # Without the edits that make something else of a file.
        folders.write(parts, data, self.bases, links=False)
        parts = files_of(parts)
        header = parts.get("header.json", b"")
        try:
            tree = json.loads(header)
            if "about.json" in parts:
                tree["__metadata__"]["slide"] = parts["about.json"].decode("utf-8", "replace")
            header = json.dumps(tree).encode()
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        length = parts.get("length", b"") or struct.pack("<Q", len(header))
        path.write_bytes(length + header + parts.get("numbers.npy", b"")[128:])
        return path

    def read(self, path, data):
        use(Network.load(path, threads=1))

    def seeds(self):
        seeds = {"sound": b"\x00", "huge-header": bytes([0, 1, 2, 8, 0, *[255] * 6, 0, 0])}
        for i, name in enumerate(("about.json", "header.json")):
            seeds |= {f"{name}-{what}": b"\x00" + edit for what, edit in json_edits(self.bases[0][name], i).items()}
        return seeds


class Resume(_Folder):
    """`slide.train.checkpoints.SavedRun`, and going on with the run."""

    name = "resume"

    @cached_property
    def bases(self):
        """Checkpoints in the middle of an epoch and at its end."""
        bases = []
        for candidates, precision in (("lsh+tail", "fp32"), ("uniform", "bf16")):
            with tempfile.TemporaryDirectory(prefix="slide-fuzz.") as folder:
                data = samples()
                network = Network(N_FEATURES, N_LABELS, small(candidates, precision=precision), threads=1)
                places = Checkpoints(Path(folder) / "run", every=1, keep=100)
                network.fit(data.X, data.Y, config=TRAINING, checkpoints=places)
                found = sorted(places.folder.iterdir())
                bases += [files_of(found[1]), files_of(next(name for name in found if "epoch" in name.name))]
        return bases

    def read(self, path, data):
        run = SavedRun(path)
        assert isinstance(run.batch, int)
        # A run of another configuration, or on other data, would not go on; and some would not end.
        about = saved_network.describe(path)
        sizes = about.get("n_features"), about.get("n_labels")
        if sizes != (N_FEATURES, N_LABELS) or run.training != TRAINING or run.network.hidden[0].units > 64:
            return
        given = samples()
        try:
            network = Network(N_FEATURES, N_LABELS, run.network, threads=1)
            history = network.fit(given.X, given.Y, resume=path)
        except (DataError, ConfigError) as error:
            # Of other data, or of settings that do not fit it: refused, as is documented.
            assert str(path) in str(error) or "TrainingConfig" in str(error) or "Config." in str(error)
            return
        except FloatingPointError:
            return
        assert len(history.epochs) <= TRAINING.epochs

    def allowance(self, path, data):
        return super().allowance(path, data) + 64 * MIB


class MappedData(_Folder):
    """`slide.data.load` of folders that are mapped into memory, and `slide.data.folder.verify`."""

    name = "folder"
    documented = (DataError,)

    @cached_property
    def bases(self):
        """One data set."""
        return [saved(lambda path: save_folder(path, samples(9)))]

    def write(self, data, folder):
        # Half of the inputs get a fingerprint that belongs to what they say.
        path = super().write(data[:1] + data[2:], folder)
        manifest = path / "dataset.json"
        if data[1:2] and data[1] & 1 and manifest.is_file() and not manifest.is_symlink():
            try:
                about = json.loads(manifest.read_bytes())
                about["fingerprint"] = fingerprint_of(about)
                manifest.write_text(json.dumps(about))
            except (AttributeError, ValueError, TypeError, RecursionError):
                pass
        return path

    def read(self, path, data):
        mapped = load(path, format="folder")
        mapped.X[np.arange(min(mapped.n_samples, 5))]
        mapped.Y[np.arange(min(mapped.n_samples, 5))]
        # Training reads what nothing has verified.
        if mapped.n_samples and max(mapped.n_features, mapped.n_labels) <= 4096:
            network = Network(mapped.n_features, mapped.n_labels, small("lsh+tail"), threads=1)
            with contextlib.suppress(FloatingPointError):
                network.fit(mapped.X, mapped.Y, config=TrainingConfig(epochs=1, batch_size=4, holdout=0.2))
        verify(path)
        check_dataset(mapped.subset(np.arange(mapped.n_samples)))

    def seeds(self):
        return {name: data[:1] + b"\x01" + data[1:] for name, data in super().seeds().items()}


TARGETS = (Model(), Shards(), Mapped(), Safetensors(), Resume(), MappedData())
