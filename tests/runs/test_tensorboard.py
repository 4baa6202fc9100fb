import pytest
from small_runs import train

from slide.data import make_extreme, save_xc
from slide.runs.tensorboard import TensorBoard
from slide.system import extras
from slide.system.extras import MissingExtra


@pytest.fixture
def tensorboardx():
    return pytest.importorskip("tensorboardX")


def samples(folder):
    """What the files of a folder hold: by tag a list of (batch, value)."""
    from tensorboardX.proto.event_pb2 import Event

    found, texts = {}, []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            # A record: its length, 8 bytes, and their checksum; the event; its checksum, 4 bytes each.
            length = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
                else:
                    texts.append(value.tensor.string_val[0].decode())
    return found, texts


def test_the_curves(tensorboardx, tmp_path):
    _, history = train([TensorBoard(tmp_path / "run")], candidates="lsh")
    found, texts = samples(tmp_path / "run")
    names = ["loss", "P_at_1", "active", "lr", "rehash_share"]
    for tag in (*(f"training/{name}" for name in names), "memory/rss_bytes"):
        assert [step for step, _ in found[tag]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found["measured/P_at_1"] == [
        (4 * epoch.epoch, pytest.approx(epoch.quality["P@1"])) for epoch in history.epochs
    ]
    assert found["training/rehash_share"][-1][1] > 0
    assert any('candidates = "lsh"' in text for text in texts)


def test_train_writes_them(tensorboardx, run, tmp_path):
    save_xc(tmp_path / "train.txt", make_extreme(300, 100, 50))
    assert run("train", "train.txt", "--tensorboard", "tb/run", "--max-batches", 2).status == 0
    found, _ = samples(tmp_path / "tb" / "run")
    assert len(found["training/loss"]) == 2


@pytest.mark.parametrize("folder", ["slide-model", "slide-model/tb", "x/../slide-model/tb"])
def test_the_folder_of_the_network_is_refused(run, folder):
    result = run("train", "absent.txt", "--tensorboard", folder)
    assert result.status == 1
    assert f"--tensorboard {folder} is in the folder slide-model, which saving replaces" in result.err


def test_without_tensorboardx(run, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match=r"what TensorBoard reads needs tensorboardX.*slide-xc\[tensorboard\]"):
        TensorBoard("tb")
    result = run("train", "absent.txt", "--tensorboard", "tb")
    assert (result.status, "slide-xc[tensorboard]" in result.err) == (1, True)
