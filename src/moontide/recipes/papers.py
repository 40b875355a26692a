"""The published systems and where each is found: the one source of `moontide papers` and `docs/papers.md`.

A system is found five ways: its file in `recipes/`, its row here, the `Paper:` line of every docstring that
implements one of its formulas, `moontide papers NAME`, and its script in `examples/`.
"""

from __future__ import annotations

from dataclasses import dataclass

from moontide.foundation.errors import DataError

NOT_YET = "not yet"
HEADER = """# The published systems, and where each is found here

One row a system. "not yet" means that nothing of it is built. `moontide papers` prints this table,
`moontide papers NAME` one row. Tags in recipes and docstrings: `paper` (stated in the paper), `analog NAME`
(taken from the named neighboring paper or its public code), `ours` (our design, measured here), `guess`.

"""


@dataclass(frozen=True)
class Paper:
    """One published system: what of it is built, where, and what could not be known without the paper."""

    name: str
    arxiv: str
    recipe: str = NOT_YET
    parts: str = NOT_YET
    tests: str = "–"
    unknown: str = "–"


PAPERS = (
    Paper(
        "MOON Embedding",
        "2511.11305",
        "recipes/moon_embedding.py",
        "pretraining on catalog questions; bidirectional attention, masked mean pooling, Matryoshka; "
        "first stage with nine pairings in cycles of 26 steps; second stage: four cleaning steps, hard "
        "negatives with gradient, a queue, all ranks, circle loss; CUBE over items and past queries, each "
        "of its eight inputs a switch; exchange rate, scaling study, a ladder of our own through to AUC; "
        "representation center; image-search recall; `moontide run moon_embedding` from pairs to an A/B",
        "tests/encoder, tests/center, tests/ranking, tests/studies",
        "temperature, batch, prompts, Matryoshka widths, circle margin and scale, queue, the definition "
        "behind its recall, exchange rates and fits, weights and widths inside CUBE, what its five versions "
        "were",
    ),
    Paper(
        "MIM",
        "2502.00321",
        "recipes/mim.py",
        "pre-training by alignment of picture and title; C-SFT with space-time negatives, both readings "
        "of multi-level InfoNCE, slow keys and the triplet term as switches; CiUBM as CUBE without its "
        "query branch; `moontide run mim` from pairs to an A/B",
        "tests/encoder, tests/ranking",
        "every equation and table; what multi-level means; what CiUBM wires",
    ),
    Paper(
        "SimTier, MAKE",
        "2407.19467",
        "recipes/click_models.py",
        "histogram of the behaviors' similarities, with the top tier that the published pseudo-code "
        "drops; log counts with a learnable scale (analog MUSE); Vector and SimScore beside it; MAKE's "
        "passes over content alone, then one pass over ids, frozen or not",
        "tests/ranking",
        "tier count and normalization of the production model; whether its logit is a feature",
    ),
    Paper(
        "MUSE",
        "2512.07216",
        "recipes/click_models.py",
        "search of the long history by cosine, by category (SIM-hard) or by id (SIM-soft); SA-TA and SimTier "
        "over what was found; masks instead of a cosine of 0; importer of its public data",
        "tests/ranking",
        "which of code and equation the production model follows",
    ),
    Paper(
        "MOON",
        "2508.11999",
        "recipes/moon.py",
        "core-product regions, found by a trained detector, saliency or a vision-language model, the "
        "crop added; guided experts, hard, gated and additive; enlarged negatives; query mix 12 : 3 : 2; "
        "its zero-shot benchmark; heat-maps (ours)",
        "tests/encoder, tests/catalog",
        "grounding prompt, experts and top K, temperature, queue, attention direction, ablation numbers, "
        "how its heat-maps were made",
    ),
    Paper(
        "MOON2.0",
        "2511.12449",
        "recipes/moon2.py",
        "modality-driven experts with learned weights of the objectives, load balance, sparsity; three "
        "forms of every query, picture and title inside a product; co-augmentation with a procedural "
        "default and adapters for generative models; sample filter with decaying margin; its seven "
        "columns",
        "tests/encoder, tests/catalog",
        "experts and top K, both temperatures, rho, sigma, kappa, margins, the down-weight, number of "
        "added pictures, prompts and editing models",
    ),
    Paper(
        "MOON3.0",
        "2604.00513",
        "recipes/moon3.py",
        "a chain of attributes before `<emb>`, on either side; multi-head modality fusion; FIRE at several "
        "depths; cold start on catalog chains, then GRPO and InfoNCE on one pass with rewards for format, "
        "length, rank (three readings) and attributes; texts cached in the dataset by version; its table "
        "with texts off, shuffled, masked and from the catalog",
        "tests/encoder, tests/studies",
        "formulas of fusion and FIRE, tags, prompts, schema, budget, rewards and weights, whether there is a "
        "supervised warm-up, rates, group size, hardware, every ablation",
    ),
    Paper(
        "Creative4U",
        "2508.12628",
        "recipes/creative4u.py",
        "pairs from impressions and clicks, frozen and hashed; protocol of ten questions, strict and lenient "
        "parser; reasons by an annotator or rejection sampling; SFT and GRPO on TRL, LoRA for a published "
        "model; verdicts in both orders; ranking under a call budget; bandits from the judge's prior, "
        "replay; picture-only ranker and linear bandit (VAM-HBM) beside it",
        "tests/creative, tests/market, tests/studies",
        "tables, annotator, rewards and weights, pair-to-ranking procedure, every training setting",
    ),
    Paper("Personalized selling points", "1907.12375"),
)


def find(name: str) -> Paper:
    """The system called `name`, by any case and by the start of its name or its arXiv id.

    Raises:
        DataError: no system is called so.
    """
    wanted = name.lower().replace("_", " ")
    exact = [paper for paper in PAPERS if wanted in (paper.name.lower(), paper.arxiv)]
    close = exact or [paper for paper in PAPERS if paper.name.lower().startswith(wanted)]
    if not close:
        raise DataError(f"no system is called {name!r}: {', '.join(paper.name for paper in PAPERS)}")
    return close[0]


def as_markdown() -> str:
    """The table as `docs/papers.md` holds it."""
    lines = [
        "| system | arXiv | recipe | parts built | tests | what we could not know |",
        "|---|---|---|---|---|---|",
    ]
    for paper in PAPERS:
        recipe = paper.recipe
        if recipe != NOT_YET:
            recipe = f"[{recipe}](../src/moontide/{recipe})"
        lines.append(
            f"| {paper.name} | {paper.arxiv} | {recipe} | {paper.parts} | {paper.tests} | {paper.unknown} |"
        )
    return HEADER + "\n".join(lines) + "\n"
