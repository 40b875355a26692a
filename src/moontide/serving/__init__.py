"""Answering a request: the pipeline, the HTTP API and the page.

It trains nothing. Open `pipeline.py` first, then `app.py`.
"""
