"""Checkpoints that several processes write together: complete or not there, and read by any number of others."""

import json
import threading

import numpy as np
import pytest

from slide import Network
from slide.config import HiddenConfig, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.model.base import BaseNetwork
from slide.model.stack import LayerStack
from slide.model.stepper import Stepper
from slide.persist import saved_network, shards
from slide.persist.checks import CheckpointError
from slide.persist.format import training_arrays
from slide.ranks.checkpoints import SharedCheckpoints
from slide.train.checkpoints import Checkpoints, SavedRun, names_in
from slide.train.early_stopping import BestEpoch
from slide.train.records import History, Progress
from slide.train.run_state import RunState

N_FEATURES, N_LABELS = 60, 101
CONFIG = NetworkConfig(
    HiddenConfig(17), OutputConfig("inbatch", tail=8), OptimizerConfig(lr=0.02, lazy="exact", weight_decay=0.01)
)
TRAINING = TrainingConfig(epochs=2, batch_size=32, holdout=0.1, keep_best=True)
LAYOUTS = {
    "contiguous": lambda rank, size: shards.even_part(N_LABELS, rank, size),
    "strided": lambda rank, size: range(rank, N_LABELS, size),
    "drawn": lambda rank, size: np.array_split(np.random.default_rng(7).permutation(N_LABELS), size)[rank],
}


class PartStack(LayerStack):
    """Layers with the neurons of some labels, and what else is asked of those on several ranks."""

    residual = None

    def __init__(self, labels):
        super().__init__(N_FEATURES, len(labels), CONFIG, threads=1)
        self.n_labels, self.labels = N_LABELS, labels

    @property
    def label_rows(self):
        return self.labels


class Room:
    """Where the threads of a group meet."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size, timeout=20)
        self.objects = [None] * size


class Member:
    """One of several threads, with a communicator's methods."""

    def __init__(self, room, rank):
        self._room, self.rank, self.size = room, rank, room.size

    def gather(self, obj, root=0):
        self._room.objects[self.rank] = obj
        self._room.barrier.wait()
        found = list(self._room.objects)
        self._room.barrier.wait()
        return found if self.rank == root else None

    def allgather(self, obj):
        return self.bcast(self.gather(obj))

    def bcast(self, obj, root=0):
        self._room.objects[self.rank] = obj
        self._room.barrier.wait()
        found = self._room.objects[root]
        self._room.barrier.wait()
        return found


def together(size, work):
    """Run work(member) in as many threads; return what they return."""
    room, results, failed = Room(size), [None] * size, []

    def run(rank):
        try:
            results[rank] = work(Member(room, rank))
        except BaseException as error:
            failed.append(error)
            room.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return results


@pytest.fixture(scope="module")
def data():
    return make_extreme(300, N_FEATURES, N_LABELS, labels_per_sample=2)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A network in the middle of an epoch, with rows that owe something, and its checkpoint, a plain one."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    network = Network(N_FEATURES, N_LABELS, CONFIG, threads=1)
    checkpoints = Checkpoints(folder)
    options = {"config": TRAINING, "checkpoints": checkpoints}
    network.fit(data.X, data.Y, callbacks=[lambda progress: progress.batch == 13], **options)
    saved = SavedRun(folder)
    # As the checkpoint has it: the run's end let all rows catch up.
    saved_network.restore(network, saved.path)
    return network, saved


def new_state():
    return RunState(Progress(batches=18), History(), BestEpoch(TRAINING), of_epoch=9)


def part_of(saved, labels):
    """What a process with some of the labels has after it has read a checkpoint: its network, and where it stands."""
    layers, state = PartStack(labels), new_state()
    network = BaseNetwork(layers, Stepper(layers.buffers, len(layers.hidden)))
    saved.restore(network, state)
    return network, state


def write(saved, folder, size, layout, replicas=1, fail=None):
    """Let a group read a checkpoint and write another; return the folder of the last, or None."""
    facts = {"training": json.loads((saved.path / "run.json").read_bytes())["training"]}

    def work(member):
        replica, shard = divmod(member.rank, size)
        labels = LAYOUTS[layout](shard, size)
        network, state = part_of(saved, labels)
        network.layers.replica = replica, replicas
        if member.rank == fail:
            network.layers.replica = refused()
        checkpoints = SharedCheckpoints(Checkpoints(folder), member, average=lambda: None)
        checkpoints.begin()
        checkpoints.batch_done(network, state, facts, stopping=True)
        return checkpoints.latest

    latest = together(size * replicas, work)
    assert len(set(latest)) == 1
    return latest[0]


def refused():
    raise OSError("no space left on device")
    yield


def everything(network):
    arrays = network.layers.parameters(moments=True) | training_arrays(network.layers)
    return {name: np.array(array).tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("size", "replicas"), [(1, 1), (3, 1), (4, 1), (2, 2)])
def test_what_a_group_writes_is_the_whole(trained, tmp_path, size, replicas, layout):
    network, saved = trained
    path = write(saved, tmp_path / "run", size, layout, replicas)
    assert path.name == "0000000013"
    assert everything(Network.load(path, threads=1)) == everything(network)
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == [path.name]


def test_another_number_of_processes_goes_on(trained, tmp_path):
    network, saved = trained
    for i, (size, layout) in enumerate([(4, "contiguous"), (2, "drawn"), (3, "strided"), (4, "drawn")]):
        saved = SavedRun(write(saved, tmp_path / str(i), size, layout))
    assert everything(Network.load(saved.path, threads=1)) == everything(network)
    state = new_state()
    saved.restore(network, state)
    assert state.progress.batch == saved.batch == 13
    assert state.best.weights.keys() == network.copy_weights().keys()


