"""From comparisons of pairs to an order of candidates, within a budget of judge calls.

    s(A,B) = (p(A | A shown first) + p(A | B shown first)) / 2,   s(A,B) + s(B,A) = 1

Both orders lie inside `compare`, so that one comparison is two calls of the judge. Judges are not transitive:
`intransitive_share` says how much, and no method relies on it silently (`num_decided`).

    method     calls for N candidates      decides
    all        N (N - 1)                   every place; the default up to about ten
    swiss      about N a round             every place, roughly
    merge      about 2 N log2(top)         the first `top` places
    knockout   2 (N - 1)                   the winner alone; one wrong verdict throws the best out

Paper: Creative4U 3.6 (ours: the paper's procedure is not in the text available to us).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit

from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.seeds import stream

Method = Literal["all", "knockout", "swiss", "merge"]
Compare = Callable[[list[tuple[int, int]]], list[float]]
TIE_BAND = (0.45, 0.55)  # ours
PENALTY = 0.1  # ours


@dataclass(frozen=True)
class Ranking:
    """Candidates 0 to N-1 in order.

    Args:
        method: how they were compared.
        order: best first.
        strength: by candidate, Bradley-Terry over the comparisons made; mean 0. Sorted as `order` by "all"
            and "swiss"; the other two compare too few pairs for that.
        copeland: by candidate, comparisons won plus half of those tied.
        tie_groups: all candidates, best first; those of one group cannot be told apart.
        comparisons: pairs compared, each once.
        intransitive_share: of triples compared in full, those in a circle; NaN where there is none.
        num_decided: how many first places were decided; places behind only say how far one came.
    """

    method: Method
    order: tuple[int, ...]
    strength: tuple[float, ...]
    copeland: tuple[float, ...]
    tie_groups: tuple[tuple[int, ...], ...]
    comparisons: int
    intransitive_share: float
    num_decided: int

    @property
    def calls(self) -> int:
        """Calls of the judge: every comparison in both orders."""
        return 2 * self.comparisons


class _Board:
    """What is known of the pairs: s_NN and is_tie_NN, NaN where not compared."""

    def __init__(
        self,
        num: int,
        compare: Compare,
        tie_band: tuple[float, float],
        is_tie: Callable[[int, int], bool] | None,
    ):
        self.num, self._compare, self._band, self._asked_tie = num, compare, tie_band, is_tie
        self.s_NN = np.full((num, num), np.nan)
        self.is_tie_NN = np.zeros((num, num), bool)

    @property
    def comparisons(self) -> int:
        return int((~np.isnan(self.s_NN)).sum()) // 2

    def ask(self, pairs: list[tuple[int, int]]) -> None:
        """Compare those pairs that are not known, together."""
        new = [(i, j) for i, j in dict.fromkeys(pairs) if np.isnan(self.s_NN[i, j])]
        answers = list(self._compare(new)) if new else []
        if len(answers) != len(new):
            raise DataError(f"{len(new)} pairs were to be compared, {len(answers)} answers came")
        for (i, j), answer in zip(new, answers, strict=True):
            s = float(answer)
            if not 0 <= s <= 1:
                raise DataError(f"comparing {i} and {j} gave {answer}: give a chance from 0 to 1")
            self.s_NN[i, j], self.s_NN[j, i] = s, 1 - s
            told = self._asked_tie is not None and self._asked_tie(i, j)
            self.is_tie_NN[i, j] = self.is_tie_NN[j, i] = told or is_within(s, self._band)

    def is_before(self, i: int, j: int) -> bool:
        """Whether i goes before j, which comes behind i so far: a tie changes nothing."""
        return bool(self.is_tie_NN[i, j] or self.s_NN[i, j] >= 0.5)


def rank_candidates(
    num: int,
    compare: Compare,
    method: Method = "all",
    budget: int | None = None,
    *,
    top: int | None = None,
    rounds: int | None = None,
    penalty: float = PENALTY,
    tie_band: tuple[float, float] = TIE_BAND,
    is_tie: Callable[[int, int], bool] | None = None,
    seed: int = 0,
) -> Ranking:
    """Order candidates by comparing pairs of them; what a method can ask at once goes in one list.

    Args:
        num: of candidates; they are called 0 to num - 1.
        compare: for pairs (i, j) the chance s that i is better, mean of both orders of showing.
        budget: calls of the judge at most, two a comparison; None: what the method wants.
            "swiss" makes as many rounds and "merge" decides as many places as fit.
        top: places that "merge" decides; None: all, or what the budget allows.
        rounds: of "swiss"; None: log2(num), or what the budget allows.
        penalty: of `bradley_terry`.
        tie_band: from and to which s is a tie.
        is_tie: asked after `compare`: also a tie for another reason, such as orders that contradict.
        seed: of the places drawn for "knockout", "swiss" and "merge".

    Raises:
        SettingsError: no candidate, an unknown method, or a budget too small for the method.
        DataError: `compare` gave too few answers, or one outside [0, 1].

    Example:
        >>> found = rank_candidates(3, lambda pairs: [0.9 if i > j else 0.1 for i, j in pairs])
        >>> found.order, found.calls
        ((2, 1, 0), 6)
    """
    if num < 1:
        raise SettingsError(f"a ranking needs at least one candidate, got {num}")
    if method not in get_args(Method):
        raise SettingsError(f"method is one of {', '.join(get_args(Method))}, got {method!r}")
    board = _Board(num, compare, tie_band, is_tie)
    seats = [int(i) for i in stream(seed, "ranking").permutation(num)]
    order, num_decided = None, num
    if method == "all":
        _afford(method, num, num * (num - 1) // 2, budget)
        board.ask([(i, j) for i in range(num) for j in range(i + 1, num)])
    elif method == "swiss":
        _swiss(board, seats, _rounds(num, budget, rounds))
    else:
        num_decided = _places(num, budget, 1 if method == "knockout" else top, method)
        order = _merge(board, seats, num_decided, penalty)
    return _ranking(board, method, order, num_decided, penalty)


def bradley_terry(s_NN: np.ndarray, penalty: float = PENALTY) -> np.ndarray:
    """Strengths t whose differences explain the comparisons: s(i, j) ~ sigmoid(t_i - t_j).

        maximize  sum_{i<j} s_ij log sig(t_i - t_j) + (1 - s_ij) log sig(t_j - t_i)  -  penalty/2 sum t_i^2

    by Newton's method, mean t = 0. The penalty keeps an undefeated candidate finite.

    Args:
        s_NN: s(i, j), with s(j, i) = 1 - s(i, j); NaN where not compared. The diagonal is not read.

    Returns:
        (N,) strengths, in log-odds.

    Raises:
        DataError: not square, values outside [0, 1] or that do not add up to 1; or, without a penalty,
            strengths that would be infinite.

    Example:
        >>> t = bradley_terry(np.array([[0.5, 0.8], [0.2, 0.5]]), penalty=0)
        >>> round(float(expit(t[0] - t[1])), 6)
        0.8
    """
    s, is_known = _checked(s_NN)
    num = len(s)
    if penalty <= 0 and num > 1:
        parts, _ = connected_components(is_known & (s > 0), connection="strong")
        if parts > 1:
            raise DataError(
                "without a penalty the strengths are infinite: someone never lost, or was never compared; "
                f"give a penalty such as {PENALTY}"
            )

    def value(t: np.ndarray) -> float:
        likely = np.where(is_known, s * log_expit(t[:, None] - t), 0.0).sum()  # both sides of a pair
        return float(likely - penalty / 2 * (t @ t))

    t = np.zeros(num)
    for _ in range(200):
        p = expit(t[:, None] - t)
        slope = np.where(is_known, s - p, 0.0).sum(1) - penalty * t
        curve = np.where(is_known, p * (1 - p), 0.0)
        bend = np.diag(curve.sum(1) + penalty) - curve + 1 / num  # 1/N holds the mean, which has no bend
        step = np.linalg.solve(bend, slope)
        before, size = value(t), 1.0
        while value(t + size * step) < before - 1e-12 and size > 1e-6:
            size /= 2
        t = t + size * step
        if np.abs(step).max() < 1e-11:
            break
    return t - t.mean()


def copeland(
    s_NN: np.ndarray, tie_band: tuple[float, float] = TIE_BAND, is_tie_NN: np.ndarray | None = None
) -> np.ndarray:
    """Comparisons won plus half of those tied, by candidate; they add up to the number of comparisons.

    Args:
        s_NN: as in `bradley_terry`.
        tie_band: from and to which s is a tie.
        is_tie_NN: ties told for another reason.

    Raises:
        DataError: as `bradley_terry`.
    """
    s, is_known = _checked(s_NN)
    is_tie = (s >= tie_band[0]) & (s <= tie_band[1])
    if is_tie_NN is not None:
        is_tie = is_tie | is_tie_NN
    return np.where(is_known, np.where(is_tie, 0.5, s > 0.5), 0.0).sum(1)


def intransitive_share(s_NN: np.ndarray, is_tie_NN: np.ndarray | None = None) -> float:
    """Of triples compared in full, the share in which each beats the next in a circle; a tie breaks it.

    NaN where no triple was compared in full. Also called: cyclic triads, Kendall's circular triads.
    """
    s, is_known = _checked(s_NN)
    wins = (is_known & (s > 0.5) & (True if is_tie_NN is None else ~is_tie_NN)).astype(np.int64)
    known = is_known.astype(np.int64)
    num_triples = int(np.trace(known @ known @ known)) // 6
    return int(np.trace(wins @ wins @ wins)) // 3 / num_triples if num_triples else math.nan


def is_within(s: float, tie_band: tuple[float, float]) -> bool:
    """Whether s lies in the band, ends included."""
    return tie_band[0] <= s <= tie_band[1]


def _checked(s_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s without NaN, and where it is known; the diagonal is not."""
    s = np.array(s_NN, dtype=np.float64)
    if s.ndim != 2 or s.shape[0] != s.shape[1]:
        raise DataError(f"comparisons must be a square table, got shape {s.shape}")
    np.fill_diagonal(s, np.nan)
    is_known = ~np.isnan(s)
    if (is_known != is_known.T).any() or not np.allclose((s + s.T)[is_known], 1, atol=1e-6):
        raise DataError("s(i, j) and s(j, i) must add up to 1: average both orders of each pair first")
    if ((s < 0) | (s > 1))[is_known].any():
        raise DataError("comparisons must be chances from 0 to 1, or NaN where there is none")
    return np.where(is_known, s, 0.0), is_known


