"""Matching by words: weights, filters, and what is not found."""

import numpy as np
import pytest

from moontide.serving.words import WordIndex


def test_rare_words_count_more_and_known_words_share_the_score():
    index = WordIndex(["red mug", "red lamp", "red boot", "blue mug"])
    scores, rows = index.search("red mug", 4)
    assert rows.tolist() == [0, 3, 1, 2]  # `mug` is in two titles, `red` in three
    mug, red = np.log1p(4 / 2), np.log1p(4 / 3)
    assert scores == pytest.approx([1, mug / (mug + red), red / (mug + red), red / (mug + red)])


def test_unknown_words_play_no_role_and_alone_find_nothing():
    index = WordIndex(["Red Mug"])
    assert index.search("RED zzz", 3)[0].tolist() == [1.0]
    for text in ("zzz", "", "?!"):
        scores, rows = index.search(text, 3)
        assert len(scores) == len(rows) == 0


def test_a_filter_leaves_out_rows_but_not_weights():
    index = WordIndex(["red mug", "red lamp"])
    scores, rows = index.search("red mug", 2, np.array([False, True]))
    assert rows.tolist() == [1]
    assert 0 < scores[0] < 1
    assert index.search("red", 1)[1].tolist() == [0]
