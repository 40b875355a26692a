"""What every room leans on: errors, settings, run folders, seeds, progress, safe pictures, statistics.

It knows nothing of products or models. Open `errors.py` first, then `runs.py`.
"""
