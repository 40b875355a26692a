"""A simulated marketplace over any dataset: rendered products, shoppers, clicks, logs and the hidden truth.

It knows no encoder and no ranker; shoppers react to pixels, words, prices and positions. Open `build.py`
first, then `world.py`.
"""
