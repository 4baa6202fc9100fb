"""Files of every former version load, and training reaches the weights that it reached then.

`tools/record_saved.py` wrote the files, with the version whose name their folder has.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import record_saved

import slide
from slide import Checkpoints, Network, SlideClassifier, TrainingConfig
from slide.data import load, verify

VERSIONS = sorted(path for path in (Path(__file__).parent / "data" / "saved").iterdir() if path.is_dir())
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
OTHER_MACHINE = 5e-3
"""Largest difference of a weight where other instructions may have rounded otherwise: all weights are below 1."""


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def saved(request):
    return request.param


@pytest.fixture
def predicted(saved):
    with np.load(saved / "predicted.npz") as arrays:
        return dict(arrays)


def same_predictions(network, predicted, name):
    """Whether a network predicts what it did before it was saved; the order of equal scores may be another."""
    _, others = record_saved.data()
    ids, scores = network.predict(others.X)
    np.testing.assert_allclose(scores, predicted[f"{name}.scores"], **TOLERANCE)
    assert (ids == predicted[f"{name}.ids"]).mean() > 0.99


@pytest.mark.parametrize(
    ("folder", "name", "mmap"),
    [
        ("network", "tables", False),
        ("network-moments", "tables", False),
        ("network-serving", "tables", False),
        ("network-serving", "tables", True),
        ("network-bf16", "bf16", False),
        ("network-bf16-moments", "bf16", False),
        ("network-bf16-serving", "bf16", False),
        ("network-bf16-serving", "bf16", True),
        ("network-deep", "deep", False),
        ("checkpoints-end", "end", False),
    ],
)
def test_a_network_predicts_what_it_did(saved, predicted, folder, name, mmap):
    same_predictions(Network.load(saved / folder, mmap=mmap), predicted, name)


def test_a_safetensors_file_predicts_what_it_did(saved, predicted):
    pytest.importorskip("safetensors")
    same_predictions(Network.load(saved / "network.safetensors"), predicted, "tables")


@pytest.mark.parametrize(
    "folder", ["network-moments", "network-bf16-moments", "shards", "shards-checkpoints/0000000010"]
)
def test_a_network_with_moments_can_be_trained_on(saved, folder):
    network = Network.load(saved / folder, threads=1)
    known, _ = record_saved.data()
    before = network.step
    history = network.fit(known.X, known.Y, config=TrainingConfig(epochs=1, batch_size=50))
    assert network.step == before + 4
    assert np.isfinite(history.epochs[-1].loss)


def test_a_run_goes_on_to_the_weights_it_would_have_reached(saved, tmp_path):
    shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    settings = record_saved.configurations()["uniform"]
    known, _ = record_saved.data()
    network = Network(known.n_features, known.n_labels, record_saved.config_of(settings), threads=2)
    folder = tmp_path / "checkpoints"
    network.fit(known.X, known.Y, checkpoints=Checkpoints(folder, every=5), resume=folder)
    end = Network.load(saved / "checkpoints-end")
    assert network.step == end.step
    for name, array in end.copy_weights().items():
        np.testing.assert_allclose(network.copy_weights()[name], array, rtol=0, atol=OTHER_MACHINE)


def test_a_classifier_predicts_what_it_did(saved, predicted):
    _, others = record_saved.data()
    classifier = SlideClassifier.load(saved / "classifier")
    np.testing.assert_allclose(classifier.predict_proba(others.X), predicted["classifier.probabilities"], **TOLERANCE)
    assert str(classifier.classes_[0]).startswith("tag ")


def test_a_run_of_the_command_line_has_its_history(saved, run):
    run_of = run("plot", saved / "run", "--out", "curves.png")
    assert run_of.status == 0, run_of.err
    about = run("info", saved / "run")
    assert about.status == 0, about.err


@pytest.mark.parametrize("name", ["data.txt", "data.npz", "converted"])
def test_data_is_what_it_was(saved, name):
    _, others = record_saved.data()
    data = load(saved / name)
    assert (data.Y.toarray() == others.Y.toarray()).all()
    np.testing.assert_allclose(data.X.toarray(), others.X.toarray(), rtol=1e-5)
    if name == "converted":
        verify(saved / name)


def recorded_again(part, folder):
    """Run a part of the recorder in the environment in which the bits are the same; return the environment's facts."""
    environment = {**os.environ, **record_saved.PINNED, "PYTHONPATH": str(Path(slide.__file__).parents[1])}
    command = record_saved.command(part, folder)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


def same_weights(folder, saved, names):
    """Compare weights: to the bit where the environment is the one they were recorded in."""
    recorded = json.loads((saved / "weights" / "environment.json").read_text())
    same = recorded == json.loads((folder / "weights" / "environment.json").read_text())
    for name in names:
        with np.load(folder / "weights" / f"{name}.npz") as now, np.load(saved / "weights" / f"{name}.npz") as then:
            assert sorted(now) == sorted(then)
            for array in then:
                limit = 0 if same else OTHER_MACHINE * max(1, np.abs(then[array]).max())
                np.testing.assert_allclose(now[array], then[array], rtol=0, atol=limit, err_msg=f"{name}: {array}")


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    folder = tmp_path_factory.mktemp("again")
    recorded_again("weights", folder)
    return folder


@pytest.mark.parametrize("name", record_saved.configurations())
def test_training_reaches_the_same_weights(saved, again, name):
    same_weights(again, saved, [name])


MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent))


@pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec: pip install 'slide-xc[mpi]' mpich")
def test_training_over_ranks_reaches_the_same_weights(saved, again):
    pytest.importorskip("mpi4py", reason="there is no mpi4py: pip install 'slide-xc[mpi]' mpich")
    recorded_again("weights-of-ranks", again)
    same_weights(again, saved, [f"ranks-{name}" for name in record_saved.RANKS])
