"""The command `moontide reason`: an encoder writes about products, once for each content."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from moontide.encoder.model.inputs import Form


def reason(
    dataset: Annotated[Path, typer.Option(help="dataset folder; reasoning.parquet is kept in it")],
    encoder: Annotated[str, typer.Option(help="folder of an encoder that reasons")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="product, creative or query; may be repeated; default: what is reasoned about when served"
        ),
    ] = None,
    form: Annotated[str, typer.Option(help="which parts of a product are shown")] = "title_image",
) -> None:
    """Write the reasoning that `moontide embed` uses; go on where an interrupted call stopped."""
    from moontide.catalog.console import counts_table
    from moontide.catalog.dataset import Dataset
    from moontide.encoder.model.encoder import MoonEncoder
    from moontide.encoder.model.inputs import FORMS
    from moontide.encoder.reasoned import served_kinds, write_reasoned
    from moontide.foundation.device import threads
    from moontide.foundation.errors import SettingsError
    from moontide.foundation.progress import console

    if form not in FORMS:
        raise SettingsError(f"no form is called {form!r}: the forms are {', '.join(FORMS)}")
    opened = Dataset.open(dataset)
    model = MoonEncoder(encoder)
    served = served_kinds(opened, model) if model.is_reasoner else ()
    kinds = tuple(kind or served or ("product",))
    with threads():
        counts = write_reasoned(opened, model, kinds, cast(Form, form))
    console.print(counts_table(f"Reasoning of {', '.join(kinds)} by {model.fingerprint()}", counts.lines()))
    if counts.written:
        console.print(
            f"{counts.mean_tokens:.1f} tokens a text, {counts.emb_share:.0%} ended with <emb>, "
            f"{counts.tokens_a_second:,.0f} tokens a second",
            highlight=False,
        )
    if unused := [one for one in kinds if one not in served]:
        side = model.backbone.settings.reasons
        console.print(
            f"not used by `moontide embed`: {', '.join(unused)} (this encoder is served with reasons={side})",
            highlight=False,
        )
