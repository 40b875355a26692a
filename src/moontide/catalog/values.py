"""From what stands in a shop's cells to what a dataset stores: texts, money, times, categories.

A cell is a string (CSV), or a number, date or list (JSON lines, Parquet). What cannot be read raises a
`CellError` with a short reason. Nothing is guessed per cell that a whole column can settle: whether "1.299"
is a thousand and whether "03/04" is in April are read off the other cells (`money_mark`, `is_day_first`).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from moontide.foundation.errors import CellError

NOTHING = frozenset({"", "-", "n/a", "na", "nan", "none", "null", "nil", "<na>", "nat"})
MAX_CENTS = 10**15

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff]")
_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_CURRENCY = re.compile(r"[A-Z]{2,3}|Rs\.?|kr\.?|lei|zł|Kč|Ft|лв\.?|руб\.?|р\.|,-|\.-")
_DATE = re.compile(r"(\d{1,4})[-/. ](\d{1,2})[-/. ](\d{1,4})")
_YEAR = re.compile(r"(19|20)\d\d(\.0)?")
_EPOCH = re.compile(r"\d{9,13}(\.\d+)?")


def text_of(value: Any) -> str | None:
    """A cell as clean text (NFC, single spaces, no control characters), or None when it says nothing.

    Example:
        >>> text_of("  Blue\\u00a0 shirt\\x00 "), text_of("N/A"), text_of(3.0)
        ('Blue shirt', None, '3')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # an id column with one empty cell arrives as floats
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = _SPACE.sub(" ", _CONTROL.sub("", unicodedata.normalize("NFC", str(value)))).strip()
    return None if text.casefold() in NOTHING else text


