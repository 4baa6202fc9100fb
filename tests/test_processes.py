"""Forked and fresh processes, joblib and other OpenMP runtimes: the same results, no hanging, no setting moved."""

import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec

import pytest

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs PyTorch, whose OpenMP runtime is another")
needs_joblib = pytest.mark.skipif(find_spec("joblib") is None, reason="needs joblib")
forks_among_threads = pytest.mark.skipif(
    not hasattr(os, "fork") or sysconfig.get_config_var("Py_GIL_DISABLED") == 1,
    reason="nobody forks here or, without a GIL, the other threads may hold any lock of Python's own",
)


def run(script, folder, *arguments):
    """Run a script in a process of its own; return what it prints."""
    path = folder / "script.py"
    path.write_text(PREAMBLE + script)
    command = [sys.executable, str(path), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


PREAMBLE = """
import sys
import numpy as np

def trained(threads=2):
    from slide import Network, TrainingConfig
    network = Network(data.n_features, data.n_labels, threads=threads)
    network.fit(data.X, data.Y, config=TrainingConfig(epochs=1, max_batches=3))
    return network

def make_data():
    from slide.data import make_extreme
    return make_extreme(500, 3000, 4000)

def digest(network):
    import hashlib
    weights = network.copy_weights()
    return hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()
"""

START_METHODS = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def answer(given=None):
    # Forked processes find what was there; fresh ones are sent a network, and train one of their own.
    model = network if given is None else given
    found = model.predict(data.X)
    model.threads = 2
    assert all(map(np.array_equal, found, model.predict(data.X)))
    return [*found, digest(trained())]

data = make_data()
if __name__ == "__main__":
    network = trained()
    expected = answer()
    for method in multiprocessing.get_all_start_methods():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            found = pool.submit(answer, None if method == "fork" else network).result(timeout=60)
        assert all(map(np.array_equal, found, expected)), method
        assert all(map(np.array_equal, answer(), expected)), method
    print(*multiprocessing.get_all_start_methods())
"""


def test_processes_however_they_are_started(tmp_path):
    assert "spawn" in run(START_METHODS, tmp_path)


FORKED_AT_ANY_TIME = """
import os
import signal
import threading
from threadpoolctl import threadpool_info
from slide import Network

def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

data = make_data()
idle, busy, asked = trained(), trained(), trained()
expected, before, done = idle.predict(data.X), blas_threads(), threading.Event()

def train():
    while not done.is_set():
        busy.fit(data.X, data.Y)

def ask():
    while not done.is_set():
        asked.predict(data.X)

threads = [threading.Thread(target=work) for work in (train, ask, ask)]
for thread in threads:
    thread.start()
refused = 0
for _ in range(4):
    child = os.fork()
    if not child:
        signal.alarm(30)
        status = 1
        try:
            for network in (idle, asked):
                assert all(map(np.array_equal, network.predict(data.X), expected))
            assert digest(trained()) == digest(idle)
            assert blas_threads() == before, blas_threads()
            status = 0
            busy.predict(data.X[:1])
        except RuntimeError as error:
            # The thread that was halfway through changing these weights is not in this process.
            assert "is in fit() of the same Network" in str(error)
            status = 2
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 2), status
    refused += status == 2
done.set()
for thread in threads:
    thread.join()
print(refused)
"""


@forks_among_threads
def test_a_process_forked_while_others_train_and_predict(tmp_path):
    assert int(run(FORKED_AT_ANY_TIME, tmp_path)) > 0


JOBLIB = """
import joblib

data = make_data()
if __name__ == "__main__":
    network = trained()
    # The same parts: a BLAS may round the scores of another number of samples otherwise.
    parts = [data.X[i : i + 100] for i in range(0, 500, 100)]
    expected = [network.predict(part) for part in parts]
    for backend in ("loky", "threading"):
        with joblib.parallel_config(backend, n_jobs=2):
            found = joblib.Parallel()(joblib.delayed(network.predict)(part) for part in parts)
        assert all(np.array_equal(mine, other) for pair in zip(found, expected) for mine, other in zip(*pair)), backend
"""


@needs_joblib
def test_joblib(tmp_path):
    run(JOBLIB, tmp_path)


BESIDE_TORCH = """
import threading

order = sys.argv[1:]
for name in order:
    if name == "slide":
        data = make_data()
        before = digest(trained())
    else:
        import torch
        torch.set_num_threads(2)

def products():
    torch.manual_seed(0)
    x = torch.randn(400, 400)
    for _ in range(5):
        x = torch.tanh(x @ x)
        (torch.sin(torch.arange(200_000.0)).sum())
    return x.numpy()

first = products()
assert digest(trained()) == before
assert np.array_equal(products(), first)
# Both at once.
found = []
thread = threading.Thread(target=lambda: found.append(digest(trained())))
thread.start()
assert np.array_equal(products(), first)
thread.join()
assert found == [before]
assert torch.get_num_threads() == 2
print(before)
"""


@needs_torch
def test_pytorch_in_either_order(tmp_path):
    both = {run(BESIDE_TORCH, tmp_path, *order) for order in (("slide", "torch"), ("torch", "slide"))}
    assert len(both) == 1


SETTINGS = """
import contextlib
import locale
import os
import signal
import scipy.linalg
import scipy.sparse
import threadpoolctl

with contextlib.suppress(ImportError):
    import sklearn.base  # which sets variables of its own

def settings():
    libraries = {
        library["filepath"]: library["num_threads"]
        for library in threadpoolctl.threadpool_info()
        # Loaded by slide: it had no setting before.
        if library["user_api"] == "blas" or late
    }
    denormal = np.float32(1e-38) / np.float32(16)
    return {
        "environment": dict(os.environ),
        "handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "affinity": os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "umask": (umask := os.umask(0o22), os.umask(umask))[0],
        "folder": os.getcwd(),
        "floating point": (float(denormal), np.geterr(), np.get_printoptions()),
        "random": np.random.get_state()[1].tolist(),
        "locale": locale.setlocale(locale.LC_ALL),
        "python": (sys.getswitchinterval(), sys.getrecursionlimit(), sys.flags, sys.excepthook),
        "libraries": libraries,
    }

late = False
threadpoolctl.threadpool_limits(2, user_api="blas")
before = settings()
def check():
    now = settings()
    assert now == before, {name: (before[name], now[name]) for name in now if now[name] != before[name]}

from slide import Network, SlideClassifier
import slide.estimator
data = make_data()
check()
late = True
before = settings()
network = trained()
check()
network.predict(data.X)
network.build_search_index("sketch", data.X)
network.predict(data.X, mode="sketch")
check()
network.save("model")
Network.load("model").evaluate(data.X, data.Y)
SlideClassifier(hidden_units=8, epochs=1).fit(data.X, data.Y).predict(data.X[:10])
check()
"""


def test_settings_are_left_as_they_are(tmp_path):
    run(SETTINGS, tmp_path)
