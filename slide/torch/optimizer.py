"""RowAdam: Adam on the rows that a batch touched, where they lie; and clipping of sparse gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch.optim import Optimizer

from slide.config import ConfigError, OptimizerConfig
from slide.kernels import dtypes
from slide.torch.layer import SampledLinear

STATE = {"weight": ("m", "v", "last_step"), "bias": ("bias_m", "bias_v")}
"""What is kept of the rows beside their parameters, by the parameter's name."""


class RowAdam(Optimizer):
    """Adam for sampled layers: steps the rows that have a gradient, each in one visit with its moments beside it.

    The rest of a network has an optimizer of its own. Gradients are read from ``weight.grad`` and ``bias.grad``, so
    that whatever is done to them first - clipping, adding up several backward passes, unscaling - counts.

    Parameters
    ----------
    layers : SampledLinear, or iterable of them, or of dictionaries with ``"params"``: one
        Dictionaries may have settings of their own.
    lr, betas, eps : float, pair of floats, float
    weight_decay : float
        Decoupled, as in AdamW; biases do not decay.
    lazy : str
        What becomes of a row at the steps that do not touch it. ``"exact"``: it catches up before it is next read, as
        if dense Adam had stepped it with a zero gradient. ``"decay"``: its moments decay for the steps it missed.
        ``"sparse"``: it stays as it is, as with ``SparseAdam``.
    step_in_backward : bool
        The backward pass takes the step of each row while it has its gradient, which nothing keeps then: the fastest,
        for one backward pass a step. ``weight.grad`` stays None, so that there is nothing to clip; ``step`` only
        counts. The learning rate is the one at the backward pass.

    Raises
    ------
    ValueError
        Something is no `SampledLinear`, or a setting is out of range.

    Notes
    -----
    A layer has one RowAdam at a time; a second takes its place and starts with moments of zero. Learning rates may be
    changed between steps, other settings not.
    """

    def __init__(
        self,
        layers: SampledLinear | Iterable,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lazy: str = "exact",
        step_in_backward: bool = False,
    ):
        layers = [layers] if isinstance(layers, (torch.nn.Module, dict)) else list(layers)
        groups = [dict(item) if isinstance(item, dict) else {"params": item} for item in layers]
        self._layers = [group["params"] for group in groups]
        for layer in self._layers:
            if not isinstance(layer, SampledLinear):
                raise ValueError(
                    f"RowAdam steps the rows of SampledLinear layers, not a {type(layer).__name__}: give it layers, "
                    "and the other parameters to another optimizer"
                )
        if len({id(layer) for layer in self._layers}) < len(self._layers):
            raise ValueError("a layer is there more than once")
        for group in groups:
            group["params"] = [parameter for parameter in group["params"].parameters(recurse=False)]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "lazy": lazy}
        super().__init__(groups, {**defaults, "step_in_backward": step_in_backward})
        for layer, group in zip(self._layers, self.param_groups, strict=True):
            self._start(layer, group)

    def _start(self, layer, group):
        layer._optimize(_config(group))
        engine = layer._engine
        engine.steps_in_backward = group["step_in_backward"]
        engine.lr_factor = lambda: group["lr"] / engine.optimizer.config.lr

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Step every row that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss again, gradients included.

        Returns
        -------
        tensor or None
            What `closure` returned.

        Raises
        ------
        RuntimeError
            A layer's gradients cannot be stepped by.
        ValueError
            A setting other than the learning rate was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for layer, group in zip(self._layers, self.param_groups, strict=True):
            self._step(layer, group)
        return loss

    def _step(self, layer, group):
        engine = layer._engine
        _check_unchanged(group, engine.optimizer.config)
        if layer.bias is not None and layer.bias.requires_grad != layer.weight.requires_grad:
            raise RuntimeError("RowAdam steps weights and biases of a row together: freeze both or none")
        gradients = layer.weight.grad, None if layer.bias is None else layer.bias.grad
        if group["step_in_backward"]:
            if any(gradient is not None for gradient in gradients):
                raise RuntimeError(
                    "a layer whose rows are stepped in the backward pass has a gradient besides, such as a tied "
                    "embedding's: leave step_in_backward out"
                )
            if not engine.stepped:
                return
            engine.stepped = False
        else:
            if all(gradient is None for gradient in gradients):
                return
            layer._ready()
            for rows, weights, bias in _runs(*_joined(layer, *gradients)):
                engine.step_rows(rows, weights, bias, engine.lr_factor(), layer._threads)
        engine.optimizer.advance(engine.lr_factor())
        layer._stepped()

    def state_dict(self) -> dict:
        """Return settings and, for each parameter, its moments and the steps taken: copies."""
        state = super().state_dict()
        state["state"] = {}
        for layer, group in zip(self._layers, state["param_groups"], strict=True):
            layer.settle()
            arrays = layer._engine.table.state()
            for number, name in zip(group["params"], _names(layer), strict=True):
                kept = {key: torch.from_numpy(np.array(arrays[key])) for key in STATE[name]}
                state["state"][number] = {"step": layer._engine.optimizer.step, **kept}
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from what ``state_dict`` returned, of layers of the same shapes.

        Parameters
        ----------
        state_dict : dict

        Raises
        ------
        ValueError
            It does not fit.
        """
        saved = state_dict["state"]
        super().load_state_dict({**state_dict, "state": {}})
        for layer, group, numbers in zip(self._layers, self.param_groups, state_dict["param_groups"], strict=True):
            self._start(layer, group)
            arrays = layer._engine.table.state()
            for number, name in zip(numbers["params"], _names(layer), strict=True):
                for key in STATE[name]:
                    value = saved[number][key]
                    if tuple(value.shape) != arrays[key].shape:
                        raise ValueError(f"{name}'s {key} is {list(value.shape)}, expected {list(arrays[key].shape)}")
                    arrays[key][...] = value.numpy()
                layer._engine.optimizer.resume(saved[number]["step"])


def clip_grad_norm_(parameters: torch.Tensor | Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scale gradients, dense and sparse, down to a Euclidean norm over all of them where it is larger.

    ``torch.nn.utils.clip_grad_norm_`` does not take sparse gradients.

    Parameters
    ----------
    parameters : tensor or iterable of tensors
        Changed: their gradients. Sparse ones become coalesced.
    max_norm : float

    Returns
    -------
    tensor
        The norm before.
    """
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norms = [torch.linalg.vector_norm(value) for value in values]
    total = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.tensor(0.0)
    scale = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    for value in values:
        value.mul_(scale.to(value.device))
    return total