def test_the_best_weights_come_along(trained, tmp_path):
    network, saved = trained
    plain, shared = new_state(), new_state()
    saved.restore(network, plain)
    SavedRun(write(saved, tmp_path / "run", 3, "drawn")).restore(network, shared)
    assert plain.best.weights.keys() == shared.best.weights.keys()
    for name, array in plain.best.weights.items():
        np.testing.assert_array_equal(array, shared.best.weights[name])


def test_one_process_goes_on_to_the_bit(trained, tmp_path, data):
    _, saved = trained
    ends = []
    for run in (saved.path, write(saved, tmp_path / "run", 3, "strided")):
        # Its facts are not a real run's.
        (run / "run.json").write_bytes((saved.path / "run.json").read_bytes())
        network = Network(N_FEATURES, N_LABELS, CONFIG, threads=1)
        network.fit(data.X, data.Y, resume=run)
        ends.append(everything(network))
    assert ends[0] == ends[1]


def test_a_share_that_cannot_be_written_leaves_what_was_there(trained, tmp_path, caplog):
    _, saved = trained
    assert write(saved, tmp_path / "run", 3, "contiguous", fail=2) is None
    assert "rank 2: no space left on device" in caplog.text
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_is_in_use_is_refused_by_all(trained, tmp_path):
    _, saved = trained
    write(saved, tmp_path / "run", 2, "contiguous")
    with pytest.raises(FileExistsError, match="has checkpoints of a run"):
        write(saved, tmp_path / "run", 2, "contiguous")
    assert len(names_in(tmp_path / "run")) == 1


def test_only_blocks_with_wanted_rows_are_read(trained, tmp_path, monkeypatch):
    _, saved = trained
    monkeypatch.setattr(shards, "BLOCK_BYTES", 1000)
    path = write(saved, tmp_path / "run", 2, "contiguous")
    source = saved_network.open_arrays(path)
    summed, crc32 = [], shards.zlib.crc32
    monkeypatch.setattr(shards.zlib, "crc32", lambda block: summed.append(block) or crc32(block))
    dtype = np.dtype(np.float32)
    found = list(source.blocks("output.weights", (N_LABELS, 17), dtype, range(40, 60)))
    # Blocks of 14 rows, of the first 50 and of the last 51 labels.
    assert len(found) == len(summed) == 3
    assert [places for places, _ in found] == [slice(0, 2), slice(2, 10), slice(10, 20)]


def damage(file, at=-1):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: damage(path / "output.m.1-of-3.npy"), "output.m.1-of-3.npy: rows 0 to .* the disk or the copy"),
        (lambda path: (path / "output.bias.2-of-3.npy").unlink(), "output.bias.2-of-3.npy: .*No such file"),
        (lambda path: (path / "output.weights.2-of-3.npy").unlink(), "output.weights: 6,868 bytes expected"),
        (lambda path: (path / "output.v.0-of-3.npy").write_bytes(b"\x93NUMPY"), "output.v.0-of-3.npy: .*damaged"),
        (lambda path: (path / "shards.json").write_bytes(b"{"), "shards.json: Expecting"),
        (lambda path: (path / "shards.json").write_bytes(b"{}"), "shards.json: not a slide-shards file"),
        (lambda path: edit(path, lambda arrays: arrays.pop("output.v")), "there is no output.v"),
        (lambda path: edit(path, lambda arrays: arrays["output.v"].pop()), "row 101 is in 0 of|row 67 is in 0 of"),
        (lambda path: edit(path, lambda arrays: arrays["output.v"].append(arrays["output.v"][0])), "row 0 is in 2 of"),
        (lambda path: edit(path, lambda arrays: arrays["output.v"][0].update(block=0)), "blocks of 0 rows"),
        (lambda path: edit(path, lambda arrays: arrays["output.v"][0].update(crc32=[])), "0 sums for 33 rows"),
        (lambda path: edit(path, lambda arrays: arrays["output.v"][0].update(file="../x.npy")), "name of a file"),
        (lambda path: edit(path, lambda arrays: arrays["output.v"][0].update(rows=[0, 9, 0])), "must not be zero"),
        (lambda path: edit(path, lambda arrays: arrays["output.v"][0].update(rows=[0, 2**70])), "OverflowError"),
    ],
)
def test_damage_is_found_and_named(trained, tmp_path, harm, message):
    _, saved = trained
    path = write(saved, tmp_path / "run", 3, "contiguous")
    harm(path)
    with pytest.raises(CheckpointError, match=message):
        Network.load(path, threads=1)


def test_shares_whose_rows_are_in_a_file_have_dimensions(trained, tmp_path):
    _, saved = trained
    path = write(saved, tmp_path / "run", 2, "drawn")
    entries = json.loads((path / "shards.json").read_bytes())["arrays"]["output.v"]
    assert isinstance(entries[0]["rows"], str)
    np.save(path / entries[0]["file"], np.float32(1))
    with pytest.raises(CheckpointError, match=r"output\.v.*expected "):
        Network.load(path, threads=1)


def edit(path, change):
    values = json.loads((path / "shards.json").read_bytes())
    change(values["arrays"])
    (path / "shards.json").write_text(json.dumps(values))
