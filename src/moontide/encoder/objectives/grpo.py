"""GRPO on log-probabilities that somebody else computed, and InfoNCE with several rollouts of a query.

    L = 1.0 L_GRPO + 0.1 L_InfoNCE [ + beta KL ]

N pairs of a query and its item, G rollouts of a group, R = N G rollouts, A action tokens (those that the
model chose), M items, D width. Nothing here knows a model, a text or a reward.

Paper: MOON3.0 3.4 (GRPO with the contrastive loss paper; recipe analog LREM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from moontide.encoder.objectives.infonce import info_nce, matryoshka
from moontide.foundation.errors import SettingsError

Level = Literal["token", "sequence"]


@torch.no_grad()
def advantages(reward_NG: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """How much better each rollout is than its group, in standard deviations of the group.

        A_g = (R_g - mean R) / (std R + eps),  std over the group itself: divided by G, not G - 1

    Exactly 0 in a group whose rewards are all the same.

    Paper: MOON3.0 3.4 (analog LREM). TRL divides by the sample's deviation and adds 1e-4.

    Args:
        reward_NG: tensor or array.

    Returns:
        (N, G), mean 0, without gradient
    """
    reward_NG = torch.as_tensor(reward_NG)
    exact_NG = reward_NG.double()
    centered_NG = exact_NG - exact_NG.mean(dim=1, keepdim=True)
    advantage_NG = centered_NG / (exact_NG.std(dim=1, correction=0, keepdim=True) + eps)
    is_tied_N1 = exact_NG.amax(dim=1, keepdim=True) == exact_NG.amin(dim=1, keepdim=True)
    dtype = reward_NG.dtype if reward_NG.is_floating_point() else torch.get_default_dtype()
    return advantage_NG.masked_fill(is_tied_N1, 0.0).to(dtype)


def clipped_loss(
    log_p_RA: torch.Tensor,
    old_log_p_RA: torch.Tensor,
    advantage_R: torch.Tensor,
    is_action_RA: torch.Tensor,
    clip: float = 0.2,
    level: Level = "token",
) -> tuple[torch.Tensor, dict[str, float]]:
    """Minus the clipped objective of rollouts whose advantages are known.

        token     -(1/R) sum_r (1/|o_r|) sum_t f(c_rt, A_r),   c_rt = p_rt / old_rt
        sequence  -(1/R) sum_r f(c_r, A_r),                    c_r  = prod_t c_rt
        f(c, A) = min( c A, clip(c, 1 - eps, 1 + eps) A )

    At ratio 1 its gradient is the policy gradient, -A times the gradient of the mean (token) or the sum
    (sequence) of the log-probabilities. A rollout without actions adds 0 and still counts in R.

    Also called: PPO's clipped surrogate; `loss_type="grpo"` in TRL. TRL's sequence level is GSPO's, the
        geometric mean of the tokens' ratios, which is not LREM's.
    Paper: MOON3.0 3.4 (sequence analog LREM, eps analog UME-R1, token level ours).

    Args:
        log_p_RA: log-probability of each action token under the model that is trained, any padding.
        old_log_p_RA: under the model that wrote them; no gradient goes there.
        advantage_R: see `advantages`; no gradient goes there.
        is_action_RA: True for tokens that the model chose.
        clip: eps, above 0 and below 1.

    Returns:
        scalar, and figures: `clip_share` of actions (or rollouts) without gradient because of the clip, and
        the mean `ratio`

    Raises:
        SettingsError: clip out of range, or an unknown level.
    """
    if not 0 < clip < 1:
        raise SettingsError(f"clip must lie above 0 and below 1, got {clip}")
    if level not in ("token", "sequence"):
        raise SettingsError(f"level must be token or sequence, got {level!r}")
    assert log_p_RA.shape == old_log_p_RA.shape == is_action_RA.shape, "one log-probability for each action"
    change_RA = (log_p_RA - old_log_p_RA.detach()).masked_fill(~is_action_RA, 0.0)
    if level == "sequence":
        change_RA, is_action_RA = change_RA.sum(dim=1, keepdim=True), is_action_RA.any(dim=1, keepdim=True)
    ratio_RA = change_RA.exp()
    advantage_R1 = advantage_R.detach().to(ratio_RA.dtype)[:, None]
    gain_RA = torch.minimum(ratio_RA * advantage_R1, ratio_RA.clamp(1 - clip, 1 + clip) * advantage_R1)
    loss = -action_mean(gain_RA, is_action_RA)
    with torch.no_grad():
        is_over_RA = (ratio_RA > 1 + clip) & (advantage_R1 > 0)
        is_clipped_RA = (is_over_RA | ((ratio_RA < 1 - clip) & (advantage_R1 < 0))) & is_action_RA
        num = is_action_RA.sum().clamp(min=1)
        share, mean = is_clipped_RA.sum() / num, ratio_RA.masked_fill(~is_action_RA, 0.0).sum() / num
    return loss, {"clip_share": float(share), "ratio": float(mean)}


def action_mean(value_RA: torch.Tensor, is_action_RA: torch.Tensor) -> torch.Tensor:
    """Mean over the actions of each rollout, then over rollouts: long texts weigh no more than short ones."""
    sum_R = value_RA.masked_fill(~is_action_RA, 0.0).sum(dim=1)
    return (sum_R / is_action_RA.sum(dim=1).clamp(min=1)).mean()


def kl(log_p_RA: torch.Tensor, ref_log_p_RA: torch.Tensor, is_action_RA: torch.Tensor) -> torch.Tensor:
    """Estimate of KL(model || reference) from tokens the model sampled; to be added with weight beta.

        exp(D) - D - 1,  D = log pi_ref - log pi;  averaged as the loss is

    Never below 0, and 0 for a model against itself. Also called: k3. TRL multiplies it by the ratio p / old
    unless `use_bias_correction_kl` is off: the same value at ratio 1, another gradient.

    Paper: MOON3.0 3.4 (beta 0 analog LREM, 0.04 analog UME-R1).

    Args:
        ref_log_p_RA: under the reference; no gradient goes there.
    """
    change_RA = (ref_log_p_RA.detach() - log_p_RA).masked_fill(~is_action_RA, 0.0)
    return action_mean(torch.expm1(change_RA) - change_RA, is_action_RA)


def repeated_info_nce(
    reasoned_NGD: torch.Tensor,
    item_MD: torch.Tensor,
    temperature: torch.Tensor | float,
    not_negative_NM: torch.Tensor | None = None,
    weight_N: torch.Tensor | None = None,
    widths: Sequence[int] = (),
) -> torch.Tensor:
    """InfoNCE of every rollout of a query against the same items, averaged over rollouts.

        L = -(1/(N G)) sum_i sum_g log( exp(r_ig . d_i / tau) / sum_j exp(r_ig . d_j / tau) )

    One rollout gives `info_nce`; more of the same change nothing.
    Paper: MOON3.0 3.4, L_InfoNCE (analog LREM).

    Args:
        reasoned_NGD: unit vectors of the rollouts.
        item_MD: unit vectors, M >= N, row i for query i; further ones are negatives for all.
        temperature: above 0.
        not_negative_NM: True where an item must not count as a negative, for all rollouts of a query.
        weight_N: of each pair, see `attribute_weights`; the sum is divided by N.
        widths: prefixes over which the loss is averaged; none: the whole vectors alone.

    Returns:
        scalar
    """

    def loss(query_ND: torch.Tensor, item_MD: torch.Tensor) -> torch.Tensor:
        return info_nce(query_ND, item_MD, temperature, not_negative_NM, weight_B=weight_N)

    rollouts = reasoned_NGD.unbind(dim=1)
    if widths:
        return torch.stack([matryoshka(loss, one, item_MD, widths=widths) for one in rollouts]).mean()
    return torch.stack([loss(one, item_MD) for one in rollouts]).mean()


@torch.no_grad()
def attribute_weights(bm25_N: torch.Tensor) -> torch.Tensor:
    """exp(1 + tanh(BM25)): pairs whose attribute text answers the query in its own words weigh more.

    From e, where they share no word, to e^2; above a BM25 of about 3 all weigh the same. The mean is not
    brought to 1: the contrastive loss as a whole grows 2.7 to 7.4 times.

    Paper: AFMRL, arXiv 2604.20135 (analog AFMRL; per pair ours).

    Args:
        bm25_N: `chain.Bm25` of each query against its item's attribute text.
    """
    return torch.exp(1 + torch.tanh(torch.as_tensor(bm25_N)))


@torch.no_grad()
def false_negatives(item_MD: torch.Tensor, num: int, threshold: float) -> torch.Tensor:
    """True where an item is so like a query's own that it may be right as well: (N, M), the own one included.

    Paper: AFMRL, arXiv 2604.20135, filter of false negatives (analog AFMRL; similarity of items ours).

    Args:
        item_MD: unit vectors, row i for query i.
        num: N, the queries.
        threshold: cosine from which on an item is no negative.
    """
    return item_MD[:num] @ item_MD.T >= threshold
