"""The optimizer between its configuration and the kernels: the rule of each batch, and how skipped rows catch up.

Dense Adam moves every row at every step, even with a zero gradient. So a row that no batch reads for some steps is
behind. Let m and v be its moments, and s the step at which it was last stepped. At step u > s dense Adam would move it
by::

    rate_u beta1^i m / (root_u beta2^(i/2) sqrt(v) + eps)        i = u - s, rate_u = lr_u / (1 - beta1^u),
                                                                 root_u = 1 / sqrt(1 - beta2^u)

and would shrink it by ``keep_u = 1 - lr_u weight_decay``, at every step in between. With ``a = rate_u beta1^i`` and
``b = root_u beta2^(i/2)`` the sum over u is ``m * sum a / (b sqrt(v) + eps)``. Whatever the row, that is an integral of
one function of b, over weights a that depend on s alone. So four moments of this measure are kept for each s, and each
batch adds one term to them. They determine a two-node Gauss quadrature, which stands for all steps. Terms older than
the window, in which beta1^i falls to nothing, are never added. Weight decay multiplies earlier terms by later factors,
and the four moments with them. Biases do not decay and have moments of their own.

The quadrature is exact for up to two skipped steps. For more, its error is of the fourth power of b's relative spread
over the window. That is nothing except in the first steps of a run, where the bias correction changes fast, or if beta2
is so small that v fades with m. Such steps are replayed one by one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from slide.config import OptimizerConfig
from slide.kernels import dtypes, optim
from slide.kernels.catch_up import Owed, add_step
from slide.kernels.optim import StepRule

NEGLIGIBLE = 1e-9
"""The fraction beta1^i below which what is left of a momentum is treated as zero."""

TOLERANCE = 1e-3
"""Largest error of a row's catch-up, in learning rates, for which steps are not replayed one by one. It holds for the
worst of all moments that Adam can have."""

LONGEST_WINDOW = 4096
"""Longest window, in steps, for which the measures cost a batch less than they save the rows."""

NEVER = 2**31 - 1
"""A step that no run reaches."""


class Optimizer:
    """Makes the rule of each batch, and records what skipped rows need to catch up with the steps taken.

    About fifty bytes are kept of each step since rows were last settled. Several threads must not use it at once.

    Attributes
    ----------
    config : OptimizerConfig
        The settings.
    step : int
        Number of steps taken.
    window : int
        Steps after which a momentum has faded, 0 if skipped rows do not move.
    replay_until : int
        Step up to which skipped steps are replayed one by one.
    """

    def __init__(self, config: OptimizerConfig):
        adam = config.name == "adam"
        self.config = config
        self._decays = adam and config.lazy != "sparse"
        self._moves = adam and config.lazy == "exact"
        self.window = _window(config.beta1) if self._moves else 0
        self.replay_until = _accurate_from(config.beta1, config.beta2) if self._moves else 0
        ago = np.arange(self.window if self.replay_until < NEVER else 0, 0, -1.0)
        self._fading, self._narrowing = config.beta1**ago, config.beta2 ** ((ago - 1) / 2)
        self.resume(0)

    @property
    def moments(self) -> int:
        """Number of moments that are kept of each weight."""
        return 2 if self.config.name == "adam" else 0

    @property
    def accumulates(self) -> bool:
        """Whether the squares of each row's gradients are accumulated."""
        return self.config.name == "adagrad"

    def resume(self, step: int) -> None:
        """Go on from a step at whose end all rows are up to date."""
        self.step = self._first = step
        decays_weights = self.config.weight_decay > 0
        self._log_keep = np.zeros(1 if decays_weights else 0, np.float64)
        self._steps = np.zeros((0, 3), dtypes.VALUE)
        self._nodes = np.zeros((0, 8), dtypes.VALUE)
        # One entry for the rows that were last stepped at each step of the window, the newest last: the root of their
        # first skipped step, and four moments of b / (b at that step) - 1. Biases have their own if weights decay.
        self._first_root = np.zeros(len(self._fading))
        self._measures = np.zeros((4, 2 if decays_weights else 1, len(self._fading)))

    def settled(self) -> None:
        """Forget the history: all rows have caught up with the last step."""
        self.resume(self.step)

    def state(self) -> dict[str, np.ndarray]:
        """Return what is kept of the steps since rows were last settled, by name; empty if no row is behind.

        With `step` and `settled_at` it is all that ``restore`` needs to go on to the same bits.
        """
        layout = self.state_layout(self.step - self._first)
        return {name: getattr(self, f"_{name}")[: shape[0]] for name, (shape, _) in layout.items()}

    @property
    def settled_at(self) -> int:
        """The last step at whose end all rows were up to date."""
        return self._first

    def state_layout(self, steps: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of each array of ``state`` that many steps after rows were last settled, by name."""
        if steps <= 0 or not self._keeps_history:
            return {}
        shapes: dict[str, tuple[int, ...]] = {"log_keep": (steps + 1,) if len(self._log_keep) else (0,)}
        if self._moves:
            shapes |= {"steps": (steps, 3), "nodes": (steps, 8)}
            shapes |= {"first_root": self._first_root.shape, "measures": self._measures.shape}
        return {name: (shape, getattr(self, f"_{name}").dtype) for name, shape in shapes.items()}

    def restore(self, step: int, settled_at: int, state: dict[str, np.ndarray]) -> None:
        """Go on from where an optimizer stood whose ``state`` returned `state`; the arrays are copied.

        Raises
        ------
        ValueError
            `settled_at` is not from 0 to `step`, or an array is missing or does not fit the steps or the configuration.
        """
        if not 0 <= settled_at <= step:
            raise ValueError(f"settled_at must be from 0 to {step}, got {settled_at}")
        self.resume(settled_at)
        self.step = step
        for name, (shape, dtype) in self.state_layout(step - settled_at).items():
            array = state.get(name)
            if array is None or array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} of steps {settled_at + 1} to {step} must be {dtype} {list(shape)}")
            setattr(self, f"_{name}", np.array(array, order="C"))

    @property
    def _keeps_history(self) -> bool:
        return self._moves or len(self._log_keep) > 0

    def owed(self) -> Owed | None:
        """Return what rows need to catch up with the last step, None if all of them are up to date."""
        if self.step == self._first or not self._keeps_history:
            return None
        config = self.config
        decay = (config.beta1, config.beta2) if self._decays else None
        motion = (self._steps, self._nodes, self.window, self.replay_until, config.eps) if self._moves else None
        return Owed(self.step, self._first, self._log_keep, decay, motion)

    def rule(self, lr_factor: float = 1.0) -> StepRule:
        """Return the rule of the next step, at `lr_factor` times the configured learning rate.

        The step is counted by ``advance``.

        Raises
        ------
        ValueError
            The learning rate is so high that weight decay would turn the weights' signs around.
        """
        config, lr, step = self.config, lr_factor * self.config.lr, self.step + 1
        if lr * config.weight_decay >= 1:
            raise ValueError(f"learning rate {lr:g} times weight_decay {config.weight_decay:g} must be below 1")
        decay, owed = config.weight_decay, self.owed()
        if config.name == "sgd":
            return optim.sgd(lr, step, weight_decay=decay, owed=owed)
        if config.name == "adagrad":
            return optim.adagrad(lr, config.eps, step, weight_decay=decay, owed=owed)
        betas = config.beta1, config.beta2
        return optim.adam(lr, *betas, config.eps, step, weight_decay=decay, decay_moments=self._decays, owed=owed)

    def advance(self, lr_factor: float = 1.0) -> None:
        """Count a step that was taken by ``rule(lr_factor)``."""
        n, self.step = self.step - self._first, self.step + 1
        lr = lr_factor * self.config.lr
        decay = lr * self.config.weight_decay
        if len(self._log_keep):
            self._log_keep = _with_room(self._log_keep, n + 2)
            self._log_keep[n + 1] = self._log_keep[n] + math.log1p(-decay)
        if self._moves:
            self._steps = _with_room(self._steps, n + 1)
            self._nodes = _with_room(self._nodes, n + 1)
            rate = lr / (1.0 - self.config.beta1**self.step)
            root = 1.0 / math.sqrt(1.0 - self.config.beta2**self.step)
            self._steps[n] = rate, root, decay
            if self.replay_until < NEVER:
                nodes = self._nodes[max(0, n + 1 - self.window) : n + 1]
                window = self._first_root, self._measures, self._fading, self._narrowing
                add_step(*window, rate, root, decay, math.sqrt(self.config.beta2), nodes)


def _with_room(array: np.ndarray, n: int) -> np.ndarray:
    """Return the array if it has room for n entries, or a copy with room for about twice as many."""
    if len(array) >= n:
        return array
    larger = np.zeros((2 * n + 62, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _window(beta1: float) -> int:
    return min(max(1, math.ceil(math.log(NEGLIGIBLE) / math.log(beta1))), NEVER) if beta1 > 0 else 1


def _two_nodes(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [2, ...] and nodes [2, ...] of the Gauss quadratures of measures with moments 0 to 3, [4, ...]."""
    total = moments[0]
    mean, second, third = moments[1:] / np.where(total > 0, total, 1.0)
    variance = np.maximum(second - mean**2, 0.0)
    # The measure is a single term, or several that differ only by rounding.
    single = variance <= 1e-12 * mean**2
    skew = (third - 3 * mean * second + 2 * mean**3) / np.where(single, 1.0, variance)
    skew[single] = 0.0
    distance = np.sqrt(skew**2 + 4 * variance)
    share = (distance + skew) / np.where(distance > 0, 2 * distance, 1.0)
    nodes = np.stack([mean + (skew - distance) / 2, mean + (skew + distance) / 2])
    return total * np.stack([share, 1.0 - share]), np.maximum(nodes, -1.0)


@lru_cache(maxsize=16)
def _accurate_from(beta1: float, beta2: float) -> int:
    """Return the first power of two, up to 2^14, from which step on two nodes suffice for all moments; or NEVER."""
    if beta1**2 >= beta2 or _window(beta1) > LONGEST_WINDOW:
        return NEVER
    i = np.arange(1.0, _window(beta1) + 1)
    # By the inequality of Cauchy and Schwarz |m| is at most this many times sqrt(v).
    most = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    for step in 2 ** np.arange(15):
        a, b = beta1**i / (1 - beta1 ** (step + i)), np.sqrt(beta2**i / (1 - beta2 ** (step + i)))
        relative = b / b[0] - 1
        worst = 0.0
        for n in {len(i), -(-len(i) // 10), -(-len(i) // 30)}:
            powers = np.stack([a[:n] * relative[:n] ** k for k in range(4)])
            weights, nodes = _two_nodes(powers.sum(axis=1)[:, None])
            for root_v in np.logspace(-3, 5, 33):  # in units of eps
                exact = (a[:n] / (b[:n] * root_v + 1)).sum()
                near = (weights / (b[0] * (1 + nodes) * root_v + 1)).sum()
                worst = max(worst, most * root_v * abs(exact - near))
        if worst < TOLERANCE:
            return int(step)
    return NEVER
