"""The legend of dimension letters.

In model and objective code a tensor's name ends in its dimensions: `query_BD` is (batch, width).

    B batch                 N candidates           L tokens            S behavior steps
    D width                 H heads                K width of a head   V vocabulary
    E experts               G rollouts of a group  P patches           F fields
    M modalities            O objectives           T tiers             I images
    W nested widths         R ranks, or rollouts   A action tokens

Elsewhere shapes are words: (batch, length, dim). A mask says what True means: `is_real_BL`.
"""
