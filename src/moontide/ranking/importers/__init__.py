"""Public click logs as ranking samples: Taobao-MM, MicroLens MMCTR, TaobaoAd and KuaiRand as published.

    published files ──► read, bad rows counted ──► codes ──► parts frozen ──► SAMPLES/

    SAMPLES/  what `Samples.save` writes  marks.parquet  vectors/  rejected.parquet  import.json

Nothing is fetched: an importer reads files that are there, and the licenses of the data stay with them.

Memory. Files are read in batches (Parquet, page by page) or by DuckDB, which holds at most `csvs.MEMORY` and
spills the rest into a scratch folder beside the target; the folder goes when the import ends, well or not. So
what grows in memory is the result and not the source: about 60 bytes an impression, the texts of ids, and a
behavior once for each shopper, 17 bytes in the folder and up to 60 while it is put together. Vectors are
gathered in a mapped file in the scratch folder, one byte a number where they are published as int8. `limit`
bounds the impressions, and with them shoppers, behaviors and products, since only those that these
impressions name are kept; `history` bounds the behaviors of a shopper. Rejected rows are all counted, and the
first thousand of each reason written. The whole of Taobao-MM (99 M impressions, 8.8 M shoppers with 1,000
behaviors each) is 150 GB of behaviors: take `limit` or `history`, or a machine that has them.
"""
