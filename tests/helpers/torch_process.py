"""Two processes that train one sampled layer, each on half of every batch; a program of rank, file and package."""

import sys
from datetime import timedelta

import torch

LABELS, DIM = 60, 20


def batches():
    """Hidden vectors and targets of three batches of two halves, one of which has no labels."""
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(3, 2, 6, DIM, generator=generator)
    targets = torch.randint(0, LABELS, (3, 2, 6), generator=generator)
    targets[1, 1] = -100
    return hidden, targets


def train(rank, store):
    from slide.torch import RowAdam, SampledLinear, average_gradients

    where = {"init_method": f"file://{store}", "rank": rank, "world_size": 2, "timeout": timedelta(minutes=5)}
    torch.distributed.init_process_group("gloo", **where)
    try:
        layer = SampledLinear(DIM, LABELS, tail=32, seed=3, threads=1)
        layer.set_label_frequency(torch.full((LABELS,), 1 / LABELS))
        optimizer = RowAdam(layer, lr=0.05)
        for hidden, targets in zip(*batches(), strict=True):
            optimizer.zero_grad()
            layer.loss(hidden[rank], targets[rank]).backward()
            average_gradients(layer)
            optimizer.step()
        layer.settle()
        torch.save(layer.weight.detach().clone(), f"{store}{rank}")
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.path.append(sys.argv[3])
    train(int(sys.argv[1]), sys.argv[2])
