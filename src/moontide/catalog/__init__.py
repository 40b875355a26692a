"""What is sold and searched: the records, the dataset folder, importers, checks, splits,
regions, added views and frozen benchmarks.

It knows nothing of models or shoppers' hidden tastes. Open `schema.py` first, then `dataset.py`.
"""
