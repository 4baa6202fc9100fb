"""Losses and gradients of sampled layers, beside nn.Linear's, and beside the same in double precision."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from scipy.sparse import csr_matrix  # noqa: E402
from torch import nn  # noqa: E402

from slide.torch import RowAdam, SampledLinear, clip_grad_norm_  # noqa: E402

LABELS = 60
INDEPENDENT = ("uniform", "inbatch", "full")
SHARING = {mode: {} for mode in INDEPENDENT} | {"uniform alone": {"share_labels": False}}
MODES = ("uniform", "inbatch", "full", "lsh", "lsh+tail", "lsh+inbatch", "topk", "topk+tail")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def make(mode="uniform", dim=20, **options):
    options = {"tail": 32, "budget": 16, "candidates": mode, "seed": 3} | options
    layer = SampledLinear(dim, LABELS, **options)
    with torch.no_grad():
        layer.bias.copy_(torch.linspace(-1, 1, LABELS))
    return layer


def batch(n=12, dim=20, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, dim, generator=generator, dtype=dtype)
    return hidden.requires_grad_(), torch.randint(0, LABELS, (n,), generator=generator)


def several_labels(n=12):
    rng = np.random.default_rng(5)
    return [rng.choice(LABELS, rng.integers(0, 4), replace=False).tolist() for _ in range(n)]


def dense(gradient):
    return gradient.to_dense() if gradient.is_sparse else gradient


def assert_close(found, expected, tolerance=1e-6):
    found, expected = found.detach(), expected.detach()
    scale = float(expected.abs().max())
    assert float((found.double() - expected.double()).abs().max()) <= tolerance * max(scale, 1e-30)


@pytest.mark.parametrize("dim", [16, 20])
def test_all_candidates_are_a_linear_layer_and_cross_entropy(dim):
    layer, (hidden, targets) = make("full", dim), batch(dim=dim)
    linear, copy = layer.to_linear(), hidden.detach().clone().requires_grad_()
    loss = layer.loss(hidden, targets)
    expected = nn.CrossEntropyLoss()(linear(copy), targets)
    loss.backward()
    expected.backward()
    assert_close(loss, expected)
    assert_close(hidden.grad, copy.grad, 2e-6)
    assert_close(layer.weight.grad, linear.weight.grad, 2e-6)
    assert_close(layer.bias.grad, linear.bias.grad, 2e-6)


@pytest.mark.parametrize("optimizer", ["rows", "rows in backward", "torch"])
def test_training_on_all_candidates_is_training_of_a_linear_layer(optimizer):
    layer = make("full")
    linear = layer.to_linear()
    theirs = torch.optim.Adam(linear.parameters(), lr=0.05)
    if optimizer == "torch":
        ours = torch.optim.Adam(layer.parameters(), lr=0.05)
    else:
        ours = RowAdam(layer, lr=0.05, step_in_backward=optimizer == "rows in backward")
    for seed in range(6):
        hidden, targets = batch(seed=seed)
        for module, opt in ((layer.loss, ours), (lambda h, y: nn.functional.cross_entropy(linear(h), y), theirs)):
            opt.zero_grad()
            module(hidden, targets).backward()
            opt.step()
    assert_close(layer.weight, linear.weight, 2e-5)
    assert_close(layer.bias, linear.bias, 2e-5)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mode", SHARING)
@pytest.mark.parametrize("several", [False, True])
def test_kernels_compute_the_loss_that_is_written_in_torch(mode, loss, smoothing, several):
    options = {"loss": loss, "label_smoothing": smoothing, **SHARING[mode]}
    hidden, targets = batch()
    targets = several_labels() if several else targets
    found = []
    for double in (False, True):
        layer = make(mode.partition(" ")[0], **options)
        vectors = hidden.detach().clone().requires_grad_()
        if double:
            layer, vectors = layer.double(), hidden.detach().double().requires_grad_()
        losses = layer.loss(vectors, targets, reduction="none")
        (losses * torch.linspace(1, 2, len(losses))).sum().backward()
        found.append((losses, vectors.grad, dense(layer.weight.grad), dense(layer.bias.grad)))
    for single, double in zip(*found, strict=True):
        assert_close(single, double, 3e-6)


@pytest.mark.parametrize("mode", SHARING)
@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_gradcheck(mode, loss):
    layer = make(mode.partition(" ")[0], dim=5, loss=loss, label_smoothing=0.1, **SHARING[mode]).double().eval()
    hidden, targets = batch(4, 5, torch.float64)
    layer.set_label_frequency(np.full(LABELS, 1 / LABELS))

    def value(hidden, weight, bias):
        return layer.loss(hidden, targets)

    assert torch.autograd.gradcheck(value, (hidden, layer.weight, layer.bias), fast_mode=True)


CORRECTED = ("uniform", "inbatch", "lsh+tail", "lsh+inbatch", "topk+tail")


@pytest.mark.parametrize(
    ("mode", "loss"),
    [*((mode, "softmax") for mode in MODES), *((mode, "bce") for mode in MODES if mode not in CORRECTED)],
)
def test_a_cross_entropy_over_the_candidates_is_the_loss(mode, loss):
    hidden, targets = batch()
    values = []
    for own in (False, True):
        layer, vectors = make(mode, loss=loss), hidden.detach().clone().requires_grad_()
        if own:
            found = layer(vectors, targets)
            ids = found.ids if found.ids.ndim == 2 else found.ids.expand(len(vectors), -1)
            assert torch.equal(ids[found.samples, found.places], targets)
            assert bool((found.logits[ids < 0] == -torch.inf).all())
            assert (found.weights is None) is (mode not in CORRECTED)
            if loss == "softmax":
                value = nn.functional.cross_entropy(found.logits, found.places)
            else:
                wanted = torch.zeros(found.logits.shape)
                wanted[found.samples, found.places] = 1
                logits = found.logits.clamp_min(-100)
                terms = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
                value = terms / len(targets)
        else:
            value = layer.loss(vectors, targets)
        value.backward()
        values.append((value, vectors.grad, dense(layer.weight.grad), dense(layer.bias.grad)))
    for ours, theirs in zip(*values, strict=True):
        assert_close(ours, theirs, 3e-6)


def test_forms_of_targets_mean_the_same():
    labels = several_labels()
    padded = torch.full((12, 4), -100)
    for row, some in zip(padded, labels, strict=True):
        row[1 : 1 + len(some)] = torch.tensor(some, dtype=torch.int64)
    rows = np.repeat(np.arange(12), [len(some) for some in labels])
    matrix = csr_matrix((np.ones(len(rows)), (rows, np.concatenate(labels).astype(int))), shape=(12, LABELS))
    tensor = torch.sparse_coo_tensor(
        np.stack(matrix.nonzero()), np.ones(len(rows)), (12, LABELS), check_invariants=True
    )
    hidden, _ = batch()
    losses = [float(make().loss(hidden, form).detach()) for form in (labels, padded, matrix, tensor)]
    assert len(set(losses)) == 1
    shaped = make().loss(hidden.reshape(3, 4, 20), padded.reshape(3, 4, 4), reduction="none")
    assert shaped.shape == (3, 4)
    labelled = sum(map(bool, labels))
    assert float(shaped.detach().sum()) / labelled == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("mode", ["uniform", "full", "lsh+tail"])
def test_ignored_targets_and_weights(mode):
    hidden, targets = batch()
    kept = torch.arange(12) % 3 > 0
    masked = torch.where(kept, targets, -100)
    losses = make(mode).loss(hidden[kept], targets[kept], reduction="none")
    layer = make(mode)
    found = layer.loss(hidden, masked, reduction="none")
    assert torch.equal(found[kept], losses) and not found[~kept].any()
    assert float(make(mode).loss(hidden, masked).detach()) == pytest.approx(float(losses.detach().mean()), rel=1e-6)
    weights = torch.linspace(0, 3, 12)
    weighted = make(mode).loss(hidden, masked, weights=weights)
    expected = (losses * weights[kept]).sum() / weights[kept].sum()
    assert float(weighted.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    nothing = make(mode).loss(hidden, torch.full((12,), -100))
    nothing.backward()
    assert float(nothing.detach()) == 0 and not hidden.grad.any()
    layer.loss(hidden.detach(), torch.full((12,), -100)).backward()
    assert layer.weight.grad is None and layer.passes == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_hidden_vectors_of_any_precision(dtype):
    hidden, targets = batch()
    hidden = hidden.detach().to(dtype).requires_grad_()
    loss = make().loss(hidden, targets)
    loss.backward()
    assert loss.dtype == torch.float32 and hidden.grad.dtype == dtype
    wide = hidden.detach().float().requires_grad_()
    make().loss(wide, targets).backward()
    assert torch.equal(hidden.grad, wide.grad.to(dtype))


def test_autocast():
    body, layer, (hidden, targets) = nn.Linear(20, 20), make(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        below = body(hidden)
        loss = layer.loss(below, targets)
    assert below.dtype == torch.bfloat16 and loss.dtype == torch.float32
    loss.backward()
    assert body.weight.grad.dtype == torch.float32 and layer.weight.grad.dtype == torch.float32


def test_full_loss_is_that_over_all_labels():
    layer, (hidden, targets) = make("uniform"), batch()
    expected = nn.functional.cross_entropy(layer.full_logits(hidden), targets, reduction="none")
    assert_close(layer.full_loss(hidden, targets, reduction="none"), expected, 2e-6)
    masked = torch.where(torch.arange(12) < 5, targets, -100)
    assert_close(layer.full_loss(hidden, masked), expected[:5].mean(), 2e-6)


def test_two_passes_before_one_backward():
    hidden, targets = batch()
    for mode in ("uniform", "lsh+tail"):
        apart, together = make(mode), make(mode)
        first, second = apart.loss(hidden[:6], targets[:6]), apart.loss(hidden[6:], targets[6:])
        (one,) = torch.autograd.grad(first, hidden, retain_graph=True)
        (other,) = torch.autograd.grad(second, hidden)
        total = together.loss(hidden[:6], targets[:6]) + together.loss(hidden[6:], targets[6:])
        total.backward(retain_graph=True)
        assert torch.equal(hidden.grad, one + other)
        hidden.grad = None


def test_clipping():
    layer, body, (hidden, targets) = make(), nn.Linear(20, 20), batch()
    layer.loss(body(hidden), targets).backward()
    plain = [dense(parameter.grad).clone() for parameter in (*layer.parameters(), *body.parameters())]
    norm = clip_grad_norm_([*layer.parameters(), *body.parameters()], 1e-3)
    assert_close(norm, torch.linalg.vector_norm(torch.cat([gradient.reshape(-1) for gradient in plain])))
    for parameter, before in zip((*layer.parameters(), *body.parameters()), plain, strict=True):
        assert_close(dense(parameter.grad), before * 1e-3 / norm, 1e-5)


def refuse(error, match, hidden=None, targets=None, **options):
    usual = batch()
    with pytest.raises(error, match=match):
        make().loss(usual[0] if hidden is None else hidden, usual[1] if targets is None else targets, **options)


def test_what_is_wrong_is_refused():
    hidden, targets = batch()
    refuse(ValueError, r"hidden must be \[..., 20\], got \[12, 19\]", hidden[:, :19])
    refuse(ValueError, "hidden must be a tensor of a floating type, got torch.int64", hidden.long())
    refuse(ValueError, r"targets must be \[12\].*got \[11\]", targets=targets[:11])
    refuse(ValueError, "targets must be label ids.*float32", targets=targets.float())
    far = targets.index_fill(0, torch.tensor(3), 60)
    refuse(IndexError, r"target 60 \(number 3\) is out of range: the layer has the labels 0 to 59", targets=far)
    refuse(IndexError, "target -1", targets=targets - targets - 1)
    broken = hidden.detach().index_fill(0, torch.tensor(2), torch.nan)
    refuse(ValueError, "hidden vector 2 of 12 has values that are not finite", broken)
    refuse(ValueError, r"weights must be \[12\]", weights=torch.ones(3))
    refuse(ValueError, "reduction must be one of mean, sum, none", reduction="max")
    refuse(ValueError, "row for each of the 12 hidden vectors", targets=csr_matrix((3, LABELS)))
    with pytest.raises(TypeError, match="unexpected keyword argument 'candidate'"):
        SampledLinear(20, 30, candidate="full")
    with pytest.raises(ValueError, match="candidates must be one of"):
        SampledLinear(20, 30, candidates="all")


def test_the_criterion_is_the_layers_loss():
    from slide.torch import SampledLinear, SampledSoftmaxLoss

    layer = SampledLinear(8, 50, candidates="full")
    criterion = SampledSoftmaxLoss(layer, reduction="none")
    hidden, targets = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, -100, 7, 49])
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0])
    expected = layer.loss(hidden, targets, weights=weights, reduction="none")
    torch.testing.assert_close(criterion(hidden, targets, weights), expected)
    assert not list(criterion.parameters())
