"""What training asks of the experts: even load, and weights of the objectives from where tokens went.

N sequences, Y layers with experts, E experts behind the router, O objectives. The encoder returns `routing`
(N, Y, 3, E), see `Mixture`:

    [:, :, 0]   mean over routed tokens of the gate over the active experts, sums to 1 over E
    [:, :, 1]   sum over routed tokens of the router's probability
    [:, :, 2]   number of routed tokens sent to the expert, divided by the number of active experts

Everything is computed from it, outside the model: so it is exact in pieces, and over ranks once gathered.
Designated experts have no router and so no part in it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

log = logging.getLogger(__name__)

OmegaGrad = Literal["full", "detach", "uniform"]


def load_balance(routing: torch.Tensor) -> torch.Tensor:
    """1 when tokens spread evenly over the experts, E when one takes them all; mean over layers.

        L = E * sum_e F_e P_e,   F_e share of the tokens sent to e (no gradient), P_e mean router probability

    Paper: MOON2.0 3.1, MOON 3.3 (analog Switch).

    Args:
        routing: of the whole batch; each sequence weighs as many tokens as it routed.
    """
    probability_YE, sent_YE = routing[:, :, 1].sum(0), routing[:, :, 2].sum(0).detach()
    P_YE = probability_YE / probability_YE.detach().sum(1, keepdim=True).clamp(min=1e-12)
    F_YE = sent_YE / sent_YE.sum(1, keepdim=True).clamp(min=1e-12)
    return routing.shape[-1] * (F_YE * P_YE).sum(1).mean()


def objective_weights(
    routing: torch.Tensor,
    preference_EO: torch.Tensor,
    members: Sequence[np.ndarray],
    grad: OmegaGrad = "full",
) -> torch.Tensor:
    """omega: how much the experts that took an objective's sequences stand behind that objective.

        p_em    = softmax over m of W*_em
        omega_m = mean over b in B_m of sum_e p_em G_eb,   G_eb the gate, mean over tokens and layers

    Each lies in 0..1; they sum to 1 when all objectives see the same routing: multiply by O to compare with
    unweighted runs. With gradient, the cheapest way down is to move weight to the easiest objective.

    Paper: MOON2.0 3.1 (paper reported); B_m, averaging over layers, one W* for all of them (ours).

    Args:
        preference_EO: W*, learned.
        members: for each objective, the rows of `routing` that take part: query and product side. None: 0.
        grad: "full" (the paper's point), "detach" (no gradient), "uniform" (1/O whatever the routing).

    Returns:
        (O,)
    """
    if grad == "uniform":
        return preference_EO.new_full((len(members),), 1 / len(members))
    support_NO = routing[:, :, 0].mean(1) @ preference_EO.softmax(1)
    parts = []
    for objective, rows in enumerate(members):
        own = support_NO[torch.as_tensor(rows, dtype=torch.long, device=support_NO.device), objective]
        parts.append(own.sum() / max(1, len(own)))
    omega_O = torch.stack(parts)
    return omega_O.detach() if grad == "detach" else omega_O


def sparsity(preference_EO: torch.Tensor) -> torch.Tensor:
    """Mean over experts of the entropy of their preference: log O when undecided, 0 when each has chosen.

        L = (1/E) sum_e [ - sum_m p_em log p_em ]

    Its gradient is exactly 0 at W* = 0. Paper: MOON2.0 3.1 (paper reported).
    """
    log_p_EO = preference_EO.log_softmax(1)
    return -(log_p_EO.exp() * log_p_EO).sum(1).mean()


def spread(preference_EO: torch.Tensor) -> torch.Tensor:
    """Entropy of the experts' mean preference: subtracted from the loss, it keeps them from all choosing one.

    Paper: MOON2.0 3.1, guard -lambda_H H(mean_e p_e) (ours).
    """
    log_p_O = preference_EO.log_softmax(1).logsumexp(0) - math.log(len(preference_EO))
    return -(log_p_O.exp() * log_p_O).sum()


class DeadObjectives:
    """Warns, once for each objective, when its weight falls below 0.02: learned weights can hide a dead one.

    Paper: MOON2.0 3.1, alarm (ours).
    """

    def __init__(self, names: Sequence[str], floor: float = 0.02):
        self.names, self.floor = list(names), floor
        self._warned: set[str] = set()

    def watch(self, omega_O: torch.Tensor, step: int) -> None:
        """Look at the weights of a step; exactly 0 is an objective without members, and passed over."""
        for name, omega in zip(self.names, omega_O.tolist(), strict=True):
            if 0 < omega < self.floor and name not in self._warned:
                self._warned.add(name)
                log.warning(
                    "objective %s weighs %.4f at step %d, less than %.2f: it hardly trains any more; "
                    "detach the weights or raise the guard",
                    name, omega, step, self.floor,
                )  # fmt: skip
