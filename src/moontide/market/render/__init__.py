"""Pictures of a simulated shop: products drawn as SVG, rasterized to JPEG.

`looks` says what a product looks like, `objects` draws it, `shots` photographs it, `creatives` turns it
into an
advertisement and `raster` makes the bytes.
"""
