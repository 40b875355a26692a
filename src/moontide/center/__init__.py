"""Vectors at rest and in motion: versioned store, embedding jobs, lookup, filtered search.

It knows how to ask an encoder for vectors, not how one is trained. Open `store.py` first.
"""
