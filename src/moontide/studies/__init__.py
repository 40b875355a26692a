"""What was gained: the chain of one run, comparisons with intervals, A/B in the market, the HTML report.

It may read a market's hidden truth, to measure against it. Open `chain.py` first.
"""
