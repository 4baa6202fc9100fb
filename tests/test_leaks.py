"""What is done again and again leaves nothing behind: no object, no file, no thread, no mapping."""

import gc
import os
import pickle
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from slide import HiddenConfig, Network, OutputConfig, RehashConfig, SlideClassifier, TrainingConfig
from slide.config import NetworkConfig
from slide.data import make_extreme

TRAIN, TEST = make_extreme(200, 120, 60, test_samples=60, seed=2)
TIMES = 10
OUTPUT = OutputConfig(
    candidates="lsh+tail", budget=8, tail=8, rehash=RehashConfig(schedule="fixed", period=3, renew=2)
)
# Python's cache of methods by name keeps up to 4,096 strings, of which some are made anew by every call.
forget_methods = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache


def made():
    return Network(TRAIN.n_features, TRAIN.n_labels, NetworkConfig(HiddenConfig(8), OUTPUT), threads=1)


def trained(**options):
    network = made()
    network.fit(TRAIN.X, TRAIN.Y, config=TrainingConfig(epochs=1, batch_size=50), **options)
    return network


def life(network, folder):
    trained().predict(TEST.X)


def stream(network, folder):
    network.fit_stream([(TRAIN.X, TRAIN.Y)], config=TrainingConfig(batch_size=50))


def questions(network, folder):
    network.evaluate(TEST.X, TEST.Y)
    network.build_search_index("lsh")
    network.build_search_index("sketch", TEST.X)
    for mode in ("sketch", "lsh", "lsh-votes"):
        network.predict(TEST.X, mode=mode)


def copies(network, folder):
    network.save(folder / "model", moments=True)
    Network.load(folder / "model")
    network.save(folder / "serving", serving=True)
    Network.load(folder / "serving", mmap=True).predict(TEST.X)
    pickle.loads(pickle.dumps(network))


def refusals(network, folder):
    with pytest.raises(ValueError, match="features"):
        network.predict(TEST.Y)
    with pytest.raises(ZeroDivisionError):
        trained(callbacks=[lambda progress: 1 // 0])
    with pytest.raises(RuntimeError, match=r"was called during fit\(\)"):
        trained(callbacks=[lambda progress: progress.batch])
        network.fit(TRAIN.X, TRAIN.Y, callbacks=[lambda progress: network.fit(TRAIN.X, TRAIN.Y)])


def classifier(network, folder):
    SlideClassifier(hidden_units=8, epochs=1, n_jobs=1).fit(TRAIN.X, TRAIN.Y).predict_topk(TEST.X, 3)


def held():
    """What this process has: threads and open files, mappings where the system tells, Python's blocks of memory."""
    gc.collect()
    forget_methods()
    mappings = Path("/proc/self/maps")
    return (
        (threading.active_count(), len(os.listdir("/dev/fd"))),
        len(mappings.read_text().splitlines()) if mappings.exists() else 0,
        sys.getallocatedblocks(),
    )


@pytest.mark.parametrize("work", [life, stream, questions, copies, refusals, classifier])
def test_what_is_done_often_leaves_nothing(work, tmp_path):
    network = trained()
    for _ in range(3):
        work(network, tmp_path)
    before = held()
    for _ in range(TIMES):
        work(network, tmp_path)
    now = held()
    assert now[0] == before[0]
    assert now[1] - before[1] < TIMES
    # Python 3.13t keeps every interned string for ever: those that paths of temporary folders are made of.
    if work is not copies or sysconfig.get_config_var("Py_GIL_DISABLED") != 1:
        assert now[2] - before[2] < TIMES
