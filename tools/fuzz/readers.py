"""Targets of one file: data in text and in archives, configurations, and what the authors' C++ program writes."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import zipfile

import numpy as np

from slide import ConfigError, RunConfig
from slide.config.dicts import from_dict, to_dict
from slide.data import DataError, Dataset, load
from slide.data.npz import scan_npz
from slide.data.samples import SampleArrays
from slide.reference import read as read_reference
from slide.reference.weights import load_weights

from .targets import MIB, Target

SIZES = (None, 1, 7, 2**31 - 1)


def check_dataset(data: Dataset) -> None:
    """Assert that a data set is what it promises to be: canonical matrices of finite values.

    Parameters
    ----------
    data : Dataset
    """
    for matrix in (data.X, data.Y):
        matrix.check_format(full_check=True)
        assert matrix.dtype == np.float32 and np.isfinite(matrix.data).all()
        starts = np.zeros(len(matrix.indices) + 1, bool)
        starts[matrix.indptr] = True
        assert (np.diff(matrix.indices.astype(np.int64)) > 0)[~starts[1:-1]].all(), "ids do not ascend"
    assert (data.Y.data == 1).all()


class _File(Target):
    """A reader of one file, which the bytes are."""

    file = "input"

    def write(self, data, folder):
        path = folder / self.file
        path.write_bytes(data)
        return path


class _Text(_File):
    """Text, whose first byte says with which options it is read; the others are the file."""

    documented = (DataError,)
    format: str

    def write(self, data, folder):
        return super().write(data[1:], folder)

    def allowance(self, path, data):
        # A chunk of text; and what lzma needs for the largest dictionary that is read.
        packed = 192 * MIB if data[1:7] == b"\xfd7zXZ\x00" else 0
        return 64 * MIB + packed + 256 * self.unpacked(data[1:])

    def unpacked(self, content):
        """The bytes of text in a file, as far as they come out."""
        reader = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}.get(content[:2])
        if reader is None:
            return len(content)
        total = 0
        try:
            with reader(io.BytesIO(content)) as file:
                while piece := len(file.read(1 << 16)):
                    total += piece
                    if total > 2 * MIB:
                        break
        except (OSError, EOFError, ValueError, MemoryError, lzma.LZMAError, gzip.zlib.error):
            pass
        return total

    def read(self, path, data):
        options = data[0] if data else 0
        zero_based = ("auto", True, False, "auto")[options & 3]
        n_features, n_labels = SIZES[options >> 2 & 3], SIZES[options >> 4 & 3]
        check_dataset(
            load(
                path, format=self.format, n_features=n_features, n_labels=n_labels, zero_based=zero_based, cache=False
            )
        )


class XC(_Text):
    """`slide.data.load` of the extreme-classification repository's format."""

    name, format = "xc", "xc"

    def seeds(self):
        text = b"3 10 5\n0,2 1:0.5 3:-1e-3\n 0:1\n4 9:12345678901234567890.5\n"
        return {
            "plain": b"@" + text,
            "crlf": b"@" + text.replace(b"\n", b"\r\n"),
            "sizes": b"\x3f" + text,
            "unsorted": b"@2 10 5\n2,0,2 3:1 1:2 3:4\n1 0:1\n",
            "large": b"@1000000000 1000000000 1000000000",
            "overflow": b"@1 4 2\n0 1:3e38 1:3e38\n",
            "empty": b"@0 2147483647 2147483647\n",
            "gzip": b"@" + gzip.compress(text, mtime=0),
            "xz": b"@" + lzma.compress(text),
            "xz-dictionary": b"@" + _xz_of_dictionary(text, 1536 * MIB),
            "gzip-bomb": b"@" + gzip.compress(b"1 2 3\n" + bytes(2 * MIB), mtime=0),
            "zip": b"@PK\x03\x04",
        }


