"""Autograd functions: the logits of a batch's candidates, and the losses over them."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from slide.torch.engine import Activation, Engine


class CandidateLogits(Function):
    """From hidden vectors and rows to the logits of the candidates: those that a batch shares, and samples' own."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        engine: Engine,
        activation: Activation,
        threads: int,
        sparse: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 tensors [samples, shared] and [samples, room]; `activation` holds the vectors as an array."""
        # The backward pass reads the rows again. Because they are saved, autograd checks that they have not changed.
        ctx.save_for_backward(hidden, weight)
        ctx.call = engine, activation, threads, sparse
        return engine.logits(activation, threads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, common: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of hidden vectors and parameters, or step the rows now and return only the former."""
        _, weight = ctx.saved_tensors
        engine, activation, threads, sparse = ctx.call
        for_hidden, for_weight, for_bias, *_ = ctx.needs_input_grad
        common, own = common.contiguous(), own.contiguous()
        nothing = (None,) * 4
        if engine.steps_in_backward and for_weight and for_bias == engine.biased:
            return engine.step_now(activation, common, own, threads), None, None, *nothing
        found = engine.gradients(
            activation, common, own, threads, for_hidden=for_hidden, for_rows=for_weight or for_bias
        )
        to_weight = _of_rows(found, found.weights, weight.shape, sparse) if for_weight else None
        to_bias = _of_rows(found, found.bias, weight.shape[:1], sparse) if for_bias else None
        return found.hidden, to_weight, to_bias, *nothing


class CandidateLosses(Function):
    """From logits of the candidates, which nothing else may read, to the samples' losses."""

    @staticmethod
    def forward(
        ctx: Any,
        common: torch.Tensor,
        own: torch.Tensor,
        engine: Engine,
        activation: Activation,
        scale: float,
        threads: int,
    ) -> torch.Tensor:
        """Return the losses times `scale`, a float32 tensor [samples]; gradients overwrite the logits."""
        common, own = common.detach(), own.detach()
        losses = engine.losses(activation, common.numpy(), own.numpy(), scale, threads)
        ctx.deltas = common, own
        return losses if scale == 1.0 else losses * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_losses: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the logits' gradients."""
        common, own = ctx.deltas
        if not bool((of_losses == 1.0).all()):
            factor = of_losses[:, None]
            common, own = common * factor, own * factor
        return common, own, None, None, None, None


class NoLosses(Function):
    """The losses of samples without labels: 0, with gradients of 0."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return a tensor [samples] of zeros."""
        ctx.shape = hidden.shape
        return hidden.new_zeros(len(hidden))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_losses: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return zeros for the hidden vectors; no row was touched."""
        return of_losses.new_zeros(ctx.shape), None, None


def _of_rows(found, values, shape, sparse):
    """Return a parameter's gradient, made from those of its rows."""
    if sparse:
        how = {"is_coalesced": found.ascending, "check_invariants": False}
        return torch.sparse_coo_tensor(found.rows[None], values, shape, **how)
    if len(found.rows) == shape[0] and found.ascending:
        return values
    return values.new_zeros(shape).index_copy_(0, found.rows, values)
