"""A/A tests: two equal arms, again and again: their p-values must be uniform, or no A/B test can be believed.

aa_tests            in the market: other days, splits, requests and chance in each test
shuffled_tests      one log, split again by other salts
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import kstest

from moontide.catalog.dataset import Dataset
from moontide.foundation.seeds import hash_share
from moontide.foundation.statistics import compare_ratios, wilson_interval
from moontide.market.policy import PopularityPolicy
from moontide.market.world import World
from moontide.studies.ablation_plot import COLORS, DOTS_PER_INCH, PAPER
from moontide.studies.abtest import Past, past_traffic
from moontide.studies.experiment import METRICS, ExperimentSettings, Outcome, run_experiment
from moontide.studies.grid import Cell, as_markdown, run_grid
from moontide.studies.plots import INK, MUTED, SERIES, STYLE, Curves
from moontide.studies.stopping import looks

AA_METRICS = (*METRICS, "CTR without CUPED")
TESTS_A_CELL = 10


def aa_tests(
    folder: Path,
    dataset: Dataset,
    num_tests: int = 200,
    settings: ExperimentSettings | None = None,
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Play two equal arms of the shop's earlier policy again and again; see `aa_summary`.

    Every test has its own split of the shoppers, requests and chance; only the catalog, the shoppers and
    their log are the same. Cells of ten tests stand in `folder`, so that an interrupted series goes on.
    """
    settings = settings or ExperimentSettings(num_requests=2_000, days=4)
    past = past_traffic(dataset)
    facts = {"dataset": dataset.fingerprint(), **settings.model_dump(), "tests": TESTS_A_CELL}
    cells = [
        Cell(f"aa-{number:03d}", facts | {"cell": number}) for number in range(-(-num_tests // TESTS_A_CELL))
    ]

    def compute(cell: Cell) -> dict[str, Any]:
        world = World.open(dataset)
        recent, clicks = world.memory.recent.copy(), world.memory.clicks.copy()
        tests = []
        for number in range(TESTS_A_CELL):
            seed = cell.settings["cell"] * TESTS_A_CELL + number
            world.memory.recent[:], world.memory.clicks = recent, clicks.copy()
            arms = [PopularityPolicy(world, 2 * seed + arm) for arm in (0, 1)]
            own = settings.but(salt=f"{settings.salt} {seed}")
            outcome = run_experiment(world, arms, own, seed, past.covariates)
            tests.append(_aa_test(outcome, settings))
        return {"tests": tests}

    rows = run_grid(folder, cells, compute, max_minutes=max_minutes)
    return aa_summary([test for row in rows for test in row["result"]["tests"]][:num_tests])


def _aa_test(outcome: Outcome, settings: ExperimentSettings) -> dict[str, float | bool]:
    plain = Outcome(outcome.names, outcome.arm_of, outcome.counts)
    found: dict[str, float | bool] = {
        name: outcome.compare(0, 1, *ratio).p_value
        for name, ratio in METRICS.items()
        if outcome.has_ratio(0, 1, *ratio)
    }
    found["CTR without CUPED"] = plain.compare(0, 1, "clicks").p_value
    rows = looks(outcome, settings.num_requests)
    found["stopped"] = any(row.is_crossed for row in rows)
    days = range(1, settings.days + 1)
    stands = [outcome.until(day) for day in days]
    peeked = [each.compare(0, 1, "clicks").p_value for each in stands if each.has_ratio(0, 1, "clicks")]
    found["peeked"] = min(peeked, default=1.0) < 0.05
    return found


def aa_summary(tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How uniform the p-values of A/A tests are.

    Returns:
        "table": a row a metric: tests, ks_p (Kolmogorov-Smirnov against uniform), share below 0.05 with its
        Wilson interval, mean; and a row for how often looks stopped, planned ones and peeking ones.
        "p_values": metric -> sorted p-values.
    """
    table, kept = [], {}
    for metric in AA_METRICS:
        values = np.array(sorted(test[metric] for test in tests if metric in test))
        if len(values):
            kept[metric] = values.tolist()
            row = {"what": metric, "tests": len(values), "ks_p": float(kstest(values, "uniform").pvalue)}
            table.append(
                row | {"mean": float(values.mean())} | _below(int((values < 0.05).sum()), len(values))
            )
    for name, what in (("stopped", "stopped at a planned look"), ("peeked", "p < 0.05 on any day (peeking)")):
        told = [bool(test[name]) for test in tests if name in test]
        if told:
            table.append({"what": what, "tests": len(told)} | _below(sum(told), len(told)))
    return {"table": table, "p_values": kept}


def _below(count: int, trials: int) -> dict[str, float]:
    share = wilson_interval(count, trials)
    return {"share": share.value, "low": share.low, "high": share.high}


def shuffled_tests(past: Past, num_tests: int = 200) -> dict[str, Any]:
    """A/A tests on one log: its shoppers are split by many salts and compared; see `aa_summary`.

    Costs nothing and needs no market, but all tests share one log: they check the split and the intervals,
    not what happens when policies run.
    """
    tests: list[dict[str, float]] = []
    busy = np.flatnonzero(past.impressions > 0)
    for number in range(num_tests):
        arm = np.array([hash_share(str(shopper), f"shuffle {number}") < 0.5 for shopper in busy.tolist()])
        a, b = busy[arm], busy[~arm]
        found = {}
        for name, top in (("CTR without CUPED", past.clicks), ("revenue (RPM)", past.revenue_cents)):
            found[name] = compare_ratios(top[a], past.impressions[a], top[b], past.impressions[b]).p_value
        tests.append(found)
    return aa_summary(tests)


def aa_markdown(results: Mapping[str, Any]) -> str:
    """The table of `aa_summary`."""
    return as_markdown(("what", "tests", "ks_p", "mean", "share", "low", "high"), results["table"])


def aa_figure(results: Mapping[str, Any], metrics: Sequence[str] = ("CTR", "revenue (RPM)")) -> Curves:
    """Sorted p-values of A/A tests over what uniform ones would be: a straight line if all is well."""
    series: dict[str, list[tuple[float, float]]] = {"uniform": [(0.0, 0.0), (1.0, 1.0)]}
    for metric in metrics:
        values = results["p_values"].get(metric, [])
        series[metric] = [((rank + 0.5) / len(values), p) for rank, p in enumerate(values)]
    most = max((len(points) for points in series.values()), default=0)
    return Curves(f"p-values of {most} A/A tests", series, "expected if uniform", "observed")


def aa_picture(results: Mapping[str, Any], metrics: Sequence[str] = ("CTR", "revenue (RPM)")) -> bytes:
    """A PNG that stands alone: histograms of the p-values, with the height that uniform ones have."""
    style: dict[Any, Any] = {
        name: COLORS.get(value, value) if isinstance(value, str) else value for name, value in STYLE.items()
    }
    style.update(PAPER)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3.4 * len(metrics), 2.4), dpi=DOTS_PER_INCH, layout="constrained")
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            values = results["p_values"].get(metric, [])
            axes.hist(values, bins=np.linspace(0, 1, 21), color=COLORS[SERIES[0]], rwidth=0.9)
            axes.axhline(len(values) / 20, color=COLORS[MUTED], lw=1, ls=(0, (3, 3)))
            axes.set_xlabel("p-value")
            axes.set_title(f"{metric}, {len(values)} A/A tests", fontsize=9.5, loc="left", color=COLORS[INK])
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()
