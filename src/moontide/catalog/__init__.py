"""What is sold and searched: the records, the dataset folder, importers, checks and splits.

It knows nothing of models or shoppers' hidden tastes. Open `schema.py` first, then `dataset.py`.
"""