def texts_of(value: Any) -> tuple[str, ...]:
    """A cell as several texts: a list, a JSON list in a string, or one text.

    Example:
        >>> texts_of('["red", "blue"]'), texts_of(["red", None]), texts_of("red")
        (('red', 'blue'), ('red',), ('red',))
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            pass
    cells = value if isinstance(value, (list, tuple)) else [value]
    return tuple(text for cell in cells if (text := text_of(cell)) is not None)


def levels_of(values: list[Any]) -> tuple[str, ...]:
    """The category path of one product, from coarse to fine.

    Several cells are one level each. A single cell is a list, or a path divided by `>`, else by `/`.

    Example:
        >>> levels_of(["Home > Kitchen > Mugs"]), levels_of(["Men", None, "Tops/Tees"])
        (('Home', 'Kitchen', 'Mugs'), ('Men', 'Tops/Tees'))
    """
    if len(values) > 1:
        return tuple(text for value in values if (text := text_of(value)) is not None)
    parts = texts_of(values[0])
    if len(parts) == 1:
        mark = ">" if ">" in parts[0] else "/"
        parts = tuple(text for part in parts[0].split(mark) if (text := text_of(part)) is not None)
    return parts


def money_mark(values: Iterable[Any]) -> str | None:
    """The decimal mark of a price column, "." or ",", voted by its cells; None where none tells.

    Example:
        >>> money_mark(["1.299", "12,50 €"]), money_mark(["1,299.00"]), money_mark(["1.299"])
        (',', '.', None)
    """
    votes = {".": 0, ",": 0}
    for value in values:
        found = _NUMBER.search(re.sub(r"[\s'’]", "", value)) if isinstance(value, str) else None
        mark = _own_mark(found.group()) if found else None
        if mark:
            votes[mark] += 1
    return None if votes["."] == votes[","] else max(votes, key=votes.__getitem__)


def _own_mark(digits: str) -> str | None:
    """The decimal mark of one number, where the number itself tells ("12,50", "1,299.00", "0.125")."""
    marks = [sign for sign in digits if sign in ".,"]
    if not marks:
        return None
    last = marks[-1]
    if len(set(marks)) == 2:
        return last
    if len(marks) > 1:
        return "," if last == "." else "."
    whole, part = digits.split(last)
    return last if len(part) != 3 or len(whole) > 3 or whole.startswith("0") else None


def price_cents(value: Any, mark: str | None = None) -> int | None:
    """A price in cents, halves rounded up; None for an empty cell.

    Args:
        value: a number in whole currency units, or a text with currency signs and thousands ("$1,299.00").
        mark: decimal mark of the column, for numbers that do not tell ("1.299"); None: those are thousands.

    Raises:
        CellError: `negative_price`, or `bad_price` when it is no single number.

    Example:
        >>> price_cents("$1,299.00"), price_cents("12,50 €"), price_cents(9.99)
        (129900, 1250, 999)
        >>> price_cents("1.299", mark="."), price_cents("1.299", mark=",")
        (130, 129900)
    """
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (int, float, Decimal)):
        return _cents(Decimal(str(value)), value)
    text = text_of(value)
    if text is None:
        return None
    bare = re.sub(r"[\s'’]", "", text)
    found = _NUMBER.findall(bare)
    if len(found) != 1:
        raise CellError("bad_price", f"{text!r} is not one price")
    before, after = bare.split(found[0], 1)
    is_negative = (
        before.startswith(("(", "-", "−")) or before.endswith(("-", "−")) or after.startswith(("-", "−"))
    )
    rest = _CURRENCY.sub("", before) + _CURRENCY.sub("", after)
    if any(unicodedata.category(sign) != "Sc" and sign not in "()-−+." for sign in rest):
        raise CellError("bad_price", f"{text!r} is not one price")
    return _cents(-Decimal(_plain(found[0], mark)) if is_negative else Decimal(_plain(found[0], mark)), text)


def _plain(digits: str, mark: str | None) -> str:
    """Digits with thousands marks taken out and the decimal mark as a point."""
    own = _own_mark(digits) or mark
    whole, _, part = digits.partition(own) if own and digits.count(own) == 1 else (digits, "", "")
    groups = re.split(r"[.,]", whole)
    if len(groups) > 1 and not (
        0 < len(groups[0]) <= 3 and all(len(group) in (2, 3) for group in groups[1:])
    ):
        raise CellError("bad_price", f"{digits!r} is not one price")
    return f"{''.join(groups)}.{part or 0}"


def _cents(amount: Decimal, shown: Any) -> int:
    try:
        cents = int((amount * 100).quantize(Decimal(1), rounding=ROUND_HALF_UP))
    except (InvalidOperation, ValueError, OverflowError):
        raise CellError("bad_price", f"{shown!r} is not one price") from None
    if cents < 0:
        raise CellError("negative_price", f"the price {shown!r} is below 0")
    if cents > MAX_CENTS:
        raise CellError("bad_price", f"the price {shown!r} is too large")
    return cents


def whole_cents(value: Any) -> int | None:
    """A price that is in cents already.

    Raises:
        CellError: `negative_price` or `bad_price`.
    """
    text = text_of(value)
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise CellError("bad_price", f"{text!r} is not a whole number of cents") from None
    if not amount.is_finite() or amount != int(amount):
        raise CellError("bad_price", f"{text!r} is not a whole number of cents")
    return _cents(amount / 100, text)


def is_day_first(values: Iterable[Any]) -> bool:
    """Whether a date column has days before months, told by cells like "25/03/2024"; False where none tells.

    Example:
        >>> is_day_first(["03/04/2024", "25/03/2024"]), is_day_first(["03/04/2024"])
        (True, False)
    """
    found = (_DATE.match(value.strip()) for value in values if isinstance(value, str))
    return any(12 < int(match[1]) <= 31 for match in found if match)


def time_of(value: Any, day_first: bool = False) -> datetime | None:
    """A time in UTC: a date or time, ISO text, "25.03.2024", "03/25/2024", a year, or an epoch.

    Dates with points have the day first. A time without a zone is taken for UTC. An epoch of
    9 to 10 digits is in seconds, a longer one in milliseconds.

    Raises:
        CellError: `bad_date`.

    Example:
        >>> time_of("2024-03-25").isoformat(), time_of("25.03.2024") == time_of(1711324800)
        ('2024-03-25T00:00:00+00:00', True)
    """
    if isinstance(value, datetime):
        return _utc(value)
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    text = text_of(value)
    if text is None:
        return None
    try:
        if _YEAR.fullmatch(text):
            return datetime(int(text[:4]), 1, 1, tzinfo=UTC)
        if _EPOCH.fullmatch(text):
            number = float(text)
            return datetime.fromtimestamp(number / 1000 if number >= 1e11 else number, UTC)
        match = _DATE.match(text)
        if match and len(match[1]) < 4:
            return _calendar(match, text, day_first)
        return _utc(datetime.fromisoformat(text.replace("/", "-")))
    except (ValueError, OverflowError, OSError):
        raise CellError("bad_date", f"{text!r} is not a date: write 2024-03-25") from None


def _calendar(match: re.Match[str], text: str, day_first: bool) -> datetime:
    first, second, year = (int(part) for part in match.groups())
    day, month = (first, second) if day_first or "." in match[0] else (second, first)
    clock = text[match.end() :].strip()
    parsed = time.fromisoformat(clock) if clock else time()
    return _utc(datetime.combine(date(year if year > 99 else 2000 + year, month, day), parsed))


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
