"""RowAdam: Adam on the rows that a batch touched, in place; clipping and averaging of sparse gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch.optim import Optimizer

from slide.config import ConfigError, OptimizerConfig
from slide.kernels import dtypes
from slide.torch.layer import SampledLinear

L = TypeVar("L")

STATE = {"weight": ("m", "v", "last_step"), "bias": ("bias_m", "bias_v")}
"""Names of what the optimizer keeps for the rows, by the parameter's name."""


class RowAdam(Optimizer):
    """Adam for sampled layers: steps the rows that have a gradient, each in one visit together with its moments.

    The rest of a network needs an optimizer of its own. Gradients are read from ``weight.grad`` and ``bias.grad``, so
    that clipping, adding up several backward passes and unscaling work as usual.

    Parameters
    ----------
    layers : SampledLinear, iterable of SampledLinear, or iterable of dict
        The layers to step. A dictionary has a layer as ``"params"``, and may have settings of its own.
    lr : float
        Learning rate; default 0.001.
    betas : pair of float
        Decay of the first and second moments per step; default (0.9, 0.999).
    eps : float
        Added to the root of the second moments; default 1e-8.
    weight_decay : float
        Decoupled weight decay, as in AdamW; default 0. Biases do not decay.
    lazy : str
        Treatment of rows at steps that do not touch them. ``"exact"`` (the default): a row catches up before it is next
        read, as if dense Adam had stepped it with a zero gradient. ``"decay"``: its moments decay for the steps it
        missed. ``"sparse"``: it does not change, as with ``SparseAdam``.
    step_in_backward : bool
        Whether the backward pass steps each row as soon as it has the gradient, which is then not kept; default False.
        This is fastest, but allows only one backward pass per step. ``weight.grad`` stays None, so that there is
        nothing to clip; ``step`` only counts. The learning rate is that of the time of the backward pass.

    Raises
    ------
    ValueError
        A layer is not a `SampledLinear`, or a setting is out of range.

    Notes
    -----
    A layer has one RowAdam at a time; a second one replaces the first and starts with moments of zero. Learning rates
    may change between steps, other settings may not.
    """

    def __init__(
        self,
        layers: SampledLinear | Iterable[SampledLinear | dict[str, Any]] | dict[str, Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lazy: str = "exact",
        step_in_backward: bool = False,
    ):
        items = [layers] if isinstance(layers, (torch.nn.Module, dict)) else list(layers)
        groups: list[dict[str, Any]] = [dict(item) if isinstance(item, dict) else {"params": item} for item in items]
        self._layers = [group["params"] for group in groups]
        for layer in self._layers:
            if not isinstance(layer, SampledLinear):
                raise ValueError(
                    f"RowAdam steps the rows of SampledLinear layers, not a {type(layer).__name__}: give it layers, "
                    "and the other parameters to another optimizer"
                )
        if len({id(layer) for layer in self._layers}) < len(self._layers):
            raise ValueError("RowAdam got a layer more than once")
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

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], L]) -> L: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], L] | None = None) -> L | None:
        """Step every row that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Function that computes the loss again, with its gradients.

        Returns
        -------
        tensor or None
            The result of `closure`.

        Raises
        ------
        RuntimeError
            A layer has gradients that cannot be used: for weights or biases alone, or in addition to
            ``step_in_backward``.
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
                    "a layer whose rows are stepped in the backward pass has another gradient too, such as that of a "
                    "tied embedding: leave step_in_backward out"
                )
            if not engine.stepped:
                return
            engine.stepped = False
        else:
            if all(gradient is None for gradient in gradients):
                return
            layer._ready()
            for rows, weights, bias in _ascending(*_joined(layer, *gradients)):
                engine.step_rows(rows, weights, bias, engine.lr_factor(), layer._threads)
        engine.optimizer.advance(engine.lr_factor())
        layer._stepped()

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the settings and, for each parameter, of its moments and the number of steps."""
        state = super().state_dict()
        state["state"] = {}
        for layer, group in zip(self._layers, state["param_groups"], strict=True):
            layer.settle()
            arrays = layer._engine.table.state()
            for number, name in zip(group["params"], _names(layer), strict=True):
                kept = {key: torch.from_numpy(np.array(arrays[key])) for key in STATE[name]}
                state["state"][number] = {"step": layer._engine.optimizer.step, **kept}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned, with layers of the same shapes.

        Raises
        ------
        ValueError
            A shape differs.
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
    """Scale gradients, dense and sparse, so that the Euclidean norm over all of them is at most `max_norm`.

    ``torch.nn.utils.clip_grad_norm_`` does not take sparse gradients.

    Parameters
    ----------
    parameters : tensor or iterable of tensors
        Parameters, whose gradients are changed. Sparse gradients become coalesced.
    max_norm : float
        Largest norm.

    Returns
    -------
    tensor
        The norm before scaling.
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


def average_gradients(layer: SampledLinear, group: torch.distributed.ProcessGroup | None = None) -> None:
    """Average a layer's gradients over the processes of a group, between the backward pass and the step.

    ``DistributedDataParallel`` takes sparse gradients only from embeddings: wrap the layers before the sampled layer,
    and call this function for the latter. All processes then step by the same gradients, and their rows stay the same
    to the bit.

    Parameters
    ----------
    layer : SampledLinear
        A layer with the same weights in every process: give all of them the same seed.
    group : torch.distributed.ProcessGroup, optional
        The processes; default: all. The backend must be gloo, which adds up sparse tensors.
    """
    processes = torch.distributed.get_world_size(group)
    for parameter in layer.parameters(recurse=False):
        if not parameter.requires_grad:
            continue
        gradient = parameter.grad
        if gradient is None:
            # A process whose batch had no labels must take part in the sum too.
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
    """Return the settings of steps; later learning rates become factors of the first one above 0."""
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
            "RowAdam's learning rate may change between steps, but betas, eps, weight_decay and lazy may not: rows "
            "catch up with missed steps by the same settings (OneCycleLR needs cycle_momentum=False)"
        )


def _joined(layer, of_weight, of_bias):
    """Return the rows that have a gradient, each once, and their gradients."""
    if of_weight is None or (layer.bias is not None and of_bias is None):
        raise RuntimeError(
            "RowAdam steps weights and biases of a row together, but one of them has no gradient: set both to None, or "
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
    """Return rows and their gradients; rows that a batch shares may come first: to sort them would copy all."""
    if not gradient.is_sparse:
        return torch.arange(len(gradient)), gradient
    rows = gradient._indices()[0]
    first, *others = _ends(rows)
    if len(others) > 1 or (others and bool(torch.isin(rows[first:], rows[:first], assume_unique=True).any())):
        gradient = gradient.coalesce()
    return gradient._indices()[0], gradient._values()


def _ends(rows):
    """Return the ends of the ascending sequences of rows."""
    return [*(torch.nonzero(rows[1:] <= rows[:-1])[:, 0] + 1).tolist(), len(rows)]


def _ascending(rows, weights, bias):
    """Yield the rows and their gradients in one or more ascending sequences."""
    first = 0
    for end in _ends(rows):
        some = slice(first, end)
        yield rows[some].numpy().astype(dtypes.INDEX), weights[some], bias[some].contiguous().numpy()
        first = end
