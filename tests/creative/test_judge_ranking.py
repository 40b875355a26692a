"""A product's creatives in a judge's order: each pair asked once, in both orders; errors name the picture."""

import pytest
from judge_parts import photo, small_judge

from moontide.creative.judge import Judge
from moontide.creative.judge_ranking import Contest
from moontide.foundation.errors import ImageError


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return Judge.load(small_judge(tmp_path_factory.mktemp("judge")), "cpu")


def contest(judge: Judge, images: list[bytes]) -> Contest:
    return Contest(judge, "Red shoe", (("gift", 3),), images, "p1")


def test_a_pair_is_asked_once_whatever_its_order_and_how_often(judge):
    asked = contest(judge, [photo(1), photo(2), photo(3)])
    first = asked.compare([(0, 1), (1, 0), (1, 2), (0, 1)])
    assert first[0] == pytest.approx(1 - first[1])
    assert first[0] == first[3]
    assert set(asked.duels) == {(0, 1), (1, 2)}
    before = dict(asked.duels)
    assert asked.compare([(2, 1)]) == [pytest.approx(1 - first[2])]
    assert asked.duels == before


def test_a_ranking_holds_every_creative_and_follows_the_candidates_when_relabeled(judge):
    images = [photo(1), photo(2), photo(3)]
    ranking = contest(judge, images).rank("all")
    assert sorted(ranking.order) == [0, 1, 2]
    turned = contest(judge, images[::-1]).rank("all")
    for number in range(3):
        assert turned.strength[2 - number] == pytest.approx(ranking.strength[number], abs=1e-4)


def test_an_unreadable_creative_is_named(judge):
    with pytest.raises(ImageError, match="creative B of pair 'p1: 1 and 2'"):
        contest(judge, [photo(1), b"no"]).compare([(0, 1)])
