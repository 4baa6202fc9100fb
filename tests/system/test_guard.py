"""A network is changed by one thread at a time, and read by nobody else meanwhile; whoever comes second is refused."""

import copy
import os
import pickle
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from slide import Network, OutputConfig, SlideClassifier, TrainingConfig
from slide.config import NetworkConfig
from slide.data import make_extreme
from slide.system.guard import changes, reads, trains

TRAIN, TEST = make_extreme(300, 120, 60, test_samples=60, seed=2)
SHORT = TrainingConfig(epochs=2, batch_size=50)


class Thing:
    @reads
    def read(self, then=None):
        return then and then()

    @changes
    def change(self, then=None):
        return then and then()

    @trains
    def run(self, then=None):
        return then and then()


def blocked(call):
    """Call in another thread with something that waits; return what lets it go on, and the thread."""
    inside, go_on = threading.Event(), threading.Event()

    def wait():
        inside.set()
        assert go_on.wait(30)

    thread = threading.Thread(target=call, args=(wait,))
    thread.start()
    assert inside.wait(30)
    return go_on, thread


@contextmanager
def under_way(call):
    go_on, thread = blocked(call)
    try:
        yield
    finally:
        go_on.set()
        thread.join()


@pytest.mark.parametrize("first", ["read", "change", "run"])
@pytest.mark.parametrize("second", ["read", "change", "run"])
def test_two_threads(first, second):
    thing = Thing()
    with under_way(getattr(thing, first)):
        if (first, second) == ("read", "read"):
            thing.read()
        else:
            with pytest.raises(RuntimeError, match=rf"{second}\(\) .* thread is in {first}\(\) of the same Thing"):
                getattr(thing, second)()
        assert getattr(Thing(), second)() is None
    assert getattr(thing, second)() is None


@pytest.mark.parametrize(
    ("outer", "inner", "allowed"),
    [
        ("read", "read", True),
        ("change", "read", False),
        ("change", "change", False),
        ("run", "read", True),
        ("run", "change", True),
        ("run", "run", False),
        ("change", "run", False),
    ],
)
def test_one_thread_within_its_own_call(outer, inner, allowed):
    thing = Thing()
    if allowed:
        getattr(thing, outer)(getattr(thing, inner))
    else:
        with pytest.raises(RuntimeError, match=rf"{inner}\(\) was called during {outer}\(\)"):
            getattr(thing, outer)(getattr(thing, inner))
    assert thing.run() is None


