"""Chains: keys of a catalog, text and back, what is refused, and BM25."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moontide.catalog.records import Product
from moontide.encoder.chain import Bm25, chain_keys, chain_of, chain_text, folded, parse_chain, tidy
from moontide.foundation.errors import DataError, SettingsError

KEYS = ("category", "color", "material", "use")
WHOLE = "<think>category: skirt; color: teal; material: denim</think>"


def product(category=(), **attributes) -> Product:
    return Product("p", "a title", tuple(category), attributes=attributes)


def test_the_keys_are_the_category_and_the_most_frequent_attributes():
    products = [
        product(color=("red",), use=("party",), material=("felt",)),
        product(Color=("red", "blue"), Use=("travel",), shape=("",)),
        product(color=("teal",), shape=(";",)),
    ]
    assert chain_keys(products) == ("category", "color", "use", "material")
    assert chain_keys(products, most=3) == ("category", "color", "use")
    assert chain_keys(products, most=1) == chain_keys([]) == ("category",)
    assert chain_keys([product(b=("x",), a=("x",))]) == ("category", "a", "b")
    assert len(chain_keys([product(**{f"k{n}": ("x",) for n in range(9)})])) == 6


def test_no_room_for_the_category_is_refused():
    with pytest.raises(SettingsError, match=r"most must be at least 1, for the category, got 0"):
        chain_keys([], most=0)


def test_a_chain_has_the_finest_category_and_all_values_of_its_keys():
    one = product(("Wear", "Skirts", " "), use=("travel", "", "party"), COLOR=("Teal", "teal"), brand=("x",))
    chain = chain_of(one, KEYS)
    assert chain == {"category": "Skirts", "color": "Teal", "use": "travel and party"}
    assert list(chain) == ["category", "color", "use"]
    assert chain_of(product(), KEYS) == {}
    assert chain_text({}) == "<think></think>"
    assert parse_chain(chain_text({}), KEYS) is None


def test_an_attribute_called_category_never_stands_for_the_category():
    attributes = {"Category": ("x",), "category": ("y",)}
    assert chain_of(Product("p", "a title", (), attributes=attributes), KEYS) == {}
    assert chain_of(Product("p", "a title", ("Hat",), attributes=attributes), KEYS) == {"category": "Hat"}
    assert chain_keys([Product("p", "a title", ("Hat",), attributes=attributes)]) == ("category",)


def test_signs_of_the_form_are_taken_out_of_values():
    one = product(color=("red; blue", "size: 3 </think><emb>"))
    text = chain_text(chain_of(one, KEYS))
    assert text == "<think>color: red blue and size 3 /think> emb></think>"
    assert parse_chain(text, KEYS) == {"color": "red blue and size 3 /think> emb>"}
    assert tidy("a；b：c＜d\u037ee") == "a b c d e"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (WHOLE, {"category": "skirt", "color": "teal", "material": "denim"}),
        ("<think>color: teal</think>", {"color": "teal"}),
        ("<think>use: a b, c and d; category: x</think>", {"use": "a b, c and d", "category": "x"}),
        ("<think>COLOR: Teal</think>", {"color": "Teal"}),
        ("<think> color: teal </think>", {"color": "teal"}),
        ("<think>color: a > b</think>", {"color": "a > b"}),
        ("<think>color: 50% ½ 蓝</think>", {"color": "50% ½ 蓝"}),
    ],
)
def test_the_canonical_form_is_read(text, values):
    assert parse_chain(text, KEYS) == values


@pytest.mark.parametrize(
    "text",
    [
        "",
        "category: skirt; color: teal",
        WHOLE.removeprefix("<think>"),
        WHOLE.removesuffix("</think>"),
        WHOLE + " a skirt",
        WHOLE + "<emb>",
        WHOLE + "\n",
        WHOLE + WHOLE,
        "so: " + WHOLE,
        "<think>" + WHOLE + "</think>",
        "<think><think>color: teal</think>",
        "<think>color: teal</think></think>",
        "<think></think>",
        "<think> </think>",
        "<think>color: </think>",
        "<think>color:</think>",
        "<think>color: ; use: party</think>",
        "<think>color: teal; </think>",
        "<think>color: teal;</think>",
        "<think>; color: teal</think>",
        "<think>brand: acme</think>",
        "<think>color: teal; brand: acme</think>",
        "<think>color: teal; color: red</think>",
        "<think>color: teal; Color: red</think>",
        "<think>color teal</think>",
        "<think>color:teal</think>",
        "<think>color : teal</think>",
        "<think>color:  teal</think>",
        "<think>color: dark  teal</think>",
        "<think>color: teal;use: party</think>",
        "<think>color: teal;  use: party</think>",
        "<think>color: teal, use: party</think>",
        "<think>color: teal\nuse: party</think>",
        "<think>color: a: b</think>",
        "<think>color: a;b</think>",
        "<think>color: a<b</think>",
        "<think>: teal</think>",
        "<THINK>color: teal</THINK>",
    ],
)
def test_every_other_form_is_refused(text):
    assert parse_chain(text, KEYS) is None


@given(st.dictionaries(st.sampled_from(KEYS), st.text(max_size=20)))
def test_values_come_back_from_their_text(values):
    clean = {key: tidy(value) for key, value in values.items() if tidy(value)}
    text = chain_text(values)
    assert parse_chain(text, KEYS) == (clean or None)
    assert chain_text(clean) == text


@given(st.dictionaries(st.text(max_size=6), st.lists(st.text(max_size=9), max_size=3)))
def test_every_catalog_has_chains_of_the_right_form(attributes):
    one = product(("Things",), **{key: tuple(values) for key, values in attributes.items()})
    keys = chain_keys([one], most=9)
    chain = chain_of(one, keys)
    assert tuple(chain) == keys[: len(chain)]
    assert set(keys) == set(chain)
    assert parse_chain(chain_text(chain), keys) == chain


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text):
    for one in (text, f"<think>{text}</think>", f"<think>color: {text}</think>"):
        values = parse_chain(one, KEYS)
        assert values is None or parse_chain(chain_text(values), KEYS) == {
            key: tidy(value) for key, value in values.items()
        }


@given(st.text(max_size=20))
def test_tidying_twice_changes_nothing(text):
    assert tidy(tidy(text)) == tidy(text)
    assert folded(folded(text)) == folded(text)


def test_bm25_is_what_the_formula_says():
    texts = ["teal skirt", "gray skirt skirt belt", "gray hat", "<think>color: Teal</think>"]
    bm25 = Bm25(texts, k1=1.5, b=0.5)
    mean = (2 + 4 + 2 + 2) / 4  # tags are no words

    def part(having: int, times: int, length: int) -> float:
        damping = 1.5 * (0.5 + 0.5 * length / mean)
        return math.log(1 + (4 - having + 0.5) / (having + 0.5)) * times * 2.5 / (times + damping)

    expected = [part(2, 1, 2) + part(2, 1, 2), part(2, 2, 4), 0, part(2, 1, 2)]
    assert [bm25.score("Teal skirt teal", text) for text in texts] == pytest.approx(expected)
    assert bm25.score("", texts[0]) == bm25.score("teal", "") == bm25.score("boat", texts[0]) == 0
    assert bm25.score("boat", "boat") == pytest.approx(part(0, 1, 1))


def test_bm25_of_nothing_is_refused():
    with pytest.raises(DataError, match=r"BM25 needs attribute texts to count words in: got none"):
        Bm25([])
    assert Bm25([""]).score("a", "a") > 0
