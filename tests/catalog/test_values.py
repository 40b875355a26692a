"""Cells of a shop's table: texts, money, times, categories."""

import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from moontide.catalog.values import (
    is_day_first,
    levels_of,
    money_mark,
    price_cents,
    text_of,
    texts_of,
    time_of,
    whole_cents,
)
from moontide.foundation.errors import CellError


def reason_of(function, *arguments) -> tuple[str, str]:
    with pytest.raises(CellError) as caught:
        function(*arguments)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize(
    "nothing", [None, "", "  ", "N/A", "null", "None", "-", "NaN", math.nan, "\x00\ufeff"]
)
def test_a_cell_that_says_nothing_is_none(nothing):
    assert text_of(nothing) is None


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("  two\u00a0 words\n", "two words"),
        ("Cafe\u0301", "Café"),
        (12.0, "12"),
        (1.5, "1.5"),
        (7, "7"),
        (b"caf\xc3\xa9", "café"),
        ("a\x07b", "ab"),
        ("日本", "日本"),
    ],
)
def test_texts_are_cleaned(cell, text):
    assert text_of(cell) == text


def test_lists_come_as_lists_or_as_json():
    assert texts_of(["a", None, " b "]) == ("a", "b") == texts_of('["a", "b"]')
    assert texts_of("[broken") == ("[broken",)
    assert texts_of(None) == ()


def test_categories_run_from_coarse_to_fine():
    assert levels_of(["Home", None, "Mugs"]) == ("Home", "Mugs")
    assert levels_of(["Home > Kitchen/Bath > Mugs"]) == ("Home", "Kitchen/Bath", "Mugs")
    assert levels_of(["Home/Kitchen"]) == ("Home", "Kitchen")
    assert levels_of([["Home", "Kitchen/Bath"]]) == ("Home", "Kitchen/Bath")
    assert levels_of([None]) == ()


@pytest.mark.parametrize(
    ("cell", "cents"),
    [
        ("$1,299.00", 129900), ("1.299,00 €", 129900), ("1 299,5", 129950), ("1'299.00 CHF", 129900),
        ("₹1,29,900", 12990000), ("12.50", 1250), ("12,5", 1250), ("0.125", 13), ("USD 5", 500),
        ("Rs. 7", 700),
        ("5,-", 500), (9.99, 999), (3, 300), (Decimal("1.005"), 101), ("1,299", 129900), ("free", None),
        ("", None), (None, None), (math.nan, None), ("0", 0),
    ],
)  # fmt: skip
def test_prices_become_cents(cell, cents):
    if cell == "free":
        assert reason_of(price_cents, cell) == ("bad_price", "'free' is not one price")
    else:
        assert price_cents(cell) == cents


@pytest.mark.parametrize("cell", ["-5", "(5.00)", "5.00-", "−3", -0.5, "$-2", "-$2"])
def test_a_price_below_zero_is_refused(cell):
    assert reason_of(price_cents, cell) == ("negative_price", f"the price {cell!r} is below 0")


@pytest.mark.parametrize("cell", ["10-20", "1.2.34", "12 apples", "two", "1,2,3"])
def test_what_is_no_single_price_is_refused(cell):
    assert reason_of(price_cents, cell)[0] == "bad_price"


def test_an_endless_price_is_refused():
    assert reason_of(price_cents, math.inf)[0] == "bad_price"
    assert reason_of(price_cents, "9" * 20) == ("bad_price", f"the price {'9' * 20!r} is too large")


def test_the_column_tells_what_one_price_does_not():
    assert money_mark(["1.299", "12,50"]) == ","
    assert price_cents("1.299", ",") == 129900
    assert money_mark(["1.299", "12.50"]) == "."
    assert price_cents("1.299", ".") == 130
    assert money_mark(["1.299", 5.0, None]) is None


def test_cents_are_whole():
    assert whole_cents("1250") == 1250 == whole_cents(1250.0)
    assert whole_cents(None) is None
    assert reason_of(whole_cents, "12.5") == ("bad_price", "'12.5' is not a whole number of cents")
    assert reason_of(whole_cents, "much") == ("bad_price", "'much' is not a whole number of cents")
    assert reason_of(whole_cents, "-1") == ("negative_price", "the price '-1' is below 0")


@pytest.mark.parametrize(
    "cell",
    ["2024-03-25", "2024/03/25", "25.03.2024", "03/25/2024", "2024-03-25T01:00:00+01:00", date(2024, 3, 25),
     datetime(2024, 3, 25), 1711324800, 1711324800000, "1711324800.0", "25.3.24"],
)  # fmt: skip
def test_times_are_read_as_utc(cell):
    assert time_of(cell) == datetime(2024, 3, 25, tzinfo=UTC)


def test_a_year_a_clock_and_nothing_are_times_too():
    assert time_of("2011") == time_of(2011.0) == datetime(2011, 1, 1, tzinfo=UTC)
    assert time_of("03/25/2024 14:30") == datetime(2024, 3, 25, 14, 30, tzinfo=UTC)
    assert time_of("n/a") is None


def test_the_column_tells_whether_days_come_first():
    assert is_day_first(["03/04/2024", "25/03/2024"])
    assert not is_day_first(["03/04/2024", None, 5])
    assert time_of("03/04/2024", day_first=True) == datetime(2024, 4, 3, tzinfo=UTC)
    assert time_of("03/04/2024") == datetime(2024, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize("cell", ["soon", "31/31/2024", "2024-13-01", "2024-03-25 25:00"])
def test_what_is_no_date_is_refused(cell):
    assert reason_of(time_of, cell) == ("bad_date", f"{cell!r} is not a date: write 2024-03-25")
