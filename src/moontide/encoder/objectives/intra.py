"""Alignment inside a product: its picture finds its text among all texts, and back. N products, D width."""

from __future__ import annotations

from typing import Literal

import torch

from moontide.encoder.objectives.infonce import info_nce

Direction = Literal["i2t", "t2i", "both"]


def intra(
    image_ND: torch.Tensor,
    text_ND: torch.Tensor,
    temperature: torch.Tensor | float,
    same_NN: torch.Tensor,
    direction: Direction = "both",
    weight_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE of each product's picture against the texts of other products, of its text against pictures.

        L_i2t = -log( exp(r_i . r_t / tau) / (exp(r_i . r_t / tau) + sum_{u in T} exp(r_i . r_u / tau)) )
        L_t2i = the same with image and text exchanged;  both = (L_i2t + L_t2i) / 2

    Positives and negatives of the triplets stand in one batch of N, all of them each other's T; with as many
    of one as of the other the mean over N is (L^p + L^n) / 2. With no other product the loss is 0.

    Paper: MOON2.0 3.2 (paper reported); both directions, and T as all other products (ours).

    Args:
        image_ND, text_ND: unit vectors of the products' pictures alone and texts alone.
        same_NN: True where two products share a group or a title, and so do not push each other.
        weight_N: of each product; the sum is divided by N. See `only_present` for products without one side.
    """
    if direction == "both":
        return info_nce(image_ND, text_ND, temperature, same_NN, is_symmetric=True, weight_B=weight_N)
    if direction == "t2i":
        image_ND, text_ND, same_NN = text_ND, image_ND, same_NN.T
    return info_nce(image_ND, text_ND, temperature, same_NN, weight_B=weight_N)
