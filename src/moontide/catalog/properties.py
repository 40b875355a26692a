"""Attributes that a published data set joins into one text: "color:red,,size:S!!!M".

Paper: MOON 2.1 (paper reported for the marks; what becomes of a pair without a value is ours).
"""

from __future__ import annotations

from collections import Counter

from moontide.catalog.values import text_of

WITHOUT_VALUE = "attributes without a value"
WITHOUT_KEY = "values without an attribute"


def parse_properties(
    text: str | None,
    noted: Counter[str],
    pairs: str = ",,",
    colon: str = ":",
    several: str | None = "!!!",
) -> dict[str, list[str]]:
    """The values of each key, in the order of the text; a repeated key collects its values.

    A pair without a colon is a key without values. A value without a key is left out.

    Args:
        noted: counts both kinds, under `WITHOUT_VALUE` and `WITHOUT_KEY`.
        pairs, colon, several: what stands between pairs, between key and value (its first occurrence), and
            between the values of one key.

    Example:
        >>> noted = Counter()
        >>> parse_properties("a:b,,c:d!!!e,,f:g:h,,new", noted)
        {'a': ['b'], 'c': ['d', 'e'], 'f': ['g:h'], 'new': []}
        >>> dict(noted)
        {'attributes without a value': 1}
    """
    found: dict[str, list[str]] = {}
    for pair in (text or "").split(pairs):
        name, _, value = pair.partition(colon)
        key = text_of(name)
        parts = value.split(several) if several else [value]
        values = [one for part in parts if (one := text_of(part)) is not None]
        if key is None:
            noted[WITHOUT_KEY] += bool(values)
            continue
        noted[WITHOUT_VALUE] += not values
        own = found.setdefault(key, [])
        own += [one for one in dict.fromkeys(values) if one not in own]
    return found
