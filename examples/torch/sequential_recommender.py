"""What will a user take next, out of 300,000 items? Self-attention over what came before, after SASRec.

    python examples/torch/sequential_recommender.py [--head full] [--sessions FILE]

FILE has a session a line: items by any name, in their order, with blanks between. Without it sessions are made up:
users keep to a few kinds of items, some of which are popular and some go together. The last item of every session is
set aside. Shown is HR@10: how often it is among the ten best of all items.

Kang and McAuley, *Self-Attentive Sequential Recommendation*, ICDM 2018; here an item that is read and an item that is
answered are different vectors.
"""

import heads
import numpy as np
import torch
from attention import CausalTransformer
from training import Clock, by_frequency, options, parse


def read(path):
    """Return sessions of at least three items, as arrays of numbers, and how many items there are."""
    numbers = {}
    with open(path, encoding="utf-8") as file:
        sessions = [np.array([numbers.setdefault(item, len(numbers)) for item in line.split()]) for line in file]
    sessions = [session for session in sessions if len(session) >= 3]
    if not sessions:
        raise SystemExit(f"{path} has no line of three items or more; a line is a session, blanks between its items")
    return sessions, len(numbers)


def generate(n_items, n_sessions, seed, length=24, kinds=3):
    """Make sessions up."""
    rng = np.random.default_rng(seed)
    n_kinds = max(kinds, n_items // 150)
    size = n_items // n_kinds
    chances = 1 / np.arange(10, n_kinds + 10)
    mine = rng.choice(n_kinds, (n_sessions, kinds), p=chances / chances.sum())
    kind = mine[:, 0]
    place = np.zeros(n_sessions, np.int64)
    sessions = np.empty((n_sessions, length), np.int64)
    for i in range(length):
        stays = rng.random(n_sessions) < 0.7
        kind = np.where(stays, kind, mine[np.arange(n_sessions), rng.integers(kinds, size=n_sessions)])
        popular = (size ** rng.random(n_sessions)).astype(np.int64)
        # What goes together stands side by side.
        place = np.where(stays & (rng.random(n_sessions) < 0.5), (place + 1) % size, popular % size)
        sessions[:, i] = kind * size + place
    return list(sessions), n_items


def windows(sessions, length, number):
    """Return items and those that follow, int64 [sessions, length], -1 where there is none, without the last ones."""
    items = np.full((len(sessions), length + 1), -1)
    for row, session in zip(items, sessions, strict=True):
        recent = number[session[:-1][-length - 1 :]]
        row[: len(recent)] = recent
    return torch.from_numpy(items[:, :-1]), torch.from_numpy(items[:, 1:])


def main(arguments=None):
    """Train and return the result."""
    parser = options(__doc__, batch_size=32, lr=8e-3)
    parser.add_argument("--sessions", metavar="FILE", help="read these, in place of what is made up")
    parser.add_argument("--items", type=int, default=300_000, help="in what is made up (default: 300,000)")
    parser.add_argument("--users", type=int, default=100_000, help="in what is made up (default: 100,000)")
    parser.add_argument("--test-points", type=int, default=2_000, help="sessions to measure on (default: 2,000)")
    parser.add_argument("--length", type=int, default=24, help="items that are read of a session (default: 24)")
    args = parse(parser, arguments)
    sessions, n_items = read(args.sessions) if args.sessions else generate(args.items, args.users, args.seed)
    number, counts = by_frequency(np.concatenate([session[:-1] for session in sessions]), n_items)
    print(f"{len(sessions):,} sessions of {n_items:,} items")
    history, following = windows(sessions, args.length, number)

    body = CausalTransformer(n_items, args.dim, args.length, layers=2)
    head, head_optimizer = heads.make(args.head, args.dim, counts, args.lr, args.negatives)
    optimizers = [*body.optimizers(args.lr), head_optimizer]

    rng = torch.Generator().manual_seed(args.seed)
    clock = Clock(args)
    for _ in clock:
        rows = torch.randint(len(history), (args.batch_size,), generator=rng)
        known = following[rows] >= 0
        loss = head.loss(body(history[rows].clamp(min=0))[known], following[rows][known])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        clock.losses.append(loss.item())

    # The test reads on to the last item but one.
    tested = torch.randperm(len(sessions), generator=rng)[: args.test_points]
    hits = 0
    with torch.no_grad():
        for rows in tested.split(128):
            recent = [torch.from_numpy(number[sessions[row][:-1][-args.length :]]) for row in rows]
            read_to = torch.tensor([len(items) - 1 for items in recent])
            hidden = body(torch.nn.utils.rnn.pad_sequence(recent, batch_first=True))
            best, _ = head.topk(hidden[torch.arange(len(rows)), read_to], min(10, n_items))
            last = torch.tensor([int(number[sessions[row][-1]]) for row in rows])
            hits += (best == last[:, None]).any(1).sum().item()
    return clock.result(**{"HR@10": hits / len(tested)})


if __name__ == "__main__":
    main()
