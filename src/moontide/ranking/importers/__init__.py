"""Public click logs as ranking samples: Taobao-MM, MicroLens MMCTR, TaobaoAd and KuaiRand as published.

    published files ──► read, bad rows counted ──► codes ──► parts frozen ──► SAMPLES/

    SAMPLES/  what `Samples.save` writes  marks.parquet  vectors/  rejected.parquet  import.json

Nothing is fetched: an importer reads files that are there, and the licenses of the data stay with them.

Memory. Files are read in batches (Parquet) or by DuckDB with a limit of memory and a place to spill (CSV), so
what is held is the result and not the source: about 60 bytes an impression, 17 bytes a behavior once a
shopper, one byte a number of an int8 vector (in a mapped file), and the texts of ids. `limit` bounds the
impressions, and with them shoppers, behaviors and products, since only those that these impressions name are
kept; `history` bounds the behaviors of a shopper. The whole of Taobao-MM (99 M impressions, 8.8 M shoppers
with 1,000 behaviors each) is 150 GB of behaviors: take `limit` or `history`, or a machine that has them.
What DuckDB spills, and vectors while they are gathered, lie in a scratch folder beside the target, which
goes when the import ends, well or not.
"""
