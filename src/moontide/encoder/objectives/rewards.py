"""Rewards of written chains: form, length, what they do for retrieval, and agreement with the catalog.

    R = 0.5 r_format + 0.2 r_length + 1.0 r_retrieval [+ 0.0 r_attribute]

N pairs of a query and its item, G rollouts of a group (all written about one query), M items to rank, the
batch's own and queued ones. All on numpy: no reward carries a gradient.

Paper: MOON3.0 3.4 (that rewards are combined with GRPO paper; the terms and weights analog LREM).
"""
# ruff: noqa: N815 - fields are named by their dimensions, as tensors are everywhere

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pydantic

from moontide.encoder.chain import AND, folded, parse_chain
from moontide.foundation.errors import SettingsError
from moontide.foundation.settings import Settings

PARTS = ("format", "length", "retrieval", "attribute")
TIE = 1e-6  # cosines this close are the same: equal vectors differ by rounding
SAME = 1e-9  # rewards this close are the same


class RewardSettings(Settings):
    """Weights of the rewards, and how retrieval is judged."""

    format: float = pydantic.Field(0.5, ge=0, description="weight of the strict form, 0 or 1")
    length: float = pydantic.Field(0.2, ge=0, description="weight of keeping the budget, 0 or 1")
    retrieval: float = pydantic.Field(1.0, ge=0, description="weight of finding the item")
    attribute: float = pydantic.Field(0.0, ge=0, description="weight of agreement with the catalog, F1")
    retrieval_kind: Literal["log_rank", "margin", "recall"] = pydantic.Field(
        "log_rank",
        description="log_rank as LREM; margin: times the similarity gap, as UME-R1; recall: within the"
        " first k of an embedder that is frozen at the start, as AFMRL",
    )
    k: int = pydantic.Field(50, ge=1, description="of recall: items looked at")
    invalid: float = pydantic.Field(-0.1, le=0, description="of recall: retrieval reward of a broken form")

    @pydantic.model_validator(mode="after")
    def _whole(self) -> RewardSettings:
        if not any(self.weights.values()):
            raise ValueError("every weight is 0: no rollout would be better than another")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """By part."""
        return {name: getattr(self, name) for name in PARTS}

    @property
    def is_frozen(self) -> bool:
        """Whether similarities must come from the encoder as it was before the stage, not as it is now."""
        return self.retrieval_kind == "recall"


@dataclass(frozen=True)
class Rewards:
    """The weighted sum of a batch's rewards, and each part before its weight."""

    total_NG: np.ndarray
    parts: dict[str, np.ndarray]

    def figures(self) -> dict[str, float]:
        """For the log: mean of the sum and of each part, and the share of groups without a signal."""
        found = {"reward": float(self.total_NG.mean())}
        found |= {f"reward_{name}": float(part.mean()) for name, part in self.parts.items()}
        return found | {"zero_variance_share": zero_variance_share(self.total_NG)}


def format_reward(texts: Any, keys: Sequence[str], has_emb: Any = None) -> np.ndarray:
    """1 where a text has the strict form of `chain.parse_chain` and `<emb>` was written after it, else 0.

    Paper: MOON3.0 3.4, r_format (analog LREM).

    Args:
        texts: nested lists or an array of texts without `<emb>`, of any shape.
        keys: allowed keys.
        has_emb: of the same shape, whether the model wrote `<emb>` itself, within the budget; None: all.

    Returns:
        float array of the shape of `texts`
    """
    array = np.asarray(texts, dtype=object)
    is_right = np.array([parse_chain(text, keys) is not None for text in array.flat], dtype=bool)
    is_right = is_right.reshape(array.shape)
    return (is_right if has_emb is None else is_right & np.asarray(has_emb, dtype=bool)).astype(float)


def length_reward(num_tokens: Any, budget: int, is_cut: Any = None) -> np.ndarray:
    """1 where the reasoning keeps the budget, else 0.

    Paper: MOON3.0 3.4, r_length (analog LREM).

    Args:
        num_tokens: reasoning tokens, an array of any shape.
        budget: most tokens.
        is_cut: whether writing was stopped at the budget: such a text has as many tokens as the budget
            allows and would have had more. None: none was.
    """
    is_kept = np.asarray(num_tokens) <= budget
    return (is_kept if is_cut is None else is_kept & ~np.asarray(is_cut, dtype=bool)).astype(float)


