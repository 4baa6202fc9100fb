"""Disks that are full, folders that cannot be written to: an error that names the file, and nothing else changes."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slide import HiddenConfig, Network, NetworkConfig, OutputConfig, RunConfig, TrainingConfig
from slide.data import convert, load, make_extreme, save_npz
from slide.files.atomic import naming, write_in_place
from slide.runs.history import HistoryFile, read_history
from slide.train.checkpoints import Checkpoints

N_FEATURES, N_LABELS = 60, 300
CONFIG = TrainingConfig(epochs=2, batch_size=40)
ROOM = 4096
"""Bytes that a file may have on the full disk."""

DATA = make_extreme(400, N_FEATURES, N_LABELS, labels_per_sample=3, seed=2)


def make():
    return Network(N_FEATURES, N_LABELS, NetworkConfig(HiddenConfig(32), OutputConfig(tail=16)), threads=1)


@pytest.fixture(scope="module")
def network():
    network = make()
    network.fit(DATA.X, DATA.Y, config=CONFIG)
    return network


class Disk:
    """A disk on which no more can be written, as long as it is `full`."""

    def __init__(self, how):
        self._how, self.error = how, {"full": errno.ENOSPC, "limited": errno.EFBIG, "read-only": errno.EROFS}[how]

    @contextlib.contextmanager
    def full(self, monkeypatch):
        # Not up to the test's end: what pytest tells of it may go to a file.
        with monkeypatch.context() as patch:
            if self._how == "limited":
                with self._limited():
                    yield
                return
            if self._how == "full":
                patch.setattr(os, "fsync", self._refuse)
            else:
                # As root may write anywhere: what a system that is mounted read-only answers.
                for name in ("mkdir", "open"):
                    patch.setattr(os, name, self._refusing(getattr(os, name)))
                patch.setattr("builtins.open", self._refusing(open))
            yield

    @contextlib.contextmanager
    def _limited(self):
        resource = pytest.importorskip("resource")
        limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    def _refuse(self, *arguments):
        raise OSError(self.error, os.strerror(self.error))

    def _refusing(self, function):
        def refusing(path, mode=None, *rest, **options):
            writes = function is os.mkdir if not isinstance(mode, (str, int)) else (
                set(mode) & set("wax+") if isinstance(mode, str) else mode & (os.O_WRONLY | os.O_RDWR)
            )
            if function is os.mkdir or (writes and not str(path).startswith("/dev/")):
                raise OSError(self.error, os.strerror(self.error), os.fspath(path))
            return function(path, *(() if mode is None else (mode,)), *rest, **options)

        return refusing


@pytest.fixture(params=["full", "limited", "read-only"])
def disk(request):
    return Disk(request.param)


def contents(folder):
    """All files by name, those of temporary names too."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


WRITES = {
    "folder": lambda network, path: network.save(path / "model"),
    "moments": lambda network, path: network.save(path / "model", moments=True),
    "serving": lambda network, path: network.save(path / "model", serving=True),
    "safetensors": lambda network, path: network.save(path / "model.safetensors"),
    "npz": lambda network, path: save_npz(path / "data.npz", DATA),
    "convert": lambda network, path: convert(path.parent / "source.npz", path / "data"),
    "settings": lambda network, path: RunConfig().to_toml(path / "run.toml"),
}


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("before", [True, False], ids=["over a former one", "new"])
def test_what_cannot_be_written_is_named_and_leaves_all_as_it_was(
    network, tmp_path, monkeypatch, disk, what, before
):
    if what == "safetensors":
        pytest.importorskip("safetensors")
    if (what, disk.error) == ("npz", errno.ENOSPC):
        pytest.skip("these files are not forced to the disk")
    if (what, disk.error) == ("settings", errno.EFBIG):
        pytest.skip("settings are smaller than that")
    save_npz(tmp_path / "source.npz", DATA)
    folder = tmp_path / "disk"
    folder.mkdir()
    if before:
        WRITES[what](network, folder)
    there, weights = contents(folder), network.copy_weights()
    with disk.full(monkeypatch), pytest.raises(OSError, match="as it was") as caught:
        WRITES[what](network, folder)
    assert caught.value.errno == disk.error
    assert Path(caught.value.filename).parent == folder
    assert Path(caught.value.filename).name.partition(".")[0] in ("model", "data", "run")
    assert contents(folder) == there
    after = network.copy_weights()
    assert all(np.array_equal(weights[name], after[name]) for name in weights)


def test_training_goes_on_without_checkpoints_and_history(tmp_path, monkeypatch, disk, caplog):
    plain, network = make(), make()
    expected = plain.fit(DATA.X, DATA.Y, config=CONFIG)
    checkpoints, room = Checkpoints(tmp_path / "run", every=4), []
    history = HistoryFile(tmp_path / "history.jsonl")
    with contextlib.ExitStack() as stack:

        def fill(progress):
            if progress.batch == 6:
                room.append(stack.enter_context(disk.full(monkeypatch)))

        found = network.fit(DATA.X, DATA.Y, config=CONFIG, checkpoints=checkpoints, callbacks=[history, fill])
    assert room
    assert found.epochs[-1].loss == expected.epochs[-1].loss
    weights, others = plain.copy_weights(), network.copy_weights()
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["0000000004"]
    assert "could not be written, training goes on without it: " + os.strerror(disk.error) in caplog.text
    resumed = make()
    assert resumed.fit(DATA.X, DATA.Y, resume=tmp_path / "run").batches == expected.batches
    assert read_history(tmp_path / "history.jsonl").batches