class Svmlight(_Text):
    """`slide.data.load` of svmlight text."""

    name, format = "svmlight", "svmlight"

    def seeds(self):
        text = b"# comment\n0,2 1:0.5 3:-1e-3 # more\n\n 1:1\n4 9:1e-300\n"
        return {
            "plain": b"@" + text,
            "from-zero": b"\x01" + text,
            "from-one": b"\x02" + text,
            "sizes": b"\x28" + text,
            "fits-neither": b"\x48" + b"0 0:1 7:1\n",
            "qid": b"@1 qid:3 1:2\n",
            "numbers": b"@0 1:.5 2:5. 3:+1E+2 4:1e99999999999999999999 5:0x1p3 6:nan\n",
            "digits": b"@0 1:" + b"7" * 60 + b"." + b"3" * 400 + b"e-99\n",
            "gzip": b"@" + gzip.compress(text, mtime=0),
            "xz": b"@" + lzma.compress(text),
        }


def _xz_of_dictionary(text, size):
    """Text whose xz header asks for a dictionary of some size, which takes no memory to write."""
    packed = bytearray(lzma.compress(text, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    # The block header: size, flags, filter id, size of properties, then the dictionary's size as one byte.
    place = packed.index(b"\x21\x01", 12) + 2
    packed[place] = next(i for i in range(40) if (2 | (i & 1)) << (i // 2 + 11) >= size)
    end = 12 + (packed[12] + 1) * 4 - 4
    packed[end : end + 4] = struct.pack("<I", gzip.zlib.crc32(packed[12:end]))
    return bytes(packed)


class Npz(_File):
    """`slide.data.load` of archives, all at once and a piece at a time."""

    name = "npz"
    documented = (DataError,)

    def allowance(self, path, data):
        # No byte stands for more than 1032 deflated ones; sums are made in double precision.
        return 64 * MIB + 40_000 * len(data)

    def read(self, path, data):
        samples = SampleArrays()
        try:
            sizes = scan_npz(path, samples)
        except DataError as error:
            pieces, refused = None, error
        else:
            pieces, refused = samples.dataset(*sizes), None
            check_dataset(pieces)
        whole = load(path, format="npz", cache=False)
        check_dataset(whole)
        if refused is not None and not isinstance(refused, DataError):
            raise refused
        if pieces is not None:
            assert pieces.X.shape == whole.X.shape and pieces.Y.shape == whole.Y.shape
            assert (pieces.Y != whole.Y).nnz == 0, "read a piece at a time it has other labels"

    def seeds(self):
        sound = {
            "X_data": np.float32([0.5, 1, 2]),
            "X_indices": np.int32([0, 2, 1]),
            "X_indptr": np.int32([0, 2, 3]),
            "X_shape": np.int64([2, 4]),
            "Y_data": np.float32([1, 1]),
            "Y_indices": np.int32([1, 0]),
            "Y_indptr": np.int32([0, 1, 2]),
            "Y_shape": np.int64([2, 3]),
        }
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"
        return {
            "stored": _archive(sound),
            "deflated": _archive(sound, zipfile.ZIP_DEFLATED),
            "lzma": _archive(sound, zipfile.ZIP_LZMA),
            "large-shape": _archive(sound, X_shape=np.int64([2**62, 2**62])),
            "lying-header": _archive(sound, X_indices=header.ljust(127) + b"\n"),
            "wide": _archive(sound | {"X_indices": np.int64([0, 2, 2**40])}),
            "objects": _archive(sound, X_data=np.array([{}, 1, 2], object)),
            "bomb": _archive(sound | {"X_data": np.zeros(1 << 17)}, zipfile.ZIP_DEFLATED),
            "nan": _archive(sound | {"X_data": np.float64([np.nan, 1e300, 2])}),
        }


def _archive(arrays, compression=zipfile.ZIP_STORED, **instead):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, array in (arrays | instead).items():
            content = io.BytesIO()
            if isinstance(array, bytes):
                content.write(array)
            else:
                np.lib.format.write_array(content, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), compression)
    return stream.getvalue()


class Config(_File):
    """`slide.RunConfig.from_toml`."""

    name = "config"
    documented = (ConfigError,)

    def read(self, path, data):
        config = RunConfig.from_toml(path)
        assert from_dict(RunConfig, to_dict(config)) == config

    def seeds(self):
        return {
            "all": _toml(RunConfig()),
            "hidden": b"[[network.hidden]]\nunits = 8\n[[network.hidden]]\ncandidates = 'lsh'\nbudget = 3\n"
            b"[network.hidden.lsh]\nfamily = \"dwta\"\nk = 2\nl = 1024\n",
            "values": b"[network]\nseed = 0x7f\nnormalize = true\n[network.optimizer]\nlr = 1e-3\nclip_norm = inf\n"
            b"[training]\nmonitor = \"P@1\"\nepochs = 1_000\nmax_batches = 1979-05-27T07:32:00Z\n",
            "large": b"network.optimizer.lr = " + b"1" + b"0" * 400,
            "hexadecimal": b"network.seed = 0x" + b"f" * 4000,
            "nested": b"network = " + b"[" * 2000,
            "dotted": b"network.output.lsh.k.k = 1\n",
            "latin": b"# caf\xe9\n",
        }


def _toml(config):
    import tomli_w

    return tomli_w.dumps(to_dict(config)).encode()


class Reference(_File):
    """`slide.reference.read`: a configuration file of the C++ program."""

    name = "reference"
    documented = (ConfigError,)

    def read(self, path, data):
        reference = read_reference(path)
        assert 1 <= reference.n_features < 2**31 and 1 <= reference.n_labels < 2**31
        assert all(isinstance(note, str) for note in reference.notes)

    def seeds(self):
        return {"sound": REFERENCE, "sampled": REFERENCE.replace(b"Sparsity = 1,1", b"Sparsity = 1,0.005")}


REFERENCE = b"""RangePow = 6,18
K = 2,6
L = 20,50
Sparsity = 1,1,1,1
Batchsize = 128
Rehash = 6400
Rebuild = 128000
InputDim = 6
totRecords = 490449
totRecordsTest = 153025
Lr = 0.0001
Epoch = 10
Stepsize = 1000
sizesOfLayers = 4,3
numLayer = 2
# a comment
trainData = train.txt
testData = test.txt
weight = weights.npz
savedweight = weights.npz
logFile = log.txt
"""


class ReferenceWeights(_File):
    """`slide.reference.weights.load_weights`, with moments and without."""

    name = "weights"
    documented = (DataError,)

    def allowance(self, path, data):
        return 64 * MIB + 40_000 * len(data)

    def read(self, path, data):
        network = load_weights(path, threads=1)
        for layer in network.layers:
            assert np.isfinite(np.asarray(layer.table.weights)).all()
        load_weights(path, moments=True, step=3, threads=1)

    def seeds(self):
        rng = np.random.default_rng(0)
        sound = {}
        for i, (below, above) in enumerate(((6, 4), (4, 3))):
            for letter in ("w", "b", "am", "av"):
                sound[f"{letter}_layer_{i}"] = rng.random(above if letter == "b" else (above, below), np.float32)
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (4, 1000000000), }"
        bias = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,), }"
        return {
            "stored": _archive(sound),
            "deflated": _archive(sound, zipfile.ZIP_DEFLATED),
            "lying-weights": _archive(sound, w_layer_0=header.ljust(127) + b"\n"),
            "lying-bias": _archive(sound, b_layer_0=bias.ljust(127) + b"\n"),
            "half": _archive({name: array.astype(np.float16) for name, array in sound.items()}),
            "gap": _archive({name.replace("_1", "_2"): array for name, array in sound.items()}),
            "objects": _archive(sound, b_layer_1=np.array([{}, 1, 2], object)),
        }


TARGETS = (XC(), Svmlight(), Npz(), Config(), Reference(), ReferenceWeights())
