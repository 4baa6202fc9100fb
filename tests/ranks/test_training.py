"""Several ranks learn what one does on the same batches."""

import numpy as np
import pytest

from slide.kernels.parallel import isa

EXACT = {
    "softmax": {"output": {"loss": "softmax"}},
    "bce": {"output": {"loss": "bce"}, "distribution": {"partition": "contiguous"}},
    "smoothed": {"output": {"loss": "softmax", "label_smoothing": 0.1, "targets": "sum"}, "hidden": (8, 6)},
    "weighted": {"output": {"loss": "bce", "label_weights": "propensity"}, "hidden": (8, 6), "data": "own"},
    "held out": {"output": {"loss": "softmax"}, "training": {"holdout": 0.2, "patience": 2}},
    "handed back": {"output": {"loss": "bce"}, "feature_weights": "idf", "input_dropout": 0.1, "way": "fit"},
}
FEATURES = {
    "features": {"output": {"loss": "softmax"}, "hidden": (8, 6), "optimizer": {"weight_decay": 0.01}},
    "features handed back": {"output": {"loss": "bce"}, "feature_weights": "idf", "way": "fit"},
    "uneven features": {"output": {"loss": "bce"}, "distribution": {"portions": 3}, "training": {"batch_size": 32}},
}
CLIPPED = {"clipped": {"output": {"loss": "softmax"}, "optimizer": {"clip_norm": 0.02}}}
SGD = {"sgd": {"output": {"loss": "softmax"}, "optimizer": {"name": "sgd", "lr": 0.5}, "dropout": 0.0}}
UNEVEN = {
    f"uneven {loss}": {"output": {"loss": loss}, "distribution": {"portions": 3}, "training": {"batch_size": 32}}
    for loss in ("softmax", "bce")
}
DRAWN = {
    f"{candidates} {loss}": {"output": {"candidates": candidates, "loss": loss}, "training": {"epochs": 5}}
    for candidates, loss in (("uniform", "bce"), ("lsh+tail", "softmax"), ("inbatch", "softmax"), ("topk", "softmax"))
}
# Of the last batch, of one sample, three of four ranks have nothing.
LEFT_OVER = {"left over": {"output": {"loss": "softmax"}, "n_samples": 81}}
PLAIN = {"plain": {"way": "plain", "training": {"holdout": 0.1}}}
OF_ONE = {**EXACT, **FEATURES, **CLIPPED, **SGD, **UNEVEN, **DRAWN, **LEFT_OVER, **PLAIN}


def with_data_shards(scenario, **fields):
    return {**scenario, "distribution": {**scenario.get("distribution", {}), **fields}}


OF_FOUR = {
    "softmax": EXACT["softmax"],
    "bce": with_data_shards(EXACT["bce"], data_shards=2),
    "smoothed": with_data_shards(EXACT["smoothed"], data_shards=4),
    "weighted": with_data_shards(EXACT["weighted"], data_shards=2),
    "handed back": with_data_shards(EXACT["handed back"], data_shards=4),
    "left over": with_data_shards(LEFT_OVER["left over"], data_shards=2),
    "features": with_data_shards(FEATURES["features"], data_shards=2, shard_features=True),
    "features handed back": with_data_shards(FEATURES["features handed back"], shard_features=True),
    "uniform bce": DRAWN["uniform bce"],
    "lsh+tail softmax": with_data_shards(DRAWN["lsh+tail softmax"], data_shards=2),
}
SLOW = {
    # The mean of steps in proportion to the gradient is the step of the mean gradient.
    "sgd": with_data_shards(SGD["sgd"], data_shards=2, average_every=1, shard_features=True),
    "uniform bce": with_data_shards(DRAWN["uniform bce"], data_shards=2, average_every=2),
    "lsh+tail softmax": with_data_shards(DRAWN["lsh+tail softmax"], data_shards=2, keep_rows=0.5),
    "inbatch softmax": with_data_shards(DRAWN["inbatch softmax"], data_shards=2),
    "left over": with_data_shards(LEFT_OVER["left over"], data_shards=2, average_every=2),
    "topk softmax": DRAWN["topk softmax"],
}


def of_three(**fields):
    return {**fields, "distribution": {"portions": 3, **fields.get("distribution", {})}}


