"""The click model: samples from logs, layers, models, training, metrics, calibration.

It sees vectors as frozen lookups and never reads the hidden truth. Open `samples.py` first, then `models.py`.
"""
