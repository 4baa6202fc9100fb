"""A small causal transformer over words, with an output for each of 200,000.

    python examples/torch/transformer_language_model.py [--head full] [--text FILE]

Text, yardstick and what is shown are those of `gru_language_model.py`.
"""

import math

import heads
import text
import torch
from attention import CausalTransformer
from training import Clock, options, parse


def main(arguments=None):
    """Train and return the result."""
    parser = options(__doc__, batch_size=16, lr=8e-3)
    parser.add_argument("--layers", type=int, default=2, help="default: 2")
    text.options(parser, length=32)
    args = parse(parser, arguments)
    data = text.load(args)

    body = CausalTransformer(data.n_words, args.dim, args.length, args.layers)
    head, head_optimizer = heads.make(args.head, args.dim, data.counts, args.lr, args.negatives)
    optimizers = [*body.optimizers(args.lr), head_optimizer]

    batches = text.batches(data.train, args.batch_size, args.length)
    clock = Clock(args)
    for _ in clock:
        words, following = next(batches)
        loss = head.loss(body(words), following)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        clock.losses.append(loss.item())

    # Where a row of the test begins, there is little to go by: perplexity is that of the later half.
    half = args.length // 2
    rows = data.test[: (len(data.test) - 1) // half * half + 1].unfold(0, args.length + 1, half)
    with torch.no_grad():
        hidden = body(rows[:, :-1])[:, half:]
        perplexity = math.exp(head.full_loss(hidden, rows[:, half + 1 :]))
    return clock.result(perplexity=perplexity, unigram_perplexity=data.unigram_perplexity, best_perplexity=data.best)


if __name__ == "__main__":
    main()