REFUSED = {
    "hogwild": (of_three(update="hogwild"), "NetworkConfig.update 'hogwild' cannot be distributed"),
    "means": (of_three(output={"init": "mean"}), "OutputConfig.init 'mean' cannot be distributed"),
    "clipped replicas": (
        of_three(optimizer={"clip_norm": 1.0}, distribution={"data_shards": 3}),
        "OptimizerConfig.clip_norm with several data shards",
    ),
    "small batches": (of_three(training={"batch_size": 2}), "batch_size is 2 and the samples are cut into 3 portions"),
    "search": (of_three(way="search"), "predicts only with mode='exact'"),
}


@pytest.fixture(scope="module")
def one(ranks):
    return ranks(1, OF_ONE)


def check_same(found, expected):
    assert found["losses"] == pytest.approx(expected["losses"], rel=2e-4)
    assert found["precisions"] == pytest.approx(expected["precisions"], abs=0.03)
    assert found["active"] == expected["active"]
    assert found["best"] == expected["best"]
    assert np.allclose(found["scores"], expected["scores"], atol=2e-3)
    for quality, other in zip(found["quality"], expected["quality"], strict=True):
        assert quality == pytest.approx(other, abs=0.05)
    check_sound(found)


def check_sound(found):
    """What ranks predict together is what the network that they are gathered in predicts."""
    assert found["labels agree"]
    # The kernels for AVX-512 round alike whatever the number of rows. A BLAS, which other machines use, need not. Where
    # features are cut, too, hidden vectors are sums of parts.
    exact = isa() == "avx512" and not found["features cut"]
    assert found["scores differ"] <= (0 if exact else 1e-6)
    assert found["quality differs"] < 1e-9


def test_two_ranks_have_half_of_the_labels_each(ranks, one):
    sharded = {"features": with_data_shards(FEATURES["features"], shard_features=True)}
    for name, found in ranks(2, {**EXACT, **CLIPPED, **sharded}).items():
        check_same(found, one[name])


def test_four_ranks_make_grids_of_points_and_labels(ranks, one):
    for name, found in ranks(4, OF_FOUR).items():
        if name in {**EXACT, **FEATURES, **LEFT_OVER}:
            check_same(found, one[name])
        else:
            check_sound(found)
            assert found["quality"][-1]["P@3"] == pytest.approx(one[name]["quality"][-1]["P@3"], abs=0.12)


def test_replicas_for_slow_networks_learn_as_well(ranks, one):
    every = ranks(4, SLOW)
    check_same(every["sgd"], one["sgd"])
    for name, found in every.items():
        check_sound(found)
        assert found["quality"][-1]["P@3"] == pytest.approx(one[name]["quality"][-1]["P@3"], abs=0.12)


def test_three_ranks_cut_everything_unevenly(ranks, one):
    fewer_labels = {"distribution": {"portions": 3}, "n_labels": 2, "fails": True}
    no_grid = {"distribution": {"label_shards": 2}, "fails": True}
    features = {"uneven features": with_data_shards(FEATURES["uneven features"], shard_features=True)}
    refused = {name: {**settings, "fails": True} for name, (settings, _) in REFUSED.items()}
    found = ranks(3, {**UNEVEN, **features, "too many": fewer_labels, "no grid": no_grid, **refused})
    for name in {**UNEVEN, **features}:
        check_same(found[name], one[name])
    for name, (_, message) in REFUSED.items():
        assert message in found[name]
    assert "2 labels cannot be cut into 3 shards" in found["too many"]
    assert "1 data shards times 2 label shards make 2 ranks, and there are 3" in found["no grid"]


def test_one_rank_learns_what_a_network_without_ranks_does_to_the_bit(one):
    assert one["plain"]["same bits"]


def test_bytes_are_those_of_points_not_of_weights(ranks):
    sizes = {str(units): {"hidden": (units,), "output": {"loss": "softmax"}} for units in (16, 64)}
    found = ranks(2, sizes)
    # Of 40 samples half are the other rank's.
    assert [found[units]["bytes"]["gradient"] for units in ("16", "64")] == [2 * 20 * 16 * 4, 2 * 20 * 64 * 4]
    assert found["16"]["bytes"]["features"] == found["64"]["bytes"]["features"] < 40 * 80 * 8