def test_what_raises_is_over():
    thing = Thing()
    for call in (thing.read, thing.change, thing.run):
        with pytest.raises(ZeroDivisionError):
            call(lambda: 1 // 0)
    with under_way(thing.change):
        pass
    assert thing.run() is None


def waiting(wait):
    """A callback that waits after the first batch."""
    return lambda progress: progress.batch == 1 and wait()


def blocks(X, Y, wait):
    yield X[:50], Y[:50]
    wait()
    yield X[50:], Y[50:]


def trained(call):
    network = Network(TRAIN.n_features, TRAIN.n_labels, threads=1)
    call(network, lambda: None)
    return network.copy_weights()


RUNS = {
    "fit": lambda network, wait: network.fit(TRAIN.X, TRAIN.Y, config=SHORT, callbacks=[waiting(wait)]),
    "fit_stream": lambda network, wait: network.fit_stream(blocks(TRAIN.X, TRAIN.Y, wait), config=SHORT),
}


@pytest.mark.parametrize("name", RUNS)
def test_whatever_comes_between_is_refused_and_changes_nothing(name, tmp_path):
    network = Network(TRAIN.n_features, TRAIN.n_labels, threads=1)
    expected, weights = trained(RUNS[name]), network.copy_weights()
    batch = network.reader(TRAIN.X, TRAIN.Y, 50).read(np.arange(50))
    calls = {
        "fit": lambda: network.fit(TRAIN.X, TRAIN.Y, config=SHORT),
        "fit_stream": lambda: network.fit_stream([(TRAIN.X, TRAIN.Y)], config=SHORT),
        "train_batch": lambda: network.train_batch(batch),
        "predict": lambda: network.predict(TEST.X),
        "evaluate": lambda: network.evaluate(TEST.X, TEST.Y),
        "layer_inputs": lambda: network.layer_inputs(TEST.X),
        "hidden_vectors": lambda: network.hidden_vectors(TEST.X),
        "copy_weights": network.copy_weights,
        "output_matrix": network.output_matrix,
        "settle": network.settle,
        "build_search_index": lambda: network.build_search_index("lsh"),
        "set_weights": lambda: network.set_weights(weights),
        "initialize": lambda: network.initialize(labels=None),
        "grow": lambda: network.grow(network.n_labels + 1),
        "save": lambda: network.save(tmp_path / "model"),
        "save ": lambda: network.save(tmp_path / "model.safetensors"),
        "save  ": lambda: pickle.dumps(network),
        "save   ": lambda: copy.deepcopy(network),
    }
    with under_way(lambda wait: RUNS[name](network, wait)):
        for called, call in calls.items():
            with pytest.raises(RuntimeError, match=rf"^{called.strip()}\(\) .* another thread is in {name}\(\)"):
                call()
        assert len(network.memory_report()) > 1
        assert repr(network)
    assert list(tmp_path.iterdir()) == []
    found = network.copy_weights()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_training_waits_for_nobody_who_predicts(monkeypatch):
    network = Network(TRAIN.n_features, TRAIN.n_labels, threads=1)
    predict = network.hidden[0].predict

    def slow(wait):
        monkeypatch.setattr(network.hidden[0], "predict", lambda *given: (wait(), predict(*given))[1])
        network.predict(TEST.X)

    with under_way(slow):
        with pytest.raises(RuntimeError, match=r"fit\(\) .* another thread is in predict\(\)"):
            network.fit(TRAIN.X, TRAIN.Y, config=SHORT)
        assert network.step == 0
    assert network.fit(TRAIN.X, TRAIN.Y, config=SHORT).batches == 12


def test_callbacks_may_do_everything_but_train_on(tmp_path):
    network, done = Network(TRAIN.n_features, TRAIN.n_labels, threads=1), []

    def everything(progress):
        network.evaluate(TEST.X, TEST.Y)
        network.save(tmp_path / "model", moments=True)
        network.set_weights(network.copy_weights())
        assert Network.load(tmp_path / "model").step == progress.batch
        with pytest.raises(RuntimeError, match=r"fit\(\) was called during fit\(\)"):
            network.fit(TRAIN.X, TRAIN.Y)
        done.append(progress.batch)
        return progress.batch == 2

    network.fit(TRAIN.X, TRAIN.Y, config=SHORT, callbacks=[everything])
    assert done == [1, 2]


@pytest.mark.parametrize("name", ["fit", "partial_fit"])
def test_classifier(name):
    classifier = SlideClassifier(hidden_units=16, epochs=2, n_jobs=1).fit(TRAIN.X, TRAIN.Y)
    run = getattr(classifier, name)
    with under_way(lambda wait: run(TRAIN.X, TRAIN.Y, callbacks=[waiting(wait)])):
        for method in ("fit", "partial_fit", "score"):
            with pytest.raises(RuntimeError, match=rf"{method}\(\) .* is in {name}\(\) of the same SlideClassifier"):
                getattr(classifier, method)(TRAIN.X, TRAIN.Y)
        for method in ("predict", "predict_topk", "predict_proba", "decision_function"):
            with pytest.raises(RuntimeError, match=rf"{method}\(\) .* is in {name}\(\) of the same SlideClassifier"):
                getattr(classifier, method)(TEST.X)
    assert classifier.predict(TEST.X).shape == (60, 60)


def test_networks_do_not_mind_each_other():
    first, second = (
        Network(TRAIN.n_features, TRAIN.n_labels, NetworkConfig(output=OutputConfig(candidates="full")), threads=1)
        for _ in range(2)
    )
    with under_way(lambda wait: RUNS["fit"](first, wait)):
        RUNS["fit"](second, lambda: None)
    pair = first.copy_weights(), second.copy_weights()
    assert all(np.array_equal(pair[0][name], pair[1][name]) for name in pair[0])


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system does not fork")
def test_a_forked_process_forgets_readers_and_keeps_what_is_halfway(monkeypatch):
    from slide.system import guard

    read, changed, mine = Thing(), Thing(), Thing()

    def forked():
        guard._before_fork()
        guard._after_fork_in_child()
        assert read.change() is None
        with pytest.raises(RuntimeError, match=r"is in change\(\)"):
            changed.read()
        assert mine.read() is None

    with under_way(read.read), under_way(changed.change):
        mine.run(forked)
    assert changed.read() is None
