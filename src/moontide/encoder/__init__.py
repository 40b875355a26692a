"""Product and query -> vector: the model, its objectives, its training stages, its benchmark.

It never reads the hidden truth of a market. Open `model/encoder.py` first, then `stages/posttrain.py`, then
`evaluate.py`.
"""
