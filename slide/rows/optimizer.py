"""The optimizer between its configuration and the kernels: each batch's rule, and what skipped rows owe.

A row that no batch reads at some steps misses what dense Adam does to it with a zero gradient. At step u a row last
stepped at s < u, its moments m and v, would move by::

    rate_u beta1^i m / (root_u beta2^(i/2) sqrt(v) + eps)        i = u - s, rate_u = lr_u / (1 - beta1^u),
                                                                 root_u = 1 / sqrt(1 - beta2^u)

and shrink by ``keep_u = 1 - lr_u weight_decay``, at every step in between. With ``a = rate_u beta1^i`` and ``b = root_u
beta2^(i/2)`` the sum over u is ``m * sum a / (b sqrt(v) + eps)``: an integral of one function of b, whatever the row,
over weights a that depend on s alone. So for each s four moments of that measure are kept, to which each batch adds one
term, and the two-node Gauss quadrature that they determine stands for all steps. Terms older than the window, in which
beta1^i falls to nothing, are never added. Weight decay multiplies earlier terms by later factors, and the four moments
with them; biases do not decay and have moments of their own.

The quadrature is exact for up to two skipped steps, and else errs by the fourth power of b's relative spread over the
window. That is nothing but in the first steps of a run, where the bias correction changes fast, or if beta2 is so
small that v fades with m; such steps are replayed one by one.
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
"""Where beta1^i has fallen to it, a momentum moves weights no more."""

TOLERANCE = 1e-3
"""Error of a row's catch-up, in learning rates, above which steps are replayed one by one: the worst over all moments
that Adam can have."""

LONGEST_WINDOW = 4096
"""Window, in steps, above which a batch would spend more on the measures than the rows save."""

NEVER = 2**31 - 1


class Optimizer:
    """Makes the rule of each batch, and keeps of the steps taken what skipped rows will ask for.

    Parameters
    ----------
    config : OptimizerConfig

    Attributes
    ----------
    step : int
        Steps taken.

    Notes
    -----
    Some fifty bytes are kept of each step since rows were last settled. Not safe for use by several threads.
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
        """Moment vectors of a parameter."""
        return 2 if self.config.name == "adam" else 0

    @property
    def accumulates(self) -> bool:
        """Whether rows accumulate the squares of their gradients."""
        return self.config.name == "adagrad"

    def resume(self, step: int) -> None:
        """Go on from a step at whose end no row owes anything.

        Parameters
        ----------
        step : int
        """
        self.step = self._first = step
        decays_weights = self.config.weight_decay > 0
        self._log_keep = np.zeros(1 if decays_weights else 0, np.float64)
        self._steps = np.zeros((0, 3), dtypes.VALUE)
        self._nodes = np.zeros((0, 8), dtypes.VALUE)
        # Of the rows last stepped at each step of the window, the newest last: the root of the first skipped step, and
        # four moments of b over what it was in that step, minus 1; apart for biases where weights decay.
        self._first_root = np.zeros(len(self._fading))
        self._measures = np.zeros((4, 2 if decays_weights else 1, len(self._fading)))

    def settled(self) -> None:
        """Forget the history: all rows have caught up with the last step."""
        self.resume(self.step)

    def state(self) -> dict[str, np.ndarray]:
        """Return what is kept of the steps since rows were last settled, by name; empty where they owe nothing.

        With `step` and `settled_at` it is all that ``restore`` needs to go on to the same bits.
        """
        layout = self.state_layout(self.step - self._first)
        return {name: getattr(self, f"_{name}")[: shape[0]] for name, (shape, _) in layout.items()}

    @property
    def settled_at(self) -> int:
        """The step at whose end no row owed anything."""
        return self._first

    def state_layout(self, steps: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of each array of ``state``, by name.

        Parameters
        ----------
        steps : int
            Since rows were last settled.
        """
        if steps <= 0 or not self._keeps_history:
            return {}
        shapes = {"log_keep": (steps + 1,) if len(self._log_keep) else (0,)}
        if self._moves:
            shapes |= {"steps": (steps, 3), "nodes": (steps, 8)}
            shapes |= {"first_root": self._first_root.shape, "measures": self._measures.shape}
        return {name: (shape, getattr(self, f"_{name}").dtype) for name, shape in shapes.items()}

    def restore(self, step: int, settled_at: int, state: dict[str, np.ndarray]) -> None:
        """Go on from a step at whose end rows owed what `state` says.

        Parameters
        ----------
        step, settled_at : int
        state : dict of array
            As ``state`` returned it; copied.

        Raises
        ------
        ValueError
            An array is missing, or does not fit the steps or the configuration.
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
    def _keeps_history(self):
        return self._moves or len(self._log_keep) > 0

    def owed(self) -> Owed | None:
        """Return what rows owe at the end of the last step, None if they may be read as they are."""
        if self.step == self._first or not self._keeps_history:
            return None
        config = self.config
        decay = (config.beta1, config.beta2) if self._decays else None
        motion = (self._steps, self._nodes, self.window, self.replay_until, config.eps) if self._moves else None
        return Owed(self.step, self._first, self._log_keep, decay, motion)

    def rule(self, lr_factor: float = 1.0) -> StepRule:
        """Return the rule of the next step; nothing is kept of it until ``advance``.

        Parameters
        ----------
        lr_factor : float
            Multiplies the configured learning rate.

        Raises
        ------
        ValueError
            The factor is so large that weight decay would turn weights around.
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
        """Count a step that was taken by ``rule(lr_factor)``.

        Parameters
        ----------
        lr_factor : float
        """
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


def _with_room(array, n):
    """Return the array, or a copy of it with room for twice as many entries if it has not got n."""
    if len(array) >= n:
        return array
    larger = np.zeros((2 * n + 62, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _window(beta1):
    return min(max(1, math.ceil(math.log(NEGLIGIBLE) / math.log(beta1))), NEVER) if beta1 > 0 else 1


def _two_nodes(moments):
    """Weights [2, ...] and nodes [2, ...] of the Gauss quadratures of measures with moments 0 to 3, [4, ...]."""
    total = moments[0]
    mean, second, third = moments[1:] / np.where(total > 0, total, 1.0)
    variance = np.maximum(second - mean**2, 0.0)
    # A single term, or several in one place but for rounding.
    single = variance <= 1e-12 * mean**2
    skew = (third - 3 * mean * second + 2 * mean**3) / np.where(single, 1.0, variance)
    skew[single] = 0.0
    distance = np.sqrt(skew**2 + 4 * variance)
    share = (distance + skew) / np.where(distance > 0, 2 * distance, 1.0)
    nodes = np.stack([mean + (skew - distance) / 2, mean + (skew + distance) / 2])
    return total * np.stack([share, 1.0 - share]), np.maximum(nodes, -1.0)


@lru_cache(maxsize=16)
def _accurate_from(beta1, beta2):
    """First of a row of steps after which two nodes do for all momenta, NEVER if there is none up to 2^14."""
    if beta1**2 >= beta2 or _window(beta1) > LONGEST_WINDOW:
        return NEVER
    i = np.arange(1.0, _window(beta1) + 1)
    # By Cauchy and Schwarz m is at most so many times sqrt(v).
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
