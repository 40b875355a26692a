"""What a run found, as a report: reads the stages' results and writes RUN/report.html.

It measures nothing but sample searches. A stage that was left out says why in its section.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moontide.catalog.dataset import Dataset
from moontide.foundation.runs import Run
from moontide.foundation.seeds import stream
from moontide.foundation.statistics import Interval
from moontide.market.report import market_report
from moontide.serving.pipeline import Pipeline
from moontide.studies.plots import Bars, Curves, Figure, Intervals
from moontide.studies.report import (
    Number,
    ReportData,
    Result,
    Sample,
    Section,
    Table,
    curves_of,
    facts_of,
    write_report,
)

if TYPE_CHECKING:
    from moontide.studies.chain import Chain

NAMES = {
    "popularity": "popularity",
    "logistic": "logistic regression on counters",
    "id": "ids (DIN)",
    "id_attributes": "ids and attribute ids",
    "content": "ids and content vectors",
    "permuted": "ids and permuted vectors (control)",
    "truth": "the truth (limit)",
}
SHORT = {"id": "ids", "id_attributes": "attribute ids", "content": "content", "permuted": "permuted"}
SLICES = {"all": "all products", "new": "new products", "rare": "rare products"}
NUM_SAMPLES = 3  # searches shown of each kind


def write_findings(chain: Chain) -> Path:
    """Write the report of a run.

    Returns:
        its path.
    """
    run = chain.run
    results = {name: run.results(name) or {} for name, _ in chain.stages()}
    clicks, trial = results.get("clicks", {}), results.get("experiment", {})
    rows = chain.dataset.info.get("rows", {})
    sections = [
        _experiment_section(trial),
        _clicks_section(clicks),
        _retrieval_section(results),
        _training_section(run),
        _samples_section(run, chain.dataset),
        _market_section(chain.dataset),
    ]
    seconds = {name: found["stage_seconds"] for name, found in results.items() if "stage_seconds" in found}
    peak = max((found.get("peak_bytes", 0) for found in results.values()), default=0)
    sizes = {
        name: rows[name] for name in ("products", "images", "shoppers", "queries", "events") if name in rows
    }
    facts = facts_of(run, sizes, seconds, peak)
    facts["peak memory"] = f"{peak / 2**30:.2f} GiB in the largest process"
    data = ReportData(
        title=_headline(clicks, trial, results),
        name=f"moontide, {run.facts['recipe']}",
        lead=_lead(chain),
        numbers=_numbers(clicks, trial, results),
        sections=[section for section in sections if section is not None],
        facts=facts,
    )
    return write_report(run.path / "report.html", data)


def _interval(fields: dict[str, float]) -> Interval:
    return Interval(**fields)


def _gain(
    clicks: dict[str, Any], where: str, before: str = "id", after: str = "content"
) -> dict[str, Any] | None:
    wanted = (where, before, after)
    gains = clicks.get("gains", ())
    return next((g for g in gains if (g["slice"], g["before"], g["after"]) == wanted), None)


def _headline(clicks: dict[str, Any], trial: dict[str, Any], results: dict[str, Any]) -> str:
    """The finding in one sentence, no stronger than its interval."""
    if "compared" in trial:
        found = trial["compared"]["CTR"]
        lift, least = _interval(found["lift"]), found["resolvable_lift"]
        if found["p_value"] > 0.05 or not lift.excludes_zero:
            return f"No lift of click-through rate is resolved (less than {least:.0%} cannot be seen here)"
        moved = "raise" if lift.value > 0 else "lower"
        return f"Content vectors {moved} click-through rate by {abs(lift.value):.1%}"
    gain = _gain(clicks, "all")
    if gain is not None:
        difference = _interval(gain["difference"])
        moved = (
            "raise" if difference.low > 0 else "lower" if difference.high < 0 else "do not measurably change"
        )
        by = f" by {abs(difference.value):.4f}" if difference.excludes_zero else ""
        return f"Content vectors {moved} the click model's AUC{by}"
    row = _row(results, "title -> photo", "held-out")
    if row is None:
        return "The encoder is trained and the catalog embedded"
    return (
        f"A title finds its photo among {row['size']:,} held-out ones with recall@10 {row['recall@10']:.2f}"
    )


def _lead(chain: Chain) -> str:
    rows, market = chain.dataset.info.get("rows", {}), chain.dataset.info.get("market")
    is_drawn = market is not None and market["kind"] == "rendered"
    name = "a rendered market" if is_drawn else chain.dataset.info.get("name")
    text = f"Measured on {name}: {rows.get('products', 0):,} products"
    if rows.get("events"):
        text += f", {rows.get('shoppers', 0):,} shoppers, {rows['events']:,} logged events"
    if market:
        blind = (
            " In this control market shoppers ignore looks and words." if market["settings"]["blind"] else ""
        )
        return (
            f"{text}. Shoppers are simulated and react to what can be seen and read; no model sees their "
            f"tastes.{blind} One market and one training seed: intervals cover shoppers, not seeds."
        )
    return f"{text}."


def _numbers(clicks: dict[str, Any], trial: dict[str, Any], results: dict[str, Any]) -> list[Number]:
    numbers = []
    if "compared" in trial:
        for metric in ("CTR", "revenue (RPM)"):
            lift = _interval(trial["compared"][metric]["lift"])
            numbers.append(
                Number(f"{metric}, lift", f"{lift.value:+.1%}", f"{lift.low:+.1%} to {lift.high:+.1%}")
            )
    for where in ("all", "new"):
        gain = _gain(clicks, where)
        if gain is not None and math.isfinite(gain["difference"]["value"]):
            difference = _interval(gain["difference"])
            note = f"{difference.low:+.4f} to {difference.high:+.4f}, over ids"
            numbers.append(Number(f"AUC, {SLICES[where]}", f"{difference.value:+.4f}", note))
    gain = _gain(clicks, "all")
    if gain is not None and "closed" in gain:
        numbers.append(Number("gap to the truth closed", f"{gain['closed']:.0%}", "of AUC, over ids"))
    row = _row(results, "title -> photo", "held-out")
    if row is not None:
        note = f"{row['size']:,} held-out products, chance {row['chance@10']:.2f}"
        numbers.append(Number("title finds photo, recall@10", f"{row['recall@10']:.2f}", note))
    return numbers[:6]


def _row(results: dict[str, Any], protocol: str, gallery: str) -> dict[str, Any] | None:
    table = results.get("retrieval", {}).get("table", ())
    return next((row for row in table if (row["protocol"], row["gallery"]) == (protocol, gallery)), None)


def _experiment_section(trial: dict[str, Any]) -> Section | None:
    title = "A/B in the market"
    if not trial:
        return None
    if "skipped" in trial:
        return Section(title, trial["skipped"])
    columns = ("arm", "shoppers", "requests", "impressions", "clicks", "CTR", "orders", "RPM")
    rows = [
        {
            "arm": NAMES[row["arm"]],
            **{name: int(row[name]) for name in ("shoppers", "requests", "impressions", "clicks", "orders")},
            "CTR": row["ctr"],
            "RPM": row["rpm"],
        }
        for row in trial["arms"]
    ]
    compared = trial["compared"]
    lines = [
        {
            "metric": metric,
            "ids": found["before"] * (10 if "RPM" in metric else 1),
            "content": found["after"] * (10 if "RPM" in metric else 1),
            "lift": _interval(found["lift"]),
            "p-value": found["p_value"],
            "smallest lift that can be seen": found["resolvable_lift"],
        }
        for metric, found in compared.items()
    ]
    formats = {"lift": "+.1%", "p-value": ".2g", "smallest lift that can be seen": ".1%"}
    figure = Intervals(
        "Lift of content over ids",
        {metric: _interval(found["lift"]) for metric, found in compared.items()},
        x_label="relative change",
        value_format="+.1%",
    )
    text = (
        "Shoppers were split by a hash of their id; each arm has its own click model, its own memory of what "
        "happened, and its share of every budget. All else is the same: candidates, a floor on the "
        "relevance of words, auction, random creatives. The true chance of a click is known to the market "
        "alone; it is the same comparison with less noise."
    )
    tables = [
        Table(columns, rows, "Arms", formats={"CTR": ".2%", "RPM": ".2f"}),
        Table(
            list(lines[0]),
            lines,
            "Content against ids",
            formats=formats,
            note="95 % intervals, by shopper; what clicks in the log explain is taken out (CUPED).",
        ),
        *_slice_tables(trial),
    ]
    return Section(title, text, tables, [figure])


def _slice_tables(trial: dict[str, Any]) -> list[Table]:
    """CTR by slice, and what the planned looks decided."""
    tables = []
    rows = [
        {
            "slice": row["slice"],
            "clicks": int(row["clicks_before"] + row["clicks_after"]),
            "lift of CTR": _interval(row["lift"]) if "lift" in row else None,
            "p-value": row.get("p_value"),
            "for all slices": row.get("p_adjusted"),
        }
        for row in trial.get("slices", ())
        if row["metric"] == "CTR"
    ]
    if rows:
        formats = {"lift of CTR": "+.1%", "p-value": ".2g", "for all slices": ".2g"}
        note = "Intervals hold for one slice at a time; the last column is adjusted for all (Holm)."
        tables.append(Table(list(rows[0]), rows, "By slice", formats=formats, note=note))
    stopping = trial.get("stopping", {})
    if stopping.get("looks"):
        looks = [
            {name: one[name] for name in ("day", "share", "z", "bound", "lift", "low", "high")}
            for one in stopping["looks"]
        ]
        formats = {"share": ".0%", "z": ".2f", "bound": ".2f"} | dict.fromkeys(
            ("lift", "low", "high"), "+.1%"
        )
        note = f"Planned before, one a day, with bounds that spend 5 % over all: {stopping['decision']}."
        tables.append(Table(list(looks[0]), looks, "Planned looks", formats=formats, note=note))
    return tables


def _clicks_section(clicks: dict[str, Any]) -> Section | None:
    title = "Click models"
    if "table" not in clicks:
        return Section(title, clicks["skipped"]) if "skipped" in clicks else None
    formats = {"AUC": ".4f", "GAUC": ".4f", "log loss": ".4f", "PCOC": ".3f"}
    rows, bounds = [], []
    for row in clicks["table"]:
        shown = {"slice": SLICES[row["slice"]], "model": NAMES[row["model"]], "clicks": row["clicks"]}
        shown |= {"AUC": row["auc"], "GAUC": row["gauc"]}
        if row["model"] == "truth":
            bounds.append(len(rows))
        elif row["model"] != "popularity":
            shown |= {"log loss": row["log_loss"], "PCOC": row["pcoc"]}
        rows.append(shown)
    gain = _gain(clicks, "all")
    above = ""
    if gain is not None:
        above = (
            f"The smallest paired difference of AUC this test period can resolve is {gain['resolvable']:.4f}."
        )
    columns = ("slice", "model", "clicks", "AUC", "GAUC", "log loss", "PCOC")
    best: dict[str, Literal["max", "min"]] = {"AUC": "max", "GAUC": "max", "log loss": "min"}
    note = (
        "AUC is exact, GAUC weighted by impressions; predictions are for an average place, the truth is the "
        "chance of a click by someone who looks. PCOC is predicted over observed clicks."
    )
    tables = [
        Table(columns, rows, "On the last part of the log", above, note, formats, best, "slice", bounds)
    ]
    lines = [
        {
            "slice": SLICES[g["slice"]],
            "from": NAMES[g["before"]],
            "to": NAMES[g["after"]],
            "AUC": _interval(g["difference"]),
            "GAUC": _interval(g["gauc"]),
            "resolvable": g["resolvable"],
            "gap closed": g.get("closed"),
        }
        for g in clicks["gains"]
    ]
    formats = {"AUC": "+.4f", "GAUC": "+.4f", "resolvable": ".4f", "gap closed": ".0%"}
    note = "Paired bootstrap over shoppers, 95 %. The gap is that between the first model and the truth."
    tables.append(Table(list(lines[0]), lines, "What was gained", note=note, formats=formats, groups="slice"))
    figures: list[Figure] = [
        Intervals(
            "AUC gained over ids",
            {
                f"{SHORT[g['after']]}, {SLICES[g['slice']]}": _interval(g["difference"])
                for g in clicks["gains"]
                if g["before"] == "id"
            },
            x_label="difference of AUC",
        )
    ]
    text = (
        f"Trained on {clicks['samples'] - clicks['impressions']:,} impressions in one pass, judged on the "
        f"{clicks['impressions']:,} that followed ({clicks['clicks']:,} clicks)."
    )
    return Section(title, text, tables, figures)


def _retrieval_section(results: dict[str, Any]) -> Section | None:
    table = results.get("retrieval", {}).get("table")
    if not table:
        return None
    models = {"MoonEncoder": table}
    if results.get("twotower", {}).get("table"):
        models["two towers"] = results["twotower"]["table"]
    names = ("recall@1", "recall@5", "recall@10")
    rows = []
    for place, row in enumerate(table):
        for model, found in models.items():
            line = {
                "search": row["protocol"],
                "gallery": f"{row['gallery']} ({row['size']:,})",
                "n": row["n"],
            }
            line |= {"model": model} | {name: found[place][name] for name in names}
            rows.append(line | {"chance@10": row["chance@10"]})
    columns = ("search", "gallery", "n", "model", *names, "chance@10")
    if len(models) == 1:
        columns = tuple(column for column in columns if column != "model")
    parameters = {name: results.get(stage, {}).get("parameters") for name, stage in
                  (("MoonEncoder", "posttrain"), ("two towers", "twotower"))}  # fmt: skip
    said = ", ".join(f"{name} {number:,}" for name, number in parameters.items() if number)
    shown = Table(
        columns, rows, "Recall", note=f"Any product of the right group is a hit. Parameters: {said}.",
        formats=dict.fromkeys((*names, "chance@10"), ".3f"), groups="search",
    )  # fmt: skip
    bars = Bars(
        "Recall@10",
        {
            model: {f"{row['protocol']}, {row['gallery']}": found[place]["recall@10"]
                    for place, row in enumerate(table)}
            for model, found in models.items()
        },
    )  # fmt: skip
    return Section("Finding products", "", [shown], [bars])


def _training_section(run: Run) -> Section | None:
    figures: list[Figure] = []
    for stage, title in (
        ("pretrain", "Pretraining on questions"),
        ("posttrain", "Post-training"),
        ("pairs0", "Second stage of post-training"),
        ("csft", "Supervised fine-tuning on behavior (C-SFT)"),
    ):
        curves = curves_of(run, stage, ["loss"], title, "loss")
        if any(curves.series.values()):
            figures.append(curves)
    arms = {
        name: [(line["step"], line["loss"]) for line in run.metrics(f"ranking-{name}") if "loss" in line]
        for name in ("id", "content", "permuted")
    }
    arms = {SHORT[name]: points for name, points in arms.items() if points}
    if arms:
        figures.append(Curves("Click models", arms, "step", "log loss, mean of 50 steps"))
    return Section("Training", figures=figures) if figures else None


def _samples_section(run: Run, dataset: Dataset) -> Section | None:
    """Searches of the kind shoppers make, answered by the serving pipeline."""
    pipeline = Pipeline.load(run.path)
    samples = []
    for text, image, right in _questions(dataset):
        answer = pipeline.search(text, image, num=6)
        results = [
            Result(
                pipeline.image(shown.image_id) if shown.image_id else None,
                f"{shown.title} ({shown.relevance:.2f})",
                shown.product_id in right if right else None,
            )
            for shown in answer.products
        ]
        samples.append(Sample(text, image, results))
    if not samples:
        return None
    text = (
        "Organic results of the serving pipeline for a stranger, cosine in brackets. The pictures searched "
        "with are none of the shop's own."
    )
    return Section("Sample searches", text, samples=samples)


def _questions(dataset: Dataset) -> list[tuple[str | None, bytes | None, set[str]]]:
    """Text, picture and right products (of the same group, where the product searched for is known)."""
    if not dataset.has("queries"):
        titles = dataset.table("products", ["title"]).column(0).to_pylist()
        picked = stream(0, "sample searches").choice(
            len(titles), min(NUM_SAMPLES, len(titles)), replace=False
        )
        return [(titles[at], None, set()) for at in picked.tolist()]
    rng, queries = stream(0, "sample searches"), dataset.queries()
    splits = dataset.table("splits").to_pylist()
    held = {row["product_id"]: row["group_id"] for row in splits if row["split"] == "test"}
    questions: list[tuple[str | None, bytes | None, set[str]]] = []
    texts = [query.text for query in queries if query.text and not query.image_id and " " in query.text]
    for at in rng.permutation(len(texts))[:NUM_SAMPLES].tolist():
        questions.append((texts[at], None, set()))
    pictured = [
        query
        for query in queries
        if query.image_id and not query.text and query.image_id.removeprefix("q-") in held
    ]
    for at in rng.permutation(len(pictured))[:NUM_SAMPLES].tolist():
        image_id = pictured[at].image_id or ""
        group = held[image_id.removeprefix("q-")]
        right = {product for product, other in held.items() if other == group}
        questions.append((None, dataset.images[image_id], right))
    return questions


def _market_section(dataset: Dataset) -> Section | None:
    if not dataset.has("events"):
        return None
    rows = [{"marginal": line.name, "here": line.value, "public data": line.public or None}
            for line in market_report(dataset)]  # fmt: skip
    shown = Table(("marginal", "here", "public data"), rows, "Marginals of the log")
    return Section("The log", tables=[shown])
