"""Text for the language models: a file's words, or a made-up language whose structure a model can learn.

In the language every word has a class and a topic. A document keeps to one topic, mostly; the class of a word follows
from that of the word before, by a Markov chain of a few successors; among the words of a class and topic Zipf's law
decides. So a model gains from the last word (the class) and from all before it (the topic), and what is then left to
guess is known.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from training import by_frequency

CLASSES, TOPICS, DOCUMENT = 128, 16, 256
SUCCESSORS = np.array([8, 4, 2, 1]) / 15
OFF_TOPIC = 0.2


def options(parser, *, length):
    """Add the options that say what text there is, and how much of it a batch has."""
    parser.add_argument("--text", metavar="FILE", help="read this, in place of the made-up language")
    parser.add_argument("--words", type=int, default=200_000, help="of the language, at most (default: 200,000)")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="of made-up text (default: 4,000,000)")
    parser.add_argument("--test-tokens", type=int, default=8_192, help="set aside (default: 8,192)")
    parser.add_argument("--length", type=int, default=length, help=f"words in a row of a batch (default: {length})")


def load(args):
    """Return the Text that the options ask for."""
    if args.text:
        text = read(args.text, args.words, args.test_tokens)
    else:
        text = generate(args.words, args.tokens, args.test_tokens, args.seed)
    print(f"{len(text.train):,} words, {text.n_words:,} different; unigram perplexity {text.unigram_perplexity:,.0f}")
    return text


class Text(NamedTuple):
    """Words as numbers, the most frequent one 0."""

    train: torch.Tensor
    """int64 [tokens]."""
    test: torch.Tensor
    """int64 [test_tokens]."""
    n_words: int
    best: float | None
    """The perplexity of a model that knows the language, where that is known."""

    @property
    def counts(self):
        """How often each word is in ``train``, int64 [n_words]."""
        return torch.bincount(self.train, minlength=self.n_words)

    @property
    def unigram_perplexity(self):
        """The perplexity on ``test`` of a model that knows the words' frequencies and nothing else."""
        share = (self.counts + 0.5) / (len(self.train) + 0.5 * self.n_words)
        return math.exp(-share.log()[self.test].mean())


def read(path, n_words, test_tokens):
    """Read a text file, the last tokens of which are for the test; words beyond ``n_words`` are all taken for one."""
    with open(path, encoding="utf-8", errors="replace") as file:
        words = [word for line in file for word in re.findall(r"\w+|[^\w\s]", line.lower())]
    if len(words) <= 2 * test_tokens:
        raise SystemExit(f"{path} has {len(words):,} words; the last {test_tokens:,} are for the test, give it more")
    kept = Counter(words[:-test_tokens]).most_common(n_words - 1)
    numbers = {word: i for i, (word, _) in enumerate(kept)}
    tokens = np.array([numbers.get(word, len(kept)) for word in words])
    number, _ = by_frequency(tokens[:-test_tokens], len(kept) + 1)
    tokens = torch.from_numpy(number[tokens])
    return Text(tokens[:-test_tokens], tokens[-test_tokens:], len(number), None)


def generate(n_words, tokens, test_tokens, seed=0):
    """Draw documents of the made-up language."""
    cells = CLASSES * TOPICS
    if n_words < 2 * cells:
        raise SystemExit(f"a made-up language has at least {2 * cells:,} words, not {n_words:,}; or read a --text")
    rng = np.random.default_rng(seed)
    n = -(-(tokens + test_tokens) // DOCUMENT)
    liked = zipf(CLASSES, 1.0)
    successors = np.stack([rng.choice(CLASSES, len(SUCCESSORS), False, liked) for _ in range(CLASSES)])
    classes = np.empty((n, DOCUMENT), np.int64)
    classes[:, 0] = rng.choice(CLASSES, n, p=liked)
    for i in range(1, DOCUMENT):
        classes[:, i] = successors[classes[:, i - 1], rng.choice(len(SUCCESSORS), n, p=SUCCESSORS)]
    off = rng.random((n, DOCUMENT)) < OFF_TOPIC
    topic_chances = zipf(TOPICS, 1.0)
    any_topic, its_topic = (rng.choice(TOPICS, (n, size), p=topic_chances) for size in (DOCUMENT, 1))
    topics = np.where(off, any_topic, its_topic)
    rank_chances = zipf(n_words // cells, 1.2)
    ranks = rng.choice(len(rank_chances), (n, DOCUMENT), p=rank_chances)
    words = ((ranks * TOPICS + topics) * CLASSES + classes).reshape(-1)
    number, _ = by_frequency(words[:tokens], n_words)
    words = torch.from_numpy(number[words])
    # Whoever knows the document's topic still has to guess successor, topic and rank.
    on = (1 - OFF_TOPIC) + OFF_TOPIC * topic_chances
    of_topics = [entropy(np.where(np.arange(TOPICS) == t, on[t], OFF_TOPIC * topic_chances)) for t in range(TOPICS)]
    best = math.exp(entropy(SUCCESSORS) + topic_chances @ of_topics + entropy(rank_chances))
    return Text(words[:tokens], words[tokens : tokens + test_tokens], n_words, best)


def zipf(n, power):
    """Chances in proportion to 1 / rank**power."""
    chances = 1 / np.arange(1, n + 1) ** power
    return chances / chances.sum()


def entropy(chances):
    """In nats."""
    return -chances @ np.log(chances)


def batches(tokens, streams, length):
    """Yield words and those that follow, [streams, length] each: every stream goes on where it was, over and over."""
    columns = tokens[: len(tokens) // streams * streams].view(streams, -1)
    while True:
        for first in range(0, columns.shape[1] - 1, length):
            last = min(first + length, columns.shape[1] - 1)
            yield columns[:, first:last], columns[:, first + 1 : last + 1]
