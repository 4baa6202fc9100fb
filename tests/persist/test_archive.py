"""Networks as bytes."""

import copy
import io
import pickle
import zipfile

import numpy as np
import pytest
from small_networks import N_FEATURES, N_LABELS, batch_of, full, make_samples, state_of

from slide import Network, NetworkConfig
from slide.persist.archive import pack, unpack
from slide.persist.checks import CheckpointError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def samples(rng):
    return make_samples(rng)


@pytest.fixture
def network(samples):
    network = Network(N_FEATURES, N_LABELS, NetworkConfig(hidden=full(20)), threads=1)
    network.fit(*samples)
    return network


@pytest.mark.parametrize(
    "copied",
    [
        lambda n: unpack(pack(n.save, moments=n.trainable), Network),
        lambda n: pickle.loads(pickle.dumps(n)),
        copy.deepcopy,
    ],
)
def test_training_goes_on_from_a_copy(network, samples, copied):
    other = copied(network)
    other.output.set_label_frequency(network.output._shared.frequency)
    assert other.step == network.step
    for one in (network, other):
        one.threads = 1
        one.train_batch(batch_of(samples, one.config))
    for name, array in state_of(network).items():
        np.testing.assert_array_equal(state_of(other)[name], array, err_msg=name)


def test_copy_of_a_network_that_can_only_predict(network, samples, tmp_path):
    network.save(tmp_path / "model")
    other = pickle.loads(pickle.dumps(Network.load(tmp_path / "model", threads=1)))
    assert not other.trainable
    np.testing.assert_array_equal(other.predict(samples[0])[1], network.predict(samples[0])[1])


def zipped(**files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize("packed", [b"", b"PK", zipped(), zipped(network="{}")])
def test_other_bytes_are_refused(packed):
    with pytest.raises(CheckpointError):
        unpack(packed, Network)


def test_damage_is_refused(network):
    packed = pack(network.save, moments=network.trainable)
    with pytest.raises(CheckpointError):
        unpack(packed[: len(packed) // 2], Network)