def average_gradients(layer: SampledLinear, group=None) -> None:
    """Average a layer's gradients over the processes of a group, between the backward pass and the step.

    ``DistributedDataParallel`` takes sparse gradients from embeddings alone: wrap the layers before, and call this for
    the sampled one. All processes step by the same gradients then, and their rows stay the same to the bit.

    Parameters
    ----------
    layer : SampledLinear
        With the same weights in every process, which the same seed gives.
    group : torch.distributed.ProcessGroup, optional
        By default all processes. Its backend is gloo, which adds up sparse tensors.
    """
    processes = torch.distributed.get_world_size(group)
    for parameter in layer.parameters(recurse=False):
        if not parameter.requires_grad:
            continue
        gradient = parameter.grad
        if gradient is None:
            # A process whose batch had no labels waits for the others' gradients all the same.
            gradient = _no_rows(parameter.shape) if layer.sparse else torch.zeros(parameter.shape)
        gradient = gradient.coalesce() if gradient.is_sparse else gradient.contiguous()
        torch.distributed.all_reduce(gradient, group=group)
        parameter.grad = gradient.div_(processes)


def _no_rows(shape):
    rows, values = torch.zeros((1, 0), dtype=torch.int64), torch.zeros((0, *shape[1:]))
    return torch.sparse_coo_tensor(rows, values, shape, is_coalesced=True, check_invariants=False)


def _names(layer):
    return ["weight"] if layer.bias is None else ["weight", "bias"]


def _config(group):
    """The rule of steps; the learning rate is a factor of the first one above 0."""
    beta1, beta2 = group["betas"]
    options = {"beta1": beta1, "beta2": beta2, "eps": group["eps"], "lazy": group["lazy"]}
    try:
        return OptimizerConfig(lr=group["lr"] or 1e-3, weight_decay=group["weight_decay"], **options)
    except ConfigError as error:
        raise ValueError(f"RowAdam: {error}") from None


def _check_unchanged(group, config):
    now = (*group["betas"], group["eps"], group["weight_decay"], group["lazy"])
    if now != (config.beta1, config.beta2, config.eps, config.weight_decay, config.lazy):
        raise ValueError(
            "RowAdam's learning rate may change between steps, but betas, eps, weight_decay and lazy may not: rows owe "
            "by them what they missed (OneCycleLR wants cycle_momentum=False)"
        )


def _joined(layer, of_weight, of_bias):
    """Rows that have a gradient, each once, and their gradients."""
    if of_weight is None or (layer.bias is not None and of_bias is None):
        raise RuntimeError(
            "RowAdam steps weights and biases of a row together, and one of them has no gradient: set both to None, or "
            "neither"
        )
    rows, weights = _rows_of(of_weight)
    if of_bias is None:
        return rows, weights, weights.new_zeros(len(rows))
    bias_rows, bias = _rows_of(of_bias)
    if len(rows) != len(bias_rows) or not torch.equal(rows, bias_rows):
        both = torch.unique(torch.cat([rows, bias_rows]))
        at, bias_at = torch.searchsorted(both, rows), torch.searchsorted(both, bias_rows)
        weights = weights.new_zeros((len(both), weights.shape[1])).index_copy_(0, at, weights)
        bias = bias.new_zeros(len(both)).index_copy_(0, bias_at, bias)
        rows = both
    return rows, weights, bias


def _rows_of(gradient):
    """Rows and their gradients; rows that a batch shares may come before the others, not to be copied for an order."""
    if not gradient.is_sparse:
        return torch.arange(len(gradient)), gradient
    rows = gradient._indices()[0]
    first, *others = _ends(rows)
    if len(others) > 1 or (others and bool(torch.isin(rows[first:], rows[:first], assume_unique=True).any())):
        gradient = gradient.coalesce()
    return gradient._indices()[0], gradient._values()


def _ends(rows):
    """Where ascending runs of rows end."""
    return [*(torch.nonzero(rows[1:] <= rows[:-1])[:, 0] + 1).tolist(), len(rows)]


def _runs(rows, weights, bias):
    """Yield the rows, ascending, and their gradients in one run or several."""
    first = 0
    for end in _ends(rows):
        some = slice(first, end)
        yield rows[some].numpy().astype(dtypes.INDEX), weights[some], bias[some].contiguous().numpy()
        first = end
