"""A small causal transformer, which two of the examples read with."""

import torch
from torch import nn


class CausalTransformer(nn.Module):
    """Reads rows of items, or words."""

    def __init__(self, n, dim, length, layers=2, heads=4):
        super().__init__()
        # Of hundreds of thousands of vectors a batch reads a few hundred: their gradients are sparse.
        self.items = nn.Embedding(n, dim, sparse=True)
        nn.init.normal_(self.items.weight, std=0.1)
        self.places = nn.Parameter(0.1 * torch.randn(length, dim))
        block = nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(dim), enable_nested_tensor=False)

    def forward(self, items):
        """Return a hidden vector [n, length, dim] for every item, int64 [n, length], of it and those before."""
        length = items.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return self.blocks(self.items(items) + self.places[:length], mask, is_causal=True)

    def optimizers(self, lr):
        """Return one for the vectors, and one, more careful, for the rest."""
        rest = [self.places, *self.blocks.parameters()]
        return [torch.optim.SparseAdam(self.items.parameters(), lr), torch.optim.Adam(rest, lr / 4)]
