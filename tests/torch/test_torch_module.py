"""Sampled layers as modules: shared memory, saving and copying, other modules, prediction."""

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch_process  # noqa: E402
from torch import nn  # noqa: E402

import slide  # noqa: E402
from slide import RehashConfig  # noqa: E402
from slide.torch import RowAdam, SampledLinear  # noqa: E402

LABELS, DIM = 60, 20


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def make(mode="uniform", **options):
    return SampledLinear(DIM, LABELS, **({"tail": 32, "budget": 16, "candidates": mode, "seed": 3} | options))


def batch(n=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, DIM, generator=generator), torch.randint(0, LABELS, (n,), generator=generator)


def train(layer, optimizer, steps=4, first=0):
    losses = []
    for seed in range(first, first + steps):
        optimizer.zero_grad()
        loss = layer.loss(*batch(seed=seed))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def logits(layer):
    return layer.full_logits(batch(seed=99)[0]).detach()


def in_place(layer):
    """Whether parameters still are the rows that the kernels read."""
    table = layer._engine.table
    return layer.weight.data_ptr() == table.weights.ctypes.data and layer.bias.data_ptr() == table.bias.ctypes.data


def test_kernels_and_torch_see_one_memory():
    layer = make("full")
    hidden, targets = batch()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert layer.loss(hidden, targets).item() == pytest.approx(np.log(LABELS), rel=1e-6)
    layer._engine.table.weights[7, 3] = 5
    assert layer.weight[7, 3] == 5


# Adagrad of PyTorch makes sparse tensors without saying whether to check them.
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("optimizer", ["RowAdam", "SparseAdam", "SGD", "Adagrad"])
@pytest.mark.parametrize("mode", ["uniform", "lsh+tail"])
def test_optimizers_learn(optimizer, mode):
    layer = make(mode)
    hidden, targets = batch(40)
    with torch.no_grad():
        layer.weight.zero_()
    options = {"lr": 0.5 if optimizer in ("SGD", "Adagrad") else 0.1}
    opt = RowAdam(layer, **options) if optimizer == "RowAdam" else getattr(torch.optim, optimizer)(
        layer.parameters(), **options
    )
    before = layer.full_loss(hidden, targets).item()
    for _ in range(20):
        opt.zero_grad()
        layer.loss(hidden, targets).backward()
        opt.step()
    assert layer.full_loss(hidden, targets).item() < before / 2
    assert in_place(layer)


@pytest.mark.parametrize("mode", ["uniform", "lsh+tail"])
def test_rows_step_as_with_sparse_adam(mode):
    ours, theirs = make(mode), make(mode)
    train(ours, RowAdam(ours, lr=0.05, lazy="sparse", eps=1e-14))
    # SparseAdam adds eps before it corrects the second moment, Adam and RowAdam after.
    train(theirs, torch.optim.SparseAdam(theirs.parameters(), lr=0.05, eps=1e-14))
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["uniform", "lsh+tail", "lsh", "full"])
@pytest.mark.parametrize("lazy", ["exact", "sparse"])
def test_a_step_in_the_backward_pass_is_the_same_step(mode, lazy):
    weights = []
    for step_in_backward in (False, True):
        layer = make(mode)
        optimizer = RowAdam(layer, lr=0.05, weight_decay=0.01, lazy=lazy, step_in_backward=step_in_backward)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 3)
        for _ in range(4):
            train(layer, optimizer, 1)
            scheduler.step()
        assert (layer.weight.grad is None) is step_in_backward
        weights.append(logits(layer))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_lazy_exact_steps_are_those_of_dense_adam():
    lazy, dense = make(sparse=True), make(sparse=False)
    train(lazy, RowAdam(lazy, lr=0.05), 12)
    train(dense, torch.optim.Adam(dense.parameters(), lr=0.05), 12)
    torch.testing.assert_close(logits(lazy), logits(dense), rtol=1e-3, atol=1e-3)
    assert lazy.weight.grad.is_sparse and not dense.weight.grad.is_sparse