def ranks(
    similarity_NGM: np.ndarray, positive_N: np.ndarray, not_negative_NM: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Place of each rollout's own item, 1 the best, and among how many.

    Ties count against the own item, also those within 1e-6: a collapsed encoder is last everywhere.
    What is not a number counts against it as well.

    Paper: MOON3.0 3.4 (ties and masks ours).

    Args:
        similarity_NGM: cosines of rollouts with items, the items' vectors detached.
        positive_N: which of the M items is the own one.
        not_negative_NM: True where an item is no rival (`masks.not_negative`); the own one always counts.

    Returns:
        ranks (N, G), and numbers of items ranked (N,), the own one included

    Raises:
        SettingsError: fewer than 2 items.
    """
    is_rival_NM, own_NG = _rivals(similarity_NGM, positive_N, not_negative_NM)
    is_before_NGM = ~(similarity_NGM < own_NG[:, :, None] - TIE) & is_rival_NM[:, None]
    return 1 + is_before_NGM.sum(axis=2), 1 + is_rival_NM.sum(axis=1)


def _rivals(
    similarity_NGM: np.ndarray, positive_N: np.ndarray, not_negative_NM: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    num, _, num_items = similarity_NGM.shape
    if num_items < 2:
        raise SettingsError(
            f"a rank needs at least 2 items, got {num_items}: take more pairs in a step or a queue of items"
        )
    rows = np.arange(num)
    is_rival_NM = np.ones((num, num_items), bool)
    if not_negative_NM is not None:
        is_rival_NM &= ~np.asarray(not_negative_NM, dtype=bool)
    is_rival_NM[rows, positive_N] = False
    return is_rival_NM, similarity_NGM[rows, :, positive_N].astype(np.float64)


def log_rank(
    similarity_NGM: np.ndarray, positive_N: np.ndarray, not_negative_NM: np.ndarray | None = None
) -> np.ndarray:
    """1 - log(rank) / log(items): 1 where the own item comes first, 0 where it comes last.

    A query all of whose other items are masked earns 0: nothing was told apart.

    Paper: MOON3.0 3.4, r_ret (analog LREM). Args, Raises: see `ranks`.

    Returns:
        (N, G), 0 to 1

    Example:
        >>> similarity = np.array([[[0.9, 0.5, 0.1, 0.0], [0.2, 0.5, 0.1, 0.0]]])
        >>> log_rank(similarity, np.array([0]))
        array([[1. , 0.5]])
    """
    rank_NG, num_N = ranks(similarity_NGM, positive_N, not_negative_NM)
    return np.where(num_N > 1, 1 - np.log(rank_NG.T) / np.log(np.maximum(num_N, 2)), 0.0).T


def margin_rank(
    similarity_NGM: np.ndarray, positive_N: np.ndarray, not_negative_NM: np.ndarray | None = None
) -> np.ndarray:
    """`log_rank` times the gap between the own item's similarity and the mean of the others'.

    Rollouts of a pair that is found anyway, or never, still differ. It may fall below 0.

    Paper: UME-R1, arXiv 2511.00405 (analog UME-R1; the rank score is LREM's, ours).
    Args, Raises: see `ranks`.

    Returns:
        (N, G), -2 to 2
    """
    is_rival_NM, own_NG = _rivals(similarity_NGM, positive_N, not_negative_NM)
    num_N1 = np.maximum(is_rival_NM.sum(axis=1), 1)[:, None]
    rivals_NG = np.where(is_rival_NM[:, None], similarity_NGM, 0.0).sum(axis=2, dtype=np.float64) / num_N1
    return log_rank(similarity_NGM, positive_N, not_negative_NM) * (own_NG - rivals_NG)


def recall_at(
    similarity_NGM: np.ndarray,
    positive_N: np.ndarray,
    k: int = 50,
    not_negative_NM: np.ndarray | None = None,
    is_valid_NG: np.ndarray | None = None,
    invalid: float = -0.1,
) -> np.ndarray:
    """1 where the own item is among the first k, else 0; `invalid` where the text is malformed.

    Paper: AFMRL, arXiv 2604.20135 (analog AFMRL). Its similarities come from a frozen embedder.

    Args:
        k: below M, else every rollout succeeds.
        is_valid_NG: where the form is right; None: everywhere.

    Returns:
        (N, G)

    Raises:
        SettingsError: fewer than 2 items, or no more than k.
    """
    rank_NG, _ = ranks(similarity_NGM, positive_N, not_negative_NM)
    if k >= similarity_NGM.shape[2]:
        raise SettingsError(
            f"recall at {k} of {similarity_NGM.shape[2]} items is always 1: lower k or lengthen the queue"
        )
    found_NG = (rank_NG <= k).astype(float)
    return found_NG if is_valid_NG is None else np.where(is_valid_NG, found_NG, invalid)


def rank_reward(
    similarity_NGM: np.ndarray,
    positive_N: np.ndarray,
    settings: RewardSettings,
    not_negative_NM: np.ndarray | None = None,
    is_valid_NG: np.ndarray | None = None,
) -> np.ndarray:
    """The retrieval reward of the kind that is set; `is_valid_NG` (right form) matters to recall alone."""
    if settings.retrieval_kind == "recall":
        rest = (not_negative_NM, is_valid_NG, settings.invalid)
        return recall_at(similarity_NGM, positive_N, settings.k, *rest)
    reward = {"log_rank": log_rank, "margin": margin_rank}[settings.retrieval_kind]
    return reward(similarity_NGM, positive_N, not_negative_NM)


def attribute_f1(generated: Mapping[str, str] | None, catalog: Mapping[str, str]) -> float:
    """F1 of generated against catalog pairs of key and value, only of keys that the catalog has.

    Several values of a key (`chain.AND`) are as many pairs. Case does not matter. 0 where nothing could be
    read, and where the catalog says nothing: then no rollout is better than another.

    Paper: MOON3.0 3.4, r_attr (ours).

    Example:
        >>> attribute_f1({"color": "red", "use": "party"}, {"color": "Red and blue"})
        0.6666666666666666
    """
    known = {folded(key) for key in catalog}
    said, true = _pairs(generated or {}), _pairs(catalog)
    said = {pair for pair in said if pair[0] in known}
    return 2 * len(said & true) / (len(said) + len(true)) if said and true else 0.0


def _pairs(values: Mapping[str, str]) -> set[tuple[str, str]]:
    return {
        (folded(key), value) for key, text in values.items() for value in folded(text).split(AND) if value
    }


def attribute_reward(
    texts_NG: Sequence[Sequence[str]], catalog_N: Sequence[Mapping[str, str]], keys: Sequence[str]
) -> np.ndarray:
    """`attribute_f1` of every rollout against its own item's chain (`chain.chain_of`): (N, G), 0 to 1."""
    return np.array(
        [
            [attribute_f1(parse_chain(text, keys), catalog) for text in texts]
            for texts, catalog in zip(texts_NG, catalog_N, strict=True)
        ]
    )


def combine(parts: Mapping[str, np.ndarray], settings: RewardSettings) -> Rewards:
    """The weighted sum of rewards by part (`PARTS`); parts of weight 0 are kept for the log or left out."""
    weights = settings.weights
    assert parts.keys() <= weights.keys(), f"unknown parts: {sorted(parts.keys() - weights.keys())}"
    missing = [name for name, weight in weights.items() if weight and name not in parts]
    assert not missing, f"parts with a weight but no reward: {missing}"
    total_NG = np.sum([weights[name] * part for name, part in parts.items() if weights[name]], axis=0)
    return Rewards(total_NG, dict(parts))


def zero_variance_share(total_NG: np.ndarray) -> float:
    """Share of the groups whose rollouts all earn the same: they teach nothing.

    A pair that succeeds with probability p is silent with probability p^G + (1 - p)^G.
    Paper: MOON3.0 7, test 5, and 8.
    """
    return float((np.ptp(total_NG, axis=1) < SAME).mean())