def test_what_was_learnt_is_saved_elsewhere(tmp_path, monkeypatch, run):
    """The disk is full when a long run ends."""
    from slide.persist import saved_network

    save_npz(tmp_path / "train.npz", DATA)
    save, rescue = saved_network.save, tmp_path / "elsewhere"
    rescue.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(rescue))

    def full(network, path, **options):
        if path.name == "model" and path.parent == Path():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(network, path, **options)

    monkeypatch.setattr(saved_network, "save", full)
    result = run("train", "train.npz", "--out", "model", "--max-batches", 3)
    (saved,) = rescue.glob("*/model")
    assert result.status == 1
    assert f"slide: error: model: No space left on device. What was learnt is in {saved}" in result.err
    assert Network.load(saved).n_labels == N_LABELS


def test_predictions_replace_a_file_when_they_are_complete(network, tmp_path, monkeypatch, run, disk):
    network.save(tmp_path / "model")
    save_npz(tmp_path / "samples.npz", DATA)
    command = ("predict", "model", "samples.npz", "--output", "out.tsv")
    assert run(*command).status == 0
    there = contents(tmp_path)
    assert len(there["out.tsv"].splitlines()) == 400
    if disk.error == errno.ENOSPC:
        return  # Predictions are not forced to the disk.
    with disk.full(monkeypatch):
        result = run(*command)
    assert result.status == 1
    assert f"out.tsv: {os.strerror(disk.error)}; it was not written" in result.err
    assert contents(tmp_path) == there


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_standard_output_and_devices_that_are_full(network, tmp_path, run):
    network.save(tmp_path / "model")
    save_npz(tmp_path / "samples.npz", DATA)
    command = ["predict", "model", "samples.npz"]
    told = run(*command, "--output", "/dev/full")
    assert (told.status, told.err.splitlines()[-1]) == (1, "slide: error: /dev/full: No space left on device")
    with open("/dev/full", "w") as full:
        program = [sys.executable, "-m", "slide", *command]
        done = subprocess.run(program, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "slide: error: standard output: No space left on device"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    reading, writing = os.pipe()
    write_in_place(Path(f"/proc/self/fd/{writing}"), lambda file: file.write(b"text"))
    assert os.read(reading, 10) == b"text"
    os.close(reading), os.close(writing)


def test_an_open_file_is_written_to_and_not_replaced(network, tmp_path, run):
    """As ``--output /dev/stdout >> file`` has it."""
    network.save(tmp_path / "model")
    save_npz(tmp_path / "samples.npz", DATA)
    with open(tmp_path / "out", "wb", buffering=0) as file:
        assert run("predict", "model", "samples.npz", "--output", f"/proc/self/fd/{file.fileno()}").status == 0
        assert os.fstat(file.fileno()).st_ino == (tmp_path / "out").stat().st_ino
    assert len((tmp_path / "out").read_text().splitlines()) == 400


def test_links_stay_links(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_in_place(tmp_path / "link", lambda file: file.write(json.dumps(1).encode()))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "1"


def test_errors_of_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "target", ".target."):
        (tmp_path / "source").read_text()
    assert caught.value.filename == str(tmp_path / "source")


def test_a_converted_folder_is_still_read_after_a_failure(tmp_path, monkeypatch):
    save_npz(tmp_path / "source.npz", DATA)
    convert(tmp_path / "source.npz", tmp_path / "data")
    with Disk("full").full(monkeypatch), pytest.raises(OSError, match="No space left"):
        convert(tmp_path / "source.npz", tmp_path / "data")
    assert load(tmp_path / "data").n_samples == 400


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB of its own, and what mounts it anew, such as read-only."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options, *rest):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not hasattr(os, "geteuid") or os.geteuid() or not mount("size=256k"):
        pytest.skip("no file system can be mounted here")
    try:
        yield folder, mount
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_that_is_full_and_then_read_only(tmp_path, small_disk, caplog):
    """What systems really answer, to everything that writes."""
    folder, mount = small_disk
    save_npz(tmp_path / "source.npz", DATA)
    network, checkpoints = make(), Checkpoints(folder / "run", every=4, keep=1)
    (folder / "rest").write_bytes(bytes(60 << 10))
    writes = {what: write for what, write in WRITES.items() if what in ("folder", "npz", "convert", "settings")}
    writes["convert"](network, folder.parent / "mounted")
    network.fit(DATA.X, DATA.Y, config=CONFIG)
    weights = network.copy_weights()
    (folder / "more").write_bytes(bytes((os.statvfs(folder).f_bavail - 2) * os.statvfs(folder).f_bsize))
    there = contents(folder)
    for error in (errno.ENOSPC, errno.EROFS):
        for what, write in writes.items():
            if (what, error) == ("settings", errno.ENOSPC):
                continue
            with pytest.raises(OSError, match="as it was") as caught:
                write(network, folder)
            assert (caught.value.errno, Path(caught.value.filename).parent) == (error, folder)
            assert contents(folder) == there
        again = make()
        again.fit(DATA.X, DATA.Y, config=CONFIG, checkpoints=checkpoints)
        assert all(np.array_equal(weights[name], array) for name, array in again.copy_weights().items())
        assert "training goes on without it: " + os.strerror(error) in caplog.text
        assert contents(folder) == there
        assert mount("remount,ro")
    with pytest.raises(OSError, match=r"history\.jsonl") as caught:
        make().fit(DATA.X, DATA.Y, config=CONFIG, callbacks=[HistoryFile(folder / "history.jsonl")])
    assert caught.value.errno == errno.EROFS
    assert Path(load(folder / "data").name).name == "data"