def test_gradients_of_several_passes_add_up():
    hidden, targets = batch(24)
    weights = []
    for parts in ([slice(0, 24)], [slice(0, 12), slice(12, 24)]):
        layer = make("full", sparse=True)
        optimizer = RowAdam(layer, lr=0.05)
        for part in parts:
            layer.loss(hidden[part], targets[part], reduction="sum").backward()
        optimizer.step()
        weights.append(layer.weight.detach().clone())
    torch.testing.assert_close(*weights)
    layer = make()
    optimizer = RowAdam(layer, step_in_backward=True)
    layer.loss(hidden, targets).backward()
    with pytest.raises(RuntimeError, match="one backward pass for each step"):
        layer.loss(hidden, targets).backward()
    optimizer.step()
    layer.loss(hidden, targets).backward()


def test_gradient_scaler():
    weights = []
    for scales in (False, True):
        layer = make()
        optimizer = RowAdam(layer, lr=0.05)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scales)
        for seed in range(3):
            optimizer.zero_grad()
            scaler.scale(layer.loss(*batch(seed=seed))).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        weights.append(logits(layer))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_settings_that_may_not_change():
    layer = make()
    optimizer = RowAdam(layer, lr=0.1)
    train(layer, optimizer, 1)
    optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    with pytest.raises(ValueError, match="cycle_momentum=False"):
        train(layer, optimizer, 1)
    with pytest.raises(ValueError, match=r"OptimizerConfig.lr must be"):
        RowAdam(make(), lr=-1.0)
    with pytest.raises(ValueError, match="not a Linear"):
        RowAdam(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="more than once"):
        RowAdam([layer, layer])
    frozen = make()
    frozen.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="freeze both or none"):
        train(frozen, RowAdam(frozen), 1)


def test_rows_that_change_before_the_backward_pass_are_noticed():
    layer = make()
    optimizer = RowAdam(layer)
    losses = [layer.loss(*batch(seed=seed)) for seed in range(2)]
    losses[0].backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses[1].backward()
    with pytest.raises(ValueError, match="call float"):
        RowAdam(make().double())


def test_a_frozen_layer_passes_gradients_on():
    layer = make().requires_grad_(False)
    hidden, targets = batch()
    hidden.requires_grad_()
    layer.loss(hidden, targets).backward()
    assert hidden.grad.any() and layer.weight.grad is None
    alone = make("lsh+tail")
    alone.weight.requires_grad_(False)
    alone.loss(*batch()).backward()
    assert alone.weight.grad is None and alone.bias.grad.is_sparse


