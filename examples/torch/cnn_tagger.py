"""A convolutional network that reads a text and names its tags, out of 100,000.

    python examples/torch/cnn_tagger.py [--head full] [--data TRAIN TEST]

TRAIN and TEST are files that `slide.data.load` reads; a sample's features are taken for the words of its text, its
labels for the tags. Without them texts are made up: a tag is a phrase of two words that stands somewhere among others,
and as many others share each of the two. Shown is P@1 on the test set: how often the best tag is one of the text's.
"""

import heads
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from training import Clock, by_frequency, options, parse

from slide.data import load


class Body(nn.Module):
    """Reads texts, of which n_words stands for no word."""

    def __init__(self, n_words, dim):
        super().__init__()
        self.words = nn.Embedding(n_words + 1, dim, sparse=True)
        nn.init.normal_(self.words.weight, std=0.1)
        self.convolution = nn.Conv1d(dim, 2 * dim, kernel_size=2)
        self.last = nn.Linear(2 * dim, dim)

    def forward(self, words):
        """Return hidden vectors [n, dim] of words, int64 [n, length]."""
        found = F.relu(self.convolution(self.words(words).transpose(1, 2)))
        return self.last(found.amax(2))


def read(paths, length):
    """Return the texts and tags of two files, and the numbers of words and tags there are."""
    sets = [load(path) for path in paths]
    found = []
    for data in sets:
        data = data.subset(np.flatnonzero(np.diff(data.Y.indptr)))
        words = np.full((data.n_samples, length), data.n_features)
        counts = np.minimum(np.diff(data.X.indptr), length)
        for i, (first, count) in enumerate(zip(data.X.indptr, counts, strict=False)):
            words[i, :count] = data.X.indices[first : first + count]
        found.append((words, np.split(data.Y.indices, data.Y.indptr[1:-1])))
    return *found, sets[0].n_features, sets[0].n_labels


def generate(n_tags, samples, test_samples, seed, length=24, n_words=20_000, tags=3):
    """Make texts up: the same four things as ``read``."""
    rng = np.random.default_rng(seed)
    # The words that phrases are made of are not rare otherwise either.
    side = int(np.ceil(np.sqrt(n_tags)))
    phrases = rng.permutation(side * side)[:n_tags]
    chances = 1 / np.arange(10, n_tags + 10)
    n = samples + test_samples
    chosen = rng.choice(n_tags, (n, tags), p=chances / chances.sum())
    words = (n_words ** rng.random((n, length))).astype(np.int64)
    # Phrases at even places do not overlap.
    places = 2 * rng.permuted(np.tile(np.arange(length // 2), (n, 1)), axis=1)[:, :tags]
    rows = np.arange(n)[:, None]
    words[rows, places], words[rows, places + 1] = np.divmod(phrases[chosen], side)
    words[rows, places + 1] += side
    return (words[:samples], chosen[:samples]), (words[samples:], chosen[samples:]), max(n_words, 2 * side), n_tags


def main(arguments=None):
    """Train and return the result."""
    parser = options(__doc__, batch_size=128, lr=8e-3)
    parser.add_argument("--data", nargs=2, metavar=("TRAIN", "TEST"), help="in place of what is made up")
    parser.add_argument("--tags", type=int, default=100_000, help="in what is made up (default: 100,000)")
    parser.add_argument("--points", type=int, default=400_000, help="in what is made up (default: 400,000)")
    parser.add_argument("--test-points", type=int, default=2_000, help="to measure on (default: 2,000)")
    parser.add_argument("--length", type=int, default=64, help="words to read of a file's text (default: 64)")
    args = parse(parser, arguments)
    if args.data:
        train, test, n_words, n_tags = read(args.data, args.length)
    else:
        train, test, n_words, n_tags = generate(args.tags, args.points, args.test_points, args.seed)
    number, counts = by_frequency(np.concatenate(list(train[1])), n_tags)
    print(f"{len(train[0]):,} texts, {n_tags:,} tags")

    body = Body(n_words, args.dim)
    head, head_optimizer = heads.make(args.head, args.dim, counts, args.lr, args.negatives)
    others = [*body.convolution.parameters(), *body.last.parameters()]
    optimizers = [torch.optim.SparseAdam(body.words.parameters(), args.lr), torch.optim.Adam(others, args.lr / 4)]
    optimizers.append(head_optimizer)

    rng = np.random.default_rng(args.seed)
    clock = Clock(args)
    for _ in clock:
        rows = rng.integers(len(train[0]), size=args.batch_size)
        # One of each text's tags, drawn anew every time.
        tags = torch.from_numpy(number[[rng.choice(train[1][i]) for i in rows]])
        loss = head.loss(body(torch.from_numpy(train[0][rows])), tags)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        clock.losses.append(loss.item())

    right = 0
    with torch.no_grad():
        for first in range(0, min(args.test_points, len(test[0])), 256):
            rows = slice(first, min(first + 256, args.test_points))
            best, _ = head.topk(body(torch.from_numpy(test[0][rows])), 1)
            right += sum(label in number[own] for label, own in zip(best[:, 0].numpy(), test[1][rows], strict=True))
    return clock.result(**{"P@1": right / min(args.test_points, len(test[0]))})


if __name__ == "__main__":
    main()