def _afford(method: str, num: int, comparisons: int, budget: int | None) -> None:
    if budget is not None and 2 * comparisons > budget:
        raise SettingsError(
            f"method {method!r} needs {2 * comparisons:,} judge calls for {num} candidates, more than the "
            f"budget of {budget:,}: raise it, or take another method ('swiss' from {2 * (num // 2):,} on)"
        )


def _rounds(num: int, budget: int | None, rounds: int | None) -> int:
    """Rounds of a Swiss tournament that fit: one compares floor(N/2) pairs at most."""
    if num < 2:
        return 0
    if rounds is not None and rounds < 1:
        raise SettingsError(f"rounds must be above 0, got {rounds}")
    if budget is None:
        return rounds or math.ceil(math.log2(num))
    _afford("swiss", num, num // 2, budget)
    fits = budget // (2 * (num // 2))
    if rounds is not None and rounds > fits:
        _afford("swiss", num, rounds * (num // 2), budget)
    return rounds or fits


def _swiss(board: _Board, seats: list[int], rounds: int) -> None:
    byes = dict.fromkeys(seats, 0)
    for _ in range(rounds):
        points = np.nansum(board.s_NN, axis=1)
        waiting = sorted(seats, key=lambda i: -points[i])  # stable: seats decide among equals
        if len(waiting) % 2:
            free = min(reversed(waiting), key=lambda i: byes[i])
            byes[free] += 1
            waiting.remove(free)
        pairs = []
        while len(waiting) > 1:
            first = waiting.pop(0)
            partner = next((other for other in waiting if np.isnan(board.s_NN[first, other])), None)
            if partner is not None:
                waiting.remove(partner)
                pairs.append((first, partner))
        board.ask(pairs)


def _most_merges(num: int, top: int) -> int:
    """Comparisons of a merge sort of `num` that keeps the first `top`, at most."""
    sizes, total = [1] * num, 0
    while len(sizes) > 1:
        both = list(zip(sizes[::2], sizes[1::2], strict=False))
        total += sum(min(a + b - 1, top) for a, b in both)
        sizes = [min(a + b, top) for a, b in both] + sizes[len(both) * 2 :]
    return total


def _places(num: int, budget: int | None, top: int | None, method: Method) -> int:
    """How many places a merge sort may decide."""
    if top is not None and not 1 <= top <= num:
        raise SettingsError(f"top must lie between 1 and the {num} candidates, got {top}")
    if budget is None:
        return top or num
    least = top or 1
    _afford(method, num, _most_merges(num, least), budget)
    return top or max(k for k in range(1, num + 1) if 2 * _most_merges(num, k) <= budget)


def _merge(board: _Board, seats: list[int], top: int, penalty: float) -> list[int]:
    """Merge sort from the bottom up that keeps `top` of every list; all merges of a level go in step."""
    lists, dropped = [[i] for i in seats], []
    while len(lists) > 1:
        running = [(a, b, []) for a, b in zip(lists[::2], lists[1::2], strict=False)]
        while open_ones := [(a, b, out) for a, b, out in running if a and b and len(out) < top]:
            board.ask([(a[0], b[0]) for a, b, _ in open_ones])
            for a, b, out in open_ones:
                out.append((a if board.is_before(a[0], b[0]) else b).pop(0))
        merged = [(out + a + b) for a, b, out in running]
        dropped.append([i for row in merged for i in row[top:]])
        lists = [row[:top] for row in merged] + lists[2 * len(running) :]
    t = bradley_terry(board.s_NN, penalty)
    rest = [sorted(group, key=lambda i: -t[i]) for group in reversed(dropped)]
    return lists[0] + [i for group in rest for i in group]


def _ranking(
    board: _Board, method: Method, order: list[int] | None, num_decided: int, penalty: float
) -> Ranking:
    strength = bradley_terry(board.s_NN, penalty)
    points = copeland(board.s_NN, board._band, board.is_tie_NN)
    if order is None:
        order = [int(i) for i in np.lexsort((np.arange(board.num), -points, -strength.round(9)))]
    return Ranking(
        method,
        tuple(order),
        tuple(strength.tolist()),
        tuple(points.tolist()),
        _tie_groups(board, order, strength),
        board.comparisons,
        intransitive_share(board.s_NN, board.is_tie_NN),
        num_decided,
    )


def _tie_groups(board: _Board, order: list[int], strength: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Neighbors in order that tie with every one of their group; by strength where not compared."""

    def tied(i: int, j: int) -> bool:
        if not np.isnan(board.s_NN[i, j]):
            return bool(board.is_tie_NN[i, j])
        return is_within(float(expit(strength[i] - strength[j])), board._band)

    groups: list[list[int]] = []
    for i in order:
        if groups and all(tied(i, other) for other in groups[-1]):
            groups[-1].append(i)
        else:
            groups.append([i])
    return tuple(map(tuple, groups))
