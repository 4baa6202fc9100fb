"""A word-level GRU language model with an output for each of 200,000 words.

    python examples/torch/gru_language_model.py [--head full] [--text FILE]

Without a file it learns a made-up language (`text.py`). Shown is the perplexity on words set aside, every output
computed whatever the head; the yardstick is the perplexity of the words' frequencies alone.
"""

import math

import heads
import text
import torch
from torch import nn
from training import Clock, options, parse


class Body(nn.Module):
    """Reads words, int64 [streams, length]."""

    def __init__(self, n_words, dim):
        super().__init__()
        # Of 200,000 vectors a batch reads a few hundred: their gradients are sparse.
        self.words = nn.Embedding(n_words, dim, sparse=True)
        nn.init.normal_(self.words.weight, std=0.1)
        self.gru = nn.GRU(dim, dim, batch_first=True)

    def forward(self, words, state=None):
        """Return hidden vectors [streams, length, dim], and the state after them."""
        return self.gru(self.words(words), state)


def main(arguments=None):
    """Train and return the result."""
    parser = options(__doc__, batch_size=16, lr=8e-3)
    text.options(parser, length=32)
    args = parse(parser, arguments)
    data = text.load(args)

    body = Body(data.n_words, args.dim)
    head, head_optimizer = heads.make(args.head, args.dim, data.counts, args.lr, args.negatives)
    optimizers = [torch.optim.SparseAdam(body.words.parameters(), args.lr), head_optimizer]
    optimizers.append(torch.optim.Adam(body.gru.parameters(), args.lr))

    batches = text.batches(data.train, args.batch_size, args.length)
    state = None
    clock = Clock(args)
    for _ in clock:
        words, following = next(batches)
        hidden, state = body(words, state)
        state = state.detach()
        loss = head.loss(hidden, following)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        clock.losses.append(loss.item())

    with torch.no_grad():
        hidden, _ = body(data.test[None, :-1])
        perplexity = math.exp(head.full_loss(hidden, data.test[None, 1:]))
    return clock.result(perplexity=perplexity, unigram_perplexity=data.unigram_perplexity, best_perplexity=data.best)


if __name__ == "__main__":
    main()
