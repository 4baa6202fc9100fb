"""Saved networks, checkpoints of runs and mapped data that were tampered with; see `test_fuzz_readers`."""

import pytest
from fuzz import folders, models, targets
from fuzz.mutation import mutants

MUTANTS = {"model": 60, "shards": 60, "mapped": 100, "safetensors": 100, "resume": 20, "folder": 100}


def inputs(name):
    """The inputs of a target by name of file."""
    found = [targets.SEEDS / kind / name for kind in ("seeds", "findings")]
    return {str(file): file.read_bytes() for folder in found if folder.is_dir() for file in sorted(folder.iterdir())}


@pytest.fixture(params=models.TARGETS, ids=lambda target: target.name)
def target(request):
    if request.param.name == "safetensors":
        pytest.importorskip("safetensors")
    return request.param


def test_inputs_are_read_or_refused_by_name(target):
    found = inputs(target.name)
    outcomes = {name: target.examine(data) for name, data in found.items()}
    sound = [outcome for name, outcome in outcomes.items() if "/sound" in name]
    assert sound and all(sound), outcomes
    assert not all(outcomes.values())


def test_mutants_are_read_or_refused_by_name(target):
    for data in mutants([*inputs(target.name).values()], MUTANTS[target.name]):
        target.examine(data)


def test_edits_of_a_folder(tmp_path):
    base = {"a.json": b'{"n": 1, "of": [2, 3]}', "b.npy": bytes(range(200))}
    places = folders.count_places(base["a.json"])
    assert places == 4

    def edited(*edits):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        path.mkdir()
        folders.write(path, bytes([0, *edits]), [base])
        return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}

    assert edited() == base
    assert edited(4, 0, 0, 0) == base | {"a.json": b'{"n": null, "of": [2, 3]}'}
    assert edited(6, 0, 2) == base | {"a.json": b'{"n": 1, "of": [3]}'}
    assert edited(5, 0, 3, 3, *b"[5]") == base | {"a.json": b'{"n": 1, "of": [2, [5]]}'}
    assert edited(0, 1, 2, 1, 255) == base | {"b.npy": b"\x00\x01\xff" + bytes(range(3, 200))}
    assert edited(8, 1, 0, 3) == base | {"b.npy": bytes(range(128)) + b"\xff\xff\xff\x7f" + bytes(range(132, 200))}
    assert edited(2, 1, 7) == base | {"b.npy": bytes(range(7))}
    assert edited(10, 1) == {"a.json": base["a.json"]}
    assert edited(11, 0, 4) == {"b.npy": base["b.npy"]}  # a link that leads nowhere
