"""What may be called from several threads at once, as the guide has it, gives what one thread gets."""

import os
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from slide import HiddenConfig, LSHConfig, Mixture, Neighbours, Network, OutputConfig, SlideClassifier, TrainingConfig
from slide.config import NetworkConfig
from slide.data import make_extreme

TRAIN, TEST = make_extreme(400, 120, 60, test_samples=90, seed=2)


@pytest.fixture(scope="module")
def network():
    config = NetworkConfig(output=OutputConfig(candidates="lsh+tail", budget=8, tail=8))
    network = Network(TRAIN.n_features, TRAIN.n_labels, config, threads=2)
    network.fit(TRAIN.X, TRAIN.Y, config=TrainingConfig(epochs=2))
    network.build_search_index("sketch", TRAIN.X)
    network.build_search_index("lsh")
    return network


def at_once(call):
    """Call with three different parts of the data, many times, from four threads; return what differs from one."""
    parts = [TEST.X[first : first + 30] for first in (0, 30, 60)] * 6
    expected = [call(part) for part in parts[:3]] * 6
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(call, parts))
    same = [all(map(np.array_equal, a, b)) for a, b in zip(expected, found, strict=True)]
    return same.count(False)


@pytest.mark.parametrize("mode", ["exact", "sketch", "lsh"])
def test_network(network, mode):
    assert at_once(lambda X: network.predict(X, k=3, mode=mode)) == 0


def test_eight_threads_while_another_loads_and_asks_a_second_network(network, tmp_path):
    network.save(tmp_path / "moments", moments=True)
    network.save(tmp_path / "serving", serving=True)
    parts = [TEST.X[first : first + 9] for first in range(0, 90, 9)] * 4
    expected = [network.predict(part, k=3) for part in parts]
    done, loaded = threading.Event(), []

    def load():
        while not done.is_set():
            for name in ("moments", "serving"):
                second = Network.load(tmp_path / name, threads=2, mmap=name == "serving")
                loaded.append(second.predict(parts[0], k=3))

    with ThreadPoolExecutor(9) as pool:
        loading = pool.submit(load)
        found = list(pool.map(lambda part: network.predict(part, k=3), parts))
        done.set()
        loading.result()
    assert all(all(map(np.array_equal, *pair)) for pair in zip(found, expected, strict=True))
    assert loaded and all(all(map(np.array_equal, answer, expected[0])) for answer in loaded)


def trained(candidates, projection):
    output = OutputConfig(candidates=candidates, budget=8, lsh=LSHConfig(projection=projection))
    network = Network(TRAIN.n_features, TRAIN.n_labels, NetworkConfig(HiddenConfig(16), output), threads=1)
    network.fit(TRAIN.X, TRAIN.Y, config=TrainingConfig(epochs=1, batch_size=50))
    return network.copy_weights()


def test_networks_that_are_trained_at_once():
    kinds = [(candidates, projection) for candidates in ("lsh+tail", "full") for projection in ("sparse", "hadamard")]
    expected = [trained(*kind) for kind in kinds] * 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda kind: trained(*kind), kinds * 3))
    for one, other in zip(found, expected, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in other)


@pytest.mark.skipif(sysconfig.get_config_var("Py_GIL_DISABLED") != 1, reason="this Python has a GIL")
def test_where_there_is_no_gil_there_stays_none(tmp_path):
    script = "import sys, pkgutil, slide.estimator, slide.kernels as k\n"
    script += "for kernel in pkgutil.iter_modules(k.__path__): __import__(f'slide.kernels.{kernel.name}')\n"
    script += "assert not sys._is_gil_enabled()"
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_first_calls_at_once_leave_the_threads_of_blas(tmp_path):
    done = subprocess.run([sys.executable, "-c", FIRST], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


FIRST = """
import sys, threading
import scipy.linalg
from threadpoolctl import threadpool_info, threadpool_limits
from slide.system.blas import one_blas_thread

def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

def enter():
    start.wait()
    made.add(id(one_blas_thread()))
    with one_blas_thread():
        pass

sys.setswitchinterval(1e-6)
threadpool_limits(2, user_api="blas")
before, start, made = blas_threads(), threading.Barrier(8), set()
threads = [threading.Thread(target=enter) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(made) == 1
assert blas_threads() == before
"""


def test_hidden_vectors_and_mixture(network):
    mixture = Mixture(network, Neighbours(TRAIN.X, TRAIN.Y, threads=2))
    assert at_once(lambda X: [signal.dense for signal in network.layer_inputs(X)[1:]]) == 0
    assert at_once(lambda X: mixture.predict(X, k=3)) == 0


def test_saving_what_owes_something(network, tmp_path):
    rows = network.train_batch(network.reader(TRAIN.X, TRAIN.Y, 50).read(np.arange(50)))
    assert rows.active > 0
    with ThreadPoolExecutor(4) as pool:
        saved = [pool.submit(network.save, tmp_path / str(i)) for i in range(4)]
        weights = [pool.submit(network.copy_weights) for _ in range(4)]
    expected = network.copy_weights()
    for i in range(4):
        saved[i].result()
        copies = weights[i].result(), Network.load(tmp_path / str(i)).copy_weights()
        assert all(np.array_equal(copy[name], expected[name]) for copy in copies for name in expected)


def test_classifier():
    classifier = SlideClassifier(hidden_units=16, epochs=2, n_jobs=2).fit(TRAIN.X, TRAIN.Y)
    assert at_once(lambda X: classifier.predict_topk(X, k=3)) == 0
    assert at_once(classifier.predict_proba) == 0


FORKS = """
import multiprocessing
import numpy as np
from slide import Network, TrainingConfig
from slide.data import make_extreme

data = make_extreme(500, 3000, 4000)
networks = [Network(3000, 4000, threads=2) for _ in range(2)]
config = TrainingConfig(max_batches=3)
for network in networks:
    network.fit(data.X, data.Y, config=config)

def answer(queue):
    networks[0].fit(data.X, data.Y, config=config)
    queue.put(networks[0].predict(data.X)[0])

context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=answer, args=(queue,), daemon=True)
process.start()
found = queue.get(timeout=30)
networks[1].fit(data.X, data.Y, config=config)
assert np.array_equal(found, networks[1].predict(data.X)[0])
"""


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system does not fork")
def test_a_forked_process_computes_what_its_parent_does(tmp_path):
    command = [sys.executable, "-c", FORKS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
