"""Limits of memory, refused with the sum before anything begins, and the smallest and oddest of data."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide import HiddenConfig, Network, NetworkConfig, OutputConfig, SlideClassifier, TrainingConfig
from slide.config import CANDIDATES
from slide.data import DataError, Dataset, save_npz
from slide.data.batches import Batch

TRAINING = TrainingConfig(epochs=2, batch_size=8)
SMALL = "from slide import *; import numpy as np; config = NetworkConfig(HiddenConfig(16), OutputConfig(tail=8));"
LARGE = "net = Network(100_000, 1000, NetworkConfig(HiddenConfig(256)), threads=1)"
"""A network of 0.3 GiB."""

TRAIN_ON_MUCH = """
    net = Network(1000, 300_000, NetworkConfig(HiddenConfig(16), OutputConfig("full")), threads=1)
    limit("RLIMIT_AS", 100 << 20)
    from scipy.sparse import csr_matrix
    Y = csr_matrix((np.ones(1000), (np.arange(1000), np.arange(1000))), shape=(1000, 300_000))
    os.environ["SLIDE_MEMORY_CHECK"] = "on"
    try:
        net.fit(np.eye(1000, dtype="f"), Y, config=TrainingConfig(batch_size=1000))
    except MemoryError as error:
        print(error)
    print(net.step)"""
"""A small network, whose logits of a batch are 1.2 GiB."""

TRAIN = "net = Network(20, 20, config, threads=1); print(net.fit(np.eye(20), np.eye(20)).batches)"


def python(code, tmp_path, before="", **options):
    """Run code in a process of its own, after what sets its limits."""
    code = f"{textwrap.dedent(before)}\n{SMALL}\n{textwrap.dedent(code)}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment, **options
    )


# The limit is set once everything is imported, for what a process begins with differs from machine to machine.
LIMITED = """
import slide.network, slide.train.loop, psutil, resource
def limit(name, more):
    used = psutil.Process().memory_info()
    used = used.vms if name == "RLIMIT_AS" else used.data
    resource.setrlimit(getattr(resource, name), (used + more, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has mapped counts on Linux")
def test_a_ulimit_is_added_up_before_anything_is_mapped(tmp_path):
    code = f"""
    import os
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        limit(name, 200 << 20)
        for check in ("on", "off"):
            os.environ["SLIDE_MEMORY_CHECK"] = check
            try:
                {LARGE}
            except MemoryError as error:
                print(error)
        {TRAIN}
        resource.setrlimit(getattr(resource, name), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    {TRAIN_ON_MUCH}
    """
    done = python(code, tmp_path, LIMITED)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    for first, limit in ((0, "RLIMIT_AS (ulimit -v)"), (3, "RLIMIT_DATA (ulimit -d)")):
        refused, clean, batches = lines[first : first + 3]
        assert "GiB hidden.0 weights" in refused
        assert f"left by the limit {limit}" in refused
        assert clean.startswith("buffer 'hidden.0 weights': the system refused")
        assert int(batches) == 8
    # What training takes besides is added up before the first batch.
    why, step = lines[6:]
    assert "GiB output shared logits" in why
    assert "are needed" in why
    assert "choose a smaller TrainingConfig.batch_size" in why
    assert step == "0"


@pytest.fixture
def group():
    """A control group of our own with little memory; its folder."""
    lines = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
    own = {line.split(":")[1]: line.split(":", 2)[2].lstrip("/") for line in lines}
    v1 = "memory" in own
    root = Path("/sys/fs/cgroup/memory") if v1 else Path("/sys/fs/cgroup")
    folder = root / (own.get("memory" if v1 else "") or "") / f"slide-test-{os.getpid()}"
    if not v1 and "memory" not in _text(folder.parent / "cgroup.subtree_control"):
        pytest.skip("no control group here may limit memory")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        limit = folder / ("memory.limit_in_bytes" if v1 else "memory.max")
        try:
            limit.write_text(str(300 << 20))
        except OSError as error:
            pytest.skip(f"no control group can be limited: {error}")
        yield folder
    finally:
        folder.rmdir()


def _text(file):
    return file.read_text() if file.exists() else ""


def test_a_control_group_is_added_up_and_its_killer_never_comes(tmp_path, group):
    code = f"""
    try:
        {LARGE}
    except MemoryError as error:
        print(error)
    {TRAIN}
    """
    enter = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(__import__('os').getpid()))"
    done = python(code, tmp_path, enter)
    assert done.returncode == 0, done.stderr
    refused, batches = done.stdout.splitlines()
    assert "GiB hidden.0 weights" in refused
    assert "left by the limit of control group /" in refused
    assert f"/{group.name}, 0.29 GiB" in refused
    assert int(batches) == 8
    killed = _text(group / "memory.oom_control") + _text(group / "memory.events")
    assert "oom_kill 0" in killed


def network(n_features, n_labels, candidates="uniform", loss="bce"):
    output = OutputConfig(candidates, tail=4, budget=4, loss=loss)
    return Network(n_features, n_labels, NetworkConfig(HiddenConfig(8), output), threads=1)


def samples(n, n_features, n_labels, rng=0):
    rng = np.random.default_rng(rng)
    return csr_matrix(rng.random((n, n_features)) < 0.5, dtype=np.float32), csr_matrix(np.eye(n, n_labels, dtype="f"))


@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize(
    ("n", "n_features", "n_labels"), [(1, 5, 4), (20, 5, 1), (1, 1, 1), (20, 1, 30)], ids=str
)
def test_the_smallest_data(candidates, loss, n, n_features, n_labels):
    """One sample, one label, one feature; batches larger than the data, more labels asked for than there are."""
    X, Y = samples(n, n_features, n_labels)
    net = network(n_features, n_labels, candidates, loss)
    history = net.fit(X, Y, config=TrainingConfig(epochs=2, batch_size=1000))
    assert (history.batches, history.epochs[0].batches) == (2, 1)
    assert np.isfinite(history.epochs[-1].loss)
    ids, scores = net.predict(X, 7)
    known = min(7, n_labels)
    assert (ids.shape, scores.shape) == ((n, 7), (n, 7))
    assert (np.sort(ids[:, :known], axis=1) >= 0).all()
    assert (ids[:, known:] == -1).all()
    assert (scores[:, known:] == -np.inf).all()
    assert set(net.evaluate(X, Y, ks=(1, 50))) >= {"P@1", "P@50"}


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_points_without_features_or_labels(candidates):
    X, Y = samples(20, 5, 6)
    X, Y = X.toarray(), Y.toarray()
    X[::2], Y[1::3] = 0, 0
    net = network(5, 6, candidates)
    assert np.isfinite(net.fit(X, Y, config=TRAINING).epochs[-1].loss)
    nothing = np.zeros((20, 5))
    assert np.isfinite(net.fit(nothing, Y, config=TRAINING).epochs[-1].loss)
    scores = net.predict(nothing, 3)[1]
    assert np.isfinite(scores).all()
    assert (scores == scores[0]).all()
    with pytest.raises(DataError, match="no training sample has a label"):
        net.fit(X, np.zeros((20, 6)), config=TRAINING)
    with pytest.raises(DataError, match="the training data has no samples"):
        net.fit(X[:0], Y[:0], config=TRAINING)
    assert net.predict(X[:0], 3)[0].shape == (0, 3)


def test_no_columns_at_all():
    for sizes, name in (((0, 3), "n_features"), ((3, 0), "n_labels")):
        with pytest.raises(ValueError, match=rf"{name} must be between 1 and 2\*\*31 - 1, got 0"):
            network(*sizes)
    with pytest.raises(ValueError, match="0 feature"):
        SlideClassifier(8).fit(np.zeros((5, 0)), ["a"] * 5)
    with pytest.raises(ValueError, match="0 sample"):
        SlideClassifier(8).fit(np.zeros((0, 5)), [])


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_ids_without_neurons_are_refused_and_change_nothing(candidates):
    net = network(5, 4, candidates)
    net.fit(*samples(20, 5, 4), config=TRAINING)
    with pytest.raises(DataError, match="5 features and 6 labels, the network 5 and 4"):
        net.fit(samples(20, 5, 4)[0], np.eye(20, 6), config=TRAINING)
    before, step = net.copy_weights(), net.step
    offsets, one = np.array([0, 1], np.int64), np.ones(1, np.float32)
    for feature, label in ((2, 4), (2, 2**31 - 1), (2, -1), (5, 1), (-1, 1)):
        batch = Batch(offsets, np.array([feature], np.int32), one, offsets, np.array([label], np.int32))
        with pytest.raises((ValueError, IndexError)):
            net.train_batch(batch)
    after = net.copy_weights()
    assert net.step == step
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert np.isfinite(net.fit(*samples(20, 5, 4), config=TRAINING).epochs[-1].loss)


@pytest.mark.parametrize(
    "y", [["a"], ["a"] * 6, [["a"], [], ["b"], [], ["a", "b"], []], [[1]], np.eye(6, 3)], ids=str
)
def test_the_smallest_data_of_classifiers(y):
    X = samples(len(y), 5, 1)[0]
    classifier = SlideClassifier(8, epochs=2, batch_size=1000, random_state=0).fit(X, y)
    classifier.partial_fit(X, y)
    assert len(classifier.predict(X)) == len(y) if not isinstance(y, np.ndarray) else y.shape == (6, 3)
    labels, probabilities = classifier.predict_topk(X[:1], k=9)
    assert labels.shape == probabilities.shape == (1, len(classifier.classes_))
    with pytest.raises(DataError, match="no training sample has a label"):
        SlideClassifier(8).fit(X, [[]] * len(y))


def test_the_smallest_data_of_commands(tmp_path, run):
    X, Y = samples(1, 5, 4)
    save_npz(tmp_path / "one.npz", Dataset(X, Y))
    save_npz(tmp_path / "none.npz", Dataset(X[:0], Y[:0]))
    save_npz(tmp_path / "narrow.npz", Dataset(csr_matrix((3, 0), dtype=np.float32), csr_matrix(np.eye(3, dtype="f"))))
    save_npz(tmp_path / "unlabelled.npz", Dataset(X, csr_matrix((1, 4), dtype=np.float32)))
    save_npz(tmp_path / "wide.npz", Dataset(X, csr_matrix(np.eye(1, 9, dtype="f"))))
    options = ["--epochs", 1, "--batch-size", 1000, "--hidden", 8]
    assert run("train", "one.npz", "--test", "one.npz", *options).status == 0
    predicted = run("predict", "slide-model", "one.npz", "--k", 9)
    assert (predicted.status, len(predicted.out.split())) == (0, 4)
    assert run("predict", "slide-model", "none.npz").out == ""
    assert run("predict", "slide-model", "unlabelled.npz").status == 0
    assert run("evaluate", "slide-model", "one.npz").status == 0
    for file, why in (
        ("none.npz", "the training data has no samples"),
        ("narrow.npz", "n_features must be between 1"),
        ("unlabelled.npz", "no training sample has a label"),
    ):
        refused = run("train", file, "--out", "other", *options)
        assert (refused.status, why in refused.err) == (1, True), refused.err
        assert not (tmp_path / "other" / "network.json").exists()
    refused = run("evaluate", "slide-model", "wide.npz")
    assert refused.status == 1
    assert "9" in refused.err.splitlines()[-1]
    assert "Traceback" not in refused.err
