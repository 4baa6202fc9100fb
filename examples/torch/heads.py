"""Three output layers for the same network: slide's, the full softmax, and a sampled softmax in plain PyTorch.

All have the methods of `slide.torch.SampledLinear` that the examples use: ``loss(hidden, targets)`` to train with, the
mean cross-entropy of hidden float32 [..., d] and targets int64 [...] or an estimate of it; ``full_loss``, the same over
every label, to judge by; and ``topk(hidden, k)``, the numbers and scores of the k best labels.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from slide.torch import RowAdam, SampledLinear

HEADS = ("sampled", "full", "plain")


def make(name, dim, counts, lr, negatives):
    """Return a head and its optimizer.

    Parameters
    ----------
    name : str
        Of `HEADS`.
    dim : int
    counts : int64 tensor [n_labels]
        How often each label occurs in the training data; for ``"plain"`` in falling order.
    lr : float
    negatives : int
        Labels that a sampled softmax draws at every step.
    """
    n_labels, frequency = len(counts), (counts + 0.5) / (counts + 0.5).sum()
    if name == "sampled":
        head = SampledLinear(dim, n_labels, tail=negatives)
        head.set_label_frequency(counts / counts.sum(), samples=int(counts.sum()))
        optimizer = RowAdam(head, lr, step_in_backward=True)
    elif name == "plain":
        head = PlainSampled(dim, n_labels, negatives)
        optimizer = torch.optim.SparseAdam(head.parameters(), lr)
    else:
        head = Full(dim, n_labels)
        optimizer = torch.optim.Adam(head.parameters(), lr, fused=True)
    with torch.no_grad():
        # Training need not find out how frequent labels are.
        head.bias.view(-1).copy_(frequency.log())
    return head, optimizer


class Full(nn.Linear):
    """Every output for every sample."""

    def loss(self, hidden, targets):
        """Return the cross-entropy."""
        return F.cross_entropy(self(hidden).flatten(0, -2), targets.flatten())

    def full_loss(self, hidden, targets):
        """Return the cross-entropy."""
        return over_all(self.weight, self.bias, hidden, targets)

    def topk(self, hidden, k):
        """Return the best labels."""
        scores, ids = self(hidden).topk(k)
        return ids, scores


class PlainSampled(nn.Module):
    """Sampled softmax as one writes it in PyTorch: log-uniform draws that the batch shares, and the logQ correction.

    Labels have to be numbered by falling frequency.
    """

    def __init__(self, dim, n_labels, negatives):
        super().__init__()
        self.n_labels, self.negatives = n_labels, negatives
        self.weight = nn.Parameter(torch.empty(n_labels, dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.bias = nn.Parameter(torch.zeros(n_labels, 1))

    def loss(self, hidden, targets):
        """Return an estimate of the cross-entropy."""
        hidden, targets = hidden.flatten(0, -2), targets.flatten()
        n, range_of_logs = len(targets), math.log(self.n_labels + 1)
        drawn = (torch.rand(self.negatives) * range_of_logs).exp().long().clamp_(max=self.n_labels) - 1
        labels = torch.cat([targets, drawn])
        rows = F.embedding(labels, self.weight, sparse=True)
        # The log of how often each is expected among the draws.
        log_q = torch.log(torch.log1p(1 / (labels + 1.0)) * (self.negatives / range_of_logs))
        bias = F.embedding(labels, self.bias, sparse=True).squeeze(1) - log_q
        own = (hidden * rows[:n]).sum(1) + bias[:n]
        others = torch.addmm(bias[n:], hidden, rows[n:].T).masked_fill(targets[:, None] == drawn, -math.inf)
        return F.cross_entropy(torch.cat([own[:, None], others], 1), torch.zeros_like(targets))

    def full_loss(self, hidden, targets):
        """Return the cross-entropy."""
        return over_all(self.weight, self.bias.squeeze(1), hidden, targets)

    def topk(self, hidden, k):
        """Return the best labels."""
        scores, ids = F.linear(hidden, self.weight, self.bias.squeeze(1)).topk(k)
        return ids, scores


@torch.no_grad()
def over_all(weight, bias, hidden, targets):
    """Return the mean cross-entropy over all labels, some samples at a time."""
    parts = zip(hidden.flatten(0, -2).split(256), targets.flatten().split(256), strict=True)
    return sum(F.cross_entropy(F.linear(h, weight, bias), t, reduction="sum") for h, t in parts) / targets.numel()
