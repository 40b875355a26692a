"""Entities: the longest name wins, words are whole, scripts without spaces are searched by character."""

import numpy as np
import pytest

from moontide.catalog.entities import MAX_WORDS, Gazetteer, words_of
from moontide.catalog.records import Product

NAMES = Gazetteer(
    [
        ("Acme", "brand", None),
        ("Acme Works", "brand", None),
        ("red", "attribute", "color"),
        ("dark red", "attribute", "color"),
        ("T-Shirt", "category", None),
        ("\u7ea2", "attribute", "color"),
        ("\u7ea2\u8c46", "brand", None),
        ("WH-1000", "attribute", "model number"),
    ]
)


def found(text: str, names: Gazetteer = NAMES) -> list[str]:
    return [entity.text for entity in names.find(text)]


def test_the_longest_name_wins_and_case_and_punctuation_play_no_role():
    assert found("ACME WORKS dark-red t shirt, acme RED") == [
        "ACME WORKS",
        "dark-red",
        "t shirt",
        "acme",
        "RED",
    ]


def test_offsets_give_the_text_back_and_kinds_and_keys_are_told():
    text = "Stra\u00dfe \u2014 dark red Acme"
    entities = NAMES.find(text)
    assert [text[one.start : one.end] for one in entities] == [one.text for one in entities]
    assert [(one.kind, one.key) for one in entities] == [("attribute", "color"), ("brand", None)]


def test_a_name_inside_a_word_is_none():
    assert found("redder bored Acmes colored") == []


def test_a_text_that_ends_within_a_longer_name_has_the_shorter_one():
    assert found("dark") == []
    assert found("by Acme") == ["Acme"]


def test_chinese_names_are_found_inside_unbroken_text():
    assert found("\u65b0\u6b3e\u7ea2\u8c46Acme\u7ea2\u8272T-shirt") == [
        "\u7ea2\u8c46",
        "Acme",
        "\u7ea2",
        "T-shirt",
    ]


def test_accents_full_width_letters_and_vowel_signs_are_part_of_words():
    assert words_of("Caf\u00e9 \uff21\uff23\uff2d\uff25 \u0939\u093f\u0928\u094d\u0926\u0940 cafe\u0301") == (
        "caf\u00e9",
        "acme",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "caf\u00e9",
    )


@pytest.mark.parametrize("name", ["", "--", "n/a", "x", " ".join(["word"] * (MAX_WORDS + 1))])
def test_what_is_no_name_is_left_out(name):
    assert len(Gazetteer([(name, "brand", None)])) == 0


def test_brands_count_before_values_before_categories_and_models_are_identities():
    products = [
        Product("1", "a", ("Fruit", "Apple"), "Apple", {"taste": ("apple", "sweet"), "Model": ("X100",)}),
        Product("2", "", (), None, {}),
    ]
    names = Gazetteer.of(products)
    assert [(one.text, one.kind) for one in names.find("apple fruit sweet")] == [
        ("apple", "brand"),
        ("fruit", "category"),
        ("sweet", "attribute"),
    ]
    assert names.identities == {("apple",), ("x100",)}


def test_the_search_finds_what_a_slow_one_finds():
    rng = np.random.default_rng(0)
    vocabulary = [*"abcdef", "\u7ea2", "\u8c46"]
    phrases = {tuple(rng.choice(vocabulary, rng.integers(1, 4))) for _ in range(25)}
    phrases = {phrase for phrase in phrases if len(phrase) > 1 or not phrase[0].isascii()}
    names = Gazetteer([(" ".join(phrase), "brand", None) for phrase in sorted(phrases)])
    for _ in range(200):
        words = rng.choice(vocabulary, 12).tolist()
        expected, at = [], 0
        while at < len(words):
            size = max((n for n in range(1, 5) if tuple(words[at : at + n]) in phrases), default=0)
            size = min(size, len(words) - at)
            expected += [" ".join(words[at : at + size])] if size else []
            at += size or 1
        assert found(" ".join(words), names) == expected
