"""Settings only: one file per paper, one function per size; `demo.py` is the default.

Every number says where it comes from: a paper, a neighboring paper (analog), our own measurement, or a guess.
"""
