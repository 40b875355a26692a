"""Alignment of picture and text inside a product."""

import math

import pytest
import torch
import torch.nn.functional as F

from moontide.encoder.objectives.infonce import info_nce
from moontide.encoder.objectives.intra import intra
from moontide.encoder.objectives.masks import only_present


def unit(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


NONE = torch.zeros(5, 5, dtype=torch.bool)


def test_one_other_product_costs_the_softplus_of_the_gap():
    image, text = unit(2, 4), unit(2, 4, 1)
    s = (image @ text.T).tolist()
    softplus = [math.log(1 + math.exp((s[i][1 - i] - s[i][i]) / 0.2)) for i in range(2)]
    assert intra(image, text, 0.2, NONE[:2, :2], "i2t").item() == pytest.approx(sum(softplus) / 2)


def test_exchanging_pictures_and_texts_exchanges_the_directions():
    image, text = unit(5, 6), unit(5, 6, 1)
    same = NONE.clone()
    same[1, 3] = same[3, 1] = True
    i2t, t2i = (intra(image, text, 0.1, same, direction) for direction in ("i2t", "t2i"))
    assert i2t.item() != pytest.approx(t2i.item())
    assert intra(text, image, 0.1, same, "t2i").item() == pytest.approx(i2t.item())
    assert intra(text, image, 0.1, same, "i2t").item() == pytest.approx(t2i.item())
    assert intra(image, text, 0.1, same).item() == pytest.approx((i2t + t2i).item() / 2)


@pytest.mark.parametrize("direction", ["i2t", "t2i", "both"])
def test_products_of_one_group_or_title_do_not_push_each_other(direction):
    image, text = unit(3, 6), unit(3, 6, 1)
    doubled = torch.cat((text, text[:1]))  # product 3 has the title of product 0
    same = torch.zeros(4, 4, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    first = torch.tensor([4.0, 0, 0, 0])
    images = torch.cat((image, unit(1, 6, 2)))
    got = intra(images, doubled, 0.1, same, direction, first)
    alone = intra(image, text, 0.1, same[:3, :3], direction, first[:3] * 3 / 4)
    torch.testing.assert_close(got, alone)
    assert intra(images, doubled, 0.1, torch.zeros_like(same), direction, first) > got


@pytest.mark.parametrize("direction", ["i2t", "t2i", "both"])
def test_no_other_product_costs_nothing(direction):
    image, text = unit(3, 6).requires_grad_(), unit(3, 6, 1).requires_grad_()
    assert intra(image[:1], text[:1], 0.1, NONE[:1, :1], direction).item() == 0
    loss = intra(image, text, 0.1, torch.ones(3, 3, dtype=torch.bool), direction)
    loss.backward()
    assert loss.item() == 0
    assert image.grad.abs().max() == 0
    assert text.grad.abs().max() == 0


def test_equally_many_positives_and_negatives_weigh_the_same():
    image, text = unit(4, 6), unit(4, 6, 1)
    halves = [torch.tensor([2.0, 2, 0, 0]), torch.tensor([0.0, 0, 2, 2])]
    parts = [intra(image, text, 0.1, NONE[:4, :4], "i2t", half) for half in halves]
    torch.testing.assert_close(intra(image, text, 0.1, NONE[:4, :4], "i2t"), sum(parts) / 2)


def test_products_without_a_picture_neither_count_nor_push():
    image, text = unit(5, 6), unit(5, 6, 1)
    has = torch.tensor([True, True, False, True, False])
    same, weight = only_present(NONE, has, has)
    expected = intra(image[has], text[has], 0.1, NONE[:3, :3])
    torch.testing.assert_close(intra(image, text, 0.1, same, weight_N=weight), expected)


def test_without_a_mask_it_is_plain_info_nce():
    image, text = unit(5, 6), unit(5, 6, 1)
    torch.testing.assert_close(intra(image, text, 0.1, NONE, "i2t"), info_nce(image, text, 0.1))
    torch.testing.assert_close(intra(image, text, 0.1, NONE, "t2i"), info_nce(text, image, 0.1))
