"""A log with every defect that a log can have, and how many rows of each there are."""

from datetime import timedelta

import numpy as np
from planted_market import START

from moontide.catalog.dataset import Dataset, DatasetWriter

LEFT_OUT = {
    "unknown kind": 2,
    "no time": 3,
    "unknown product": 3,
    "no shopper": 1,
    "event id seen before": 3,
    "click before its impression": 1,
}
KEPT = {"click without an impression": 2, "unknown query": 1, "unknown creative": 1}


def event(number, seconds, kind, shopper="u1", product="p1", request=None, **fields):
    """One row; its request is its own unless named."""
    at = None if seconds is None else START + timedelta(seconds=seconds)
    row = {"event_id": f"e{number}", "kind": kind, "shopper_id": shopper, "product_id": product}
    return row | {"at": at, "request_id": request or f"r{number}", "position": 0} | fields


def write_small(path, rows, num_products=4):
    """A dataset of a few products and these events, in this order."""
    products = [
        {"product_id": f"p{code}", "title": "x", "category": ["all", f"kind {code % 2}"], "created_at": START}
        for code in range(1, num_products + 1)
    ]
    with DatasetWriter(path, "small") as writer:
        writer.put("products", products)
        writer.put("queries", [{"query_id": "q1", "text": "one"}, {"query_id": "q2", "text": "two"}])
        writer.append("events", rows)
    return Dataset.open(path)


def messy_rows():
    """Ten good impressions with a click and an order, and the defects of LEFT_OUT and KEPT."""
    rows = [event(n, 10 * n, "impression", query_id="q1", vector_version="v1") for n in range(8)]
    rows += [event(n, 10 * n, "impression", shopper="u2", product="p2") for n in (8, 9)]
    rows += [event(20, 12, "click", request="r1"), event(21, 30, "order", request="r1")]
    bad = [event(30, 5, "hover"), event(31, 5, None)]
    bad += [event(32, None, "impression"), event(33, None, "click"), event(34, None, "order")]
    bad += [event(35, 6, "impression", product="p99"), event(36, 6, "click", product=None)]
    bad += [event(37, 7, "order", product="gone"), event(38, 8, "impression", shopper=None)]
    bad += [rows[2], rows[2], rows[10] | {"at": START + timedelta(seconds=400)}]
    bad += [event(40, 29, "click", request="r3")]
    odd = [event(41, 45, "click", request="nowhere", product="p3"), event(42, 46, "click", product="p2")]
    odd[1] |= {"query_id": "q99", "creative_id": "c99"}
    unread = [event(50, 3, "search", product=None), event(51, None, "cart")]
    return rows + bad + odd + unread


def shuffled(rows, seed=0):
    """The same rows in another order."""
    return [rows[place] for place in np.random.default_rng(seed).permutation(len(rows))]


def assert_same_samples(one, other):
    """Every column, count and id of both is the same, to the type."""
    for name in vars(one):
        kept, found = getattr(one, name), getattr(other, name)
        if isinstance(kept, np.ndarray):
            assert kept.dtype == found.dtype, name
            np.testing.assert_array_equal(kept, found, err_msg=name)
    assert one.event_id.equals(other.event_id)
    assert (one.left_out, one.kept, one.versions) == (other.left_out, other.kept, other.versions)
    assert one.vocabulary == other.vocabulary