@pytest.mark.parametrize("mode", ["uniform", "uniform no bias", "full"])
def test_saving_and_going_on(mode):
    options = {"bias": False} if mode.endswith("bias") else {}
    layer = make(mode.partition(" ")[0], **options)
    optimizer = RowAdam(layer, lr=0.05)
    train(layer, optimizer)
    file = io.BytesIO()
    torch.save({"layer": layer.state_dict(), "optimizer": optimizer.state_dict()}, file)
    assert file.tell() < 4 * 4 * LABELS * (DIM + 4) + 20_000
    expected = train(layer, optimizer, first=4)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = make(mode.partition(" ")[0], **options)
    resumed = RowAdam(other, lr=0.9)
    other.load_state_dict(saved["layer"])
    resumed.load_state_dict(saved["optimizer"])
    assert train(other, resumed, first=4) == expected
    torch.testing.assert_close(other.weight, layer.weight, rtol=0, atol=0)


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    layer, other = make(), make()
    train(layer, RowAdam(layer))
    safetensors.save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other.load_state_dict(safetensors.load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(other.weight, layer.weight) and other.passes == 4


def test_inference_mode():
    layer, (hidden, targets) = make("lsh+tail").eval(), batch()
    expected = layer.loss(hidden, targets).item(), layer.topk(hidden, 3)[0]
    with torch.inference_mode():
        vectors = hidden.clone()
        assert layer.loss(vectors, targets).item() == expected[0]
        assert torch.equal(layer.topk(vectors, 3)[0], expected[1])


def test_linear_layers_come_and_go():
    linear = nn.Linear(DIM, LABELS)
    layer = SampledLinear.from_linear(linear, candidates="full")
    hidden, _ = batch()
    torch.testing.assert_close(layer.full_logits(hidden), linear(hidden))
    other = make()
    assert str(other.load_state_dict(linear.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(other.to_linear().weight, linear.weight) and in_place(other)
    plain = SampledLinear.from_linear(nn.Linear(DIM, LABELS, bias=False))
    assert plain.bias is None and plain.to_linear().bias is None
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(nn.Linear(DIM, 5).state_dict())


@pytest.mark.parametrize("mode", ["uniform", "lsh+tail"])
@pytest.mark.parametrize("how", ["copy", "pickle", "torch"])
def test_copies_are_independent_and_equal(mode, how):
    layer = make(mode)
    train(layer, RowAdam(layer, lr=0.05))
    if how == "copy":
        other = copy.deepcopy(layer)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert in_place(other) and in_place(layer) and other.passes == layer.passes
    before = logits(layer)
    torch.testing.assert_close(logits(other), before, rtol=0, atol=0)
    train(other, RowAdam(other, lr=0.05))
    torch.testing.assert_close(logits(layer), before, rtol=0, atol=0)
    assert not torch.equal(logits(other), before)


class Tied(nn.Module):
    def __init__(self, embedding_first=True, **options):
        super().__init__()
        if embedding_first:
            self.embedding = nn.Embedding(LABELS, DIM, sparse=True)
        self.head = make(**options)
        if not embedding_first:
            self.embedding = nn.Embedding(LABELS, DIM, sparse=True)
        self.head.tie(self.embedding)

    def loss(self, ids, targets):
        return self.head.loss(self.embedding(ids), targets)


@pytest.mark.parametrize("embedding_first", [False, True])
def test_tied_embeddings(embedding_first):
    model = Tied(embedding_first, candidates="full", sparse=True)
    other = copy.deepcopy(model)
    assert other.embedding.weight is other.head.weight is not model.head.weight
    assert in_place(model.head) and in_place(other.head)
    # Dense Adam of one matrix that is used twice.
    weight = model.head.weight.detach().clone().requires_grad_()
    bias = torch.zeros(LABELS, requires_grad=True)
    optimizers = [RowAdam(model.head, lr=0.05), torch.optim.Adam([weight, bias], lr=0.05), RowAdam(other.head, lr=0.05)]
    for seed in range(5):
        _, targets = batch(seed=seed)
        ids = batch(seed=seed + 50)[1]
        hidden = nn.functional.embedding(ids, weight)
        losses = (model.loss(ids, targets), nn.functional.cross_entropy(hidden @ weight.T + bias, targets))
        for optimizer, loss in zip(optimizers, (*losses, other.loss(ids, targets)), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(model.head.weight.detach(), weight.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.head.weight, other.head.weight)
    saved = pickle.loads(pickle.dumps(model))
    assert saved.embedding.weight is saved.head.weight and in_place(saved.head)


def test_rows_of_a_tied_embedding_pay_before_they_are_read():
    model = Tied()
    optimizer = RowAdam(model.head, lr=0.05)
    for seed in range(8):
        optimizer.zero_grad()
        ids, targets = batch(3, seed)[1], batch(3, seed + 20)[1]
        model.loss(ids, targets).backward()
        optimizer.step()
    seen = model.embedding(torch.arange(LABELS)).detach().clone()
    model.head.settle()
    assert torch.equal(seen, model.head.weight)
    with pytest.raises(ValueError, match="must have the same shape"):
        model.head.tie(nn.Embedding(LABELS, DIM + 1))


def test_parameters_find_back_to_their_rows():
    layer = make()
    weight = torch.randn(LABELS, DIM)
    layer.weight = nn.Parameter(weight.clone())
    layer.loss(*batch())
    assert in_place(layer) and torch.equal(layer.weight, weight)
    layer.load_state_dict({"weight": weight * 2, "bias": torch.ones(LABELS)}, assign=True)
    assert in_place(layer) and torch.equal(layer.weight, weight * 2)
    assert in_place(layer.double().float()) and torch.equal(layer.weight, weight * 2)
    assert layer.bfloat16().weight.dtype == torch.float32
    with pytest.raises(RuntimeError, match="stay in this process's memory"):
        layer.to("meta")
    with pytest.raises(RuntimeError, match="stay in this process's memory"):
        layer.share_memory()
    with pytest.raises(ValueError, match="must be parameters of their own"):
        torch.func.functional_call(layer, {"weight": weight}, batch())
    assert in_place(layer)


@pytest.mark.parametrize("mode", ["uniform", "lsh+tail"])
def test_draws_by_seed_pass_and_shard(mode):
    def candidates(**options):
        layer = make(mode, **options)
        return [layer(*batch()).ids.tolist() for _ in range(2)]

    first = candidates()
    assert first == candidates() and first[0] != first[1]
    assert first != candidates(seed=4)
    if mode == "uniform":
        shards = [candidates(shard=(rank, 2)) for rank in range(2)]
        assert shards[0] != shards[1] and make(shard=(1, 2)).weight.equal(make().weight)


def test_evaluation_draws_the_same_again_and_again():
    layer = make().eval()
    losses = {layer.loss(*batch()).item() for _ in range(3)}
    assert len(losses) == 1 and layer.passes == 0
    layer.train()
    losses = {layer.loss(*batch()).item() for _ in range(3)}
    assert len(losses) == 3 and layer.passes == 3


def test_tables_follow_weights_that_others_change():
    layer = make("lsh", rehash=RehashConfig(schedule="fixed", period=1))
    train(layer, torch.optim.SparseAdam(layer.parameters(), lr=0.1), 3)
    index = layer._engine.output.index
    assert index.rebuilds == 3
    with torch.no_grad():
        layer.weight.copy_(torch.randn(LABELS, DIM))
    layer.rebuild_index()
    codes = np.empty_like(index.codes)
    index.hash_rows(codes, 1)
    assert np.array_equal(codes, index.codes)
    with pytest.raises(ValueError, match="have no hash tables"):
        make().rebuild_index()


@pytest.mark.parametrize("mode", ["exact", "sketch", "lsh", "lsh-votes"])
def test_topk(mode):
    layer, (hidden, _) = make(), batch(30)
    if mode != "exact":
        with pytest.raises(RuntimeError, match="call build_search_index"):
            layer.topk(hidden, 3, mode=mode)
        layer.build_search_index("sketch" if mode == "sketch" else "lsh", hidden)
    ids, scores = layer.topk(hidden.reshape(5, 6, DIM), 3, mode=mode, candidates=LABELS)
    assert ids.shape == scores.shape == (5, 6, 3) and ids.dtype == torch.int64
    expected = layer.full_logits(hidden).topk(3)
    if mode in ("exact", "sketch"):
        assert torch.equal(ids.reshape(30, 3), expected.indices)
        torch.testing.assert_close(scores.reshape(30, 3), expected.values.detach())
    train(layer, RowAdam(layer, lr=0.05), 1)
    if mode != "exact":
        with pytest.raises(RuntimeError, match="build_search_index"):
            layer.topk(hidden, 3, mode=mode)


def test_label_frequencies_are_counted_until_they_are_given():
    layer, rng = make("inbatch"), np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(LABELS))
    for _ in range(64):
        layer.loss(torch.zeros(100, DIM), torch.from_numpy(rng.choice(LABELS, 100, p=shares)))
    found, samples = layer._engine.output.label_frequency
    assert samples == 6400 and np.abs(found - shares).max() < 0.02
    again = make("inbatch")
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.get_extra_state(), layer.get_extra_state()) and again.passes == layer.passes == 64
    layer.set_label_frequency(torch.from_numpy(shares), samples=1000)
    layer.loss(*batch())
    assert np.array_equal(layer._engine.output.label_frequency[0], shares)
    again.load_state_dict(layer.state_dict())
    assert np.array_equal(again._engine.output.label_frequency[0], shares)
    assert torch.equal(again.get_extra_state(), layer.get_extra_state())


@pytest.mark.parametrize("step_in_backward", [False, True])
def test_threads_do_not_change_the_result(step_in_backward):
    results = []
    hidden, targets = torch.randn(300, DIM), torch.arange(300)
    for threads in (1, 2, 3):
        layer = SampledLinear(DIM, 20_000, candidates="lsh+tail", tail=6000, budget=512, threads=threads)
        optimizer = RowAdam(layer, lr=0.05, step_in_backward=step_in_backward)
        for _ in range(2):
            optimizer.zero_grad()
            vectors = hidden.clone().requires_grad_()
            layer.loss(vectors, targets).backward()
            optimizer.step()
        layer.settle()
        results.append(torch.cat([layer.weight.detach().reshape(-1), vectors.grad.reshape(-1)]))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("name", ["SGD", "SparseAdam", "Adagrad"])
def test_optimizers_of_torch_with_several_threads(name):
    torch.set_num_threads(2)
    hidden, targets = torch.randn(300, 64), torch.arange(300)
    weights = []
    for copied in (False, True):
        layer = SampledLinear(64, 9000, tail=8000)
        layer = pickle.loads(pickle.dumps(layer)) if copied else layer
        optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.1)
        layer.loss(hidden, targets).backward()
        optimizer.step()
        weights.append(layer.weight.detach())
    assert torch.equal(*weights) and not torch.equal(weights[0], SampledLinear(64, 9000).weight)


# What PyTorch warns itself of while it compiles.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_models_leave_the_layer_to_python():
    model = nn.ModuleDict({"body": nn.Linear(DIM, DIM), "head": make()})

    def loss(hidden, targets):
        return model["head"].loss(torch.relu(model["body"](hidden)), targets)

    hidden, targets = batch()
    expected = loss(hidden, targets).item()
    model["head"].passes = 0
    found = torch.compile(loss, backend="eager")(hidden, targets)
    found.backward()
    assert found.item() == expected and model["body"].weight.grad.any()


def test_what_it_says_of_itself():
    assert repr(make()) == (
        "SampledLinear(in_features=20, n_labels=60, bias=True, candidates='uniform', loss='softmax')"
    )
    assert {line["name"] for line in make().memory_report()} >= {"output weights"}
    assert not make(hugepages="off").memory_report()[0]["hugepage_bytes"]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_processes_average_their_gradients(tmp_path):
    package, store = str(Path(slide.__file__).parents[1]), str(tmp_path / "store")
    command = [sys.executable, torch_process.__file__, "1", store, package]
    with subprocess.Popen(command, cwd=tmp_path) as other:
        torch_process.train(0, store)
        assert other.wait(timeout=60) == 0
    weights = [torch.load(f"{store}{rank}", weights_only=True) for rank in range(2)]
    assert torch.equal(*weights)
    layer = make()
    layer.set_label_frequency(torch.full((LABELS,), 1 / LABELS))
    optimizer, (hidden, targets) = RowAdam(layer, lr=0.05), torch_process.batches()
    for i in range(3):
        optimizer.zero_grad()
        for rank in range(2 if i != 1 else 1):
            layer.passes = i
            (layer.loss(hidden[i, rank], targets[i, rank]) / 2).backward()
        optimizer.step()
    layer.settle()
    torch.testing.assert_close(weights[0], layer.weight.detach(), rtol=1e-4, atol=1e-6)
