"""Choosing among the creatives of one product: a judge that compares two pictures and says why, and a bandit.

Counts of impressions and clicks become labeled pairs (`stats.py`, `pairs.py`), frozen as a pair set; a judge
learns to answer a protocol of ten questions about a pair (`protocol.py`, `judge.py`); its verdicts become a
ranking and a prior. It reads datasets and pair sets, and never the hidden truth of a market: who knows the
true rates (`studies`) hands them in. Open `records.py` first, then `pairs.py`, then `judge.py`.
"""
