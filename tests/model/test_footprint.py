"""What a network takes: predicted, measured, and refused where it does not fit."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from small_networks import N_FEATURES, N_LABELS, batch_of, full, make_samples, sampled

from slide.config import NetworkConfig, OptimizerConfig, OutputConfig
from slide.model.footprint import BatchShape
from slide.network import Network
from slide.system import memory
from slide.system.buffers import Buffers
from slide.system.cgroups import MemoryLimit
from slide.system.memory import available, check_fit, resident

GIB = 1 << 30
UNLIMITED = MemoryLimit(None)


@pytest.fixture
def free(monkeypatch):
    """Set what the machine and the control group have left."""

    def free(machine, limit=UNLIMITED):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=machine))
        monkeypatch.setattr(memory, "memory_limit", lambda: limit)

    return free


def test_shape_of_the_largest_batch():
    samples = make_samples(np.random.default_rng(0))
    lengths, labels = np.sort(np.diff(samples[0].indptr)), np.sort(np.diff(samples[1].indptr))
    assert BatchShape.of(*samples, 5) == (5, lengths[-5:].sum(), labels[-5:].sum(), labels[-1])
    assert BatchShape.of(*samples, 100) == (12, lengths.sum(), labels.sum(), labels[-1])
    assert BatchShape.of(samples[0][:0], samples[1][:0], 5) == (0, 0, 0, 0)


@pytest.mark.parametrize("candidates", ["uniform", "lsh+tail", "lsh", "inbatch", "full", "topk"])
@pytest.mark.parametrize("hidden", [(full(20),), (full(20), sampled(40, 9)), (sampled(40, 9),)], ids=["f", "fs", "s"])
def test_everything_that_training_allocates_was_predicted(candidates, hidden):
    samples = make_samples(np.random.default_rng(0))
    config = NetworkConfig(hidden, OutputConfig(candidates, budget=10, tail=30), OptimizerConfig(lr=1e-3))
    net = Network(N_FEATURES, N_LABELS, config)
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    net.train_batch(batch_of(samples, config))
    needs = Network.bytes_needed(N_FEATURES, N_LABELS, config, batch=BatchShape.of(*samples, 12))
    parts = {" table codes": " tables", " table offsets": " tables", " table ids": " tables"}
    taken: dict[str, int] = {}
    for line in net.memory_report():
        name = line["name"]
        for part, whole in parts.items():
            name = name.replace(part, whole)
        taken[name] = taken.get(name, 0) + line["bytes"]
    assert {name for name in taken if name.endswith(" gradient")} <= set(needs)
    # Gradients have room for more parts than a batch this small writes to; empty buffers hold a few words.
    taken = {name: size for name, size in taken.items() if not name.endswith(" gradient")}
    assert {name: size for name, size in taken.items() if size > needs.get(name, 1000)} == {}


def test_pages_are_counted_whole(monkeypatch):
    needs = {"large": 5 << 20, "small": 5000}
    monkeypatch.setattr(memory, "hugepage_mode", lambda: "madvise")
    assert resident(needs) == (6 << 20) + 8192
    assert resident(needs, "off") == (5 << 20) + 8192
    monkeypatch.setattr(memory, "hugepage_mode", lambda: "never")
    assert resident(needs) == (5 << 20) + 8192


def test_the_tighter_limit_counts(free):
    free(8 * GIB)
    assert available() == (8 * GIB, "free")
    free(8 * GIB, MemoryLimit(2, 3 * GIB, GIB, 0, "/jobs"))
    assert available() == (2 * GIB, "left by the limit of control group /jobs, 3.00 GiB")
    free(GIB, MemoryLimit(2, 3 * GIB, GIB, 0, "/jobs"))
    assert available() == (GIB, "free")


def test_what_does_not_fit_is_refused_with_the_arithmetic(free, monkeypatch):
    needs = {"hidden.0 weights": GIB, "output weights": 2 * GIB, "output tables": GIB // 2, "little": GIB // 200}
    free(4 * GIB)
    check_fit(needs)
    free(3 * GIB)
    with pytest.raises(MemoryError) as refused:
        check_fit(needs)
    message = str(refused.value)
    assert "1.00 GiB hidden.0 weights + 2.00 GiB output weights + 0.50 GiB output tables + 0.01 GiB smaller" in message
    assert "= 3.51 GiB are needed, 3.00 GiB are free; choose fewer hidden units or tables" in message
    monkeypatch.setenv("SLIDE_MEMORY_CHECK", "off")
    check_fit(needs)


def test_a_network_that_does_not_fit_is_never_begun(free):
    free(1 << 20)
    with pytest.raises(MemoryError, match=r"GiB output weights.* are needed, 0\.00 GiB are free"):
        Network(1000, 5000)


@pytest.mark.parametrize("trainable", [False, True])
def test_bytes_of_networks_that_only_predict(trainable):
    config = NetworkConfig(output=OutputConfig("lsh"))
    needs = Network.bytes_needed(N_FEATURES, N_LABELS, config, trainable=trainable)
    report = Network(N_FEATURES, N_LABELS, config, trainable=trainable).memory_report()
    weights = {line["name"]: line["bytes"] for line in report if line["name"].endswith("weights")}
    assert {name: needs[name] for name in weights} == weights
    assert ("output tables" in needs) == trainable


CODE = """
import numpy as np
from slide.config import HiddenConfig, NetworkConfig, OutputConfig
from slide.network import Network
from slide.system.memory import resident
from slide.system.smaps import resident_bytes
Network(100, 100)
if resident_bytes() is not None:
    sizes = 20_000, 20_000, NetworkConfig(HiddenConfig(256), hugepages={pages!r})
    before = resident_bytes()
    network = Network(*sizes)
    network.output.set_label_frequency(np.full(20_000, 0.1))
    needs = Network.bytes_needed(*sizes)
    print((resident_bytes() - before) / resident(needs, {pages!r}))
"""


@pytest.mark.parametrize("pages", ["auto", "off"])
def test_prediction_is_what_is_measured(pages, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # `python -c` looks for modules in the current folder first
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    code = CODE.format(pages=pages)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    if not out:
        pytest.skip("this system tells nothing of its mappings")
    assert float(out) == pytest.approx(1.0, abs=0.03)


def test_required_hugepages_of_a_network(monkeypatch):
    asked = []
    monkeypatch.setattr(Buffers, "require_hugepages", lambda self: asked.append(self))
    for pages in ("auto", "off", "require"):
        Network(N_FEATURES, N_LABELS, NetworkConfig(hugepages=pages))
        assert len(asked) == (pages == "require")
