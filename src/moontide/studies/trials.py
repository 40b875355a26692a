"""The three studies of live traffic from a run's folder: an A/B test, A/A tests, off-policy estimates.

Each takes plain values, writes its tables as Markdown and JSON into a folder, and gives the JSON back. Of a
run they read `ranking/NAME`, `samples` and `vectors`; its dataset must be a simulated market.

    TO/ab.json  ab.md
    TO/aa.json  aa.md  aa.png  aa/
    TO/off-policy.json  off-policy.md  logs/
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moontide.catalog.dataset import Dataset
from moontide.foundation.storage import write_bytes, write_json
from moontide.market.policy import OraclePolicy, PopularityPolicy
from moontide.market.world import World
from moontide.ranking.content import ContentTable
from moontide.ranking.samples import Samples
from moontide.ranking.score import ClickScorer
from moontide.ranking.train import Trained
from moontide.studies.aatest import aa_markdown, aa_picture, aa_tests, shuffled_tests
from moontide.studies.abtest import ab_markdown, ab_test, past_traffic
from moontide.studies.arms import ClickPolicy
from moontide.studies.experiment import ExperimentSettings
from moontide.studies.offpolicy import estimate_rows, estimates_markdown
from moontide.studies.offpolicy_market import Targets, log_rows, off_policy_study, summary_markdown
from moontide.studies.openbandit import open_bandit_rows


def click_targets(run: Path, names: Sequence[str]) -> dict[str, Callable[[World], ClickPolicy]]:
    """What makes each click model of a run into a policy of a world, as the log left it."""
    samples = Samples.load(run / "samples")

    def maker(name: str) -> Callable[[World], ClickPolicy]:
        reads = Trained.load(run / "ranking" / name).model.settings.reads_vectors
        vectors = ContentTable.load(run / "vectors") if reads else None

        def make(world: World) -> ClickPolicy:
            # Hundreds of requests are scored together here: PyTorch, not the graph of one request.
            scorer = ClickScorer.load(run / "ranking" / name, None, vectors, samples=samples, engine="torch")
            return ClickPolicy(name, scorer, world)

        return make

    return {name: maker(name) for name in names}


def ab_trial(
    run: Path,
    dataset: Dataset,
    to: Path,
    before: str = "id",
    after: str = "content",
    settings: ExperimentSettings | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Two click models of a run against each other; see `abtest.ab_results`."""
    settings = settings or ExperimentSettings(num_requests=80_000, days=14)
    world = World.open(dataset)
    policies = [make(world) for make in click_targets(run, (before, after)).values()]
    results = ab_test(dataset, policies, world, settings, seed)
    return _written(to, "ab", results, ab_markdown(results))


def aa_trial(
    dataset: Dataset,
    to: Path,
    num_tests: int = 200,
    settings: ExperimentSettings | None = None,
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """A/A tests in the market and on its log: {"market", "log"} of `aatest.aa_summary`; resumable."""
    results = {
        "market": aa_tests(to / "aa", dataset, num_tests, settings, max_minutes),
        "log": shuffled_tests(past_traffic(dataset), num_tests),
    }
    write_bytes(to / "aa.png", aa_picture(results["market"]))
    text = f"In the market\n\n{aa_markdown(results['market'])}\nOne log\n\n{aa_markdown(results['log'])}"
    return _written(to, "aa", results, text)


def off_policy_trial(
    run: Path,
    dataset: Dataset,
    to: Path,
    names: Sequence[str] = ("id", "content"),
    num_seeds: int = 10,
    settings: ExperimentSettings | None = None,
    open_bandit: Path | None = None,
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Estimators against the market's truth, on its log, and on the Open Bandit Dataset where given.

    Returns:
        {"market": `summary_rows`, "log": rows of the log's two targets, "open_bandit": rows}.
    """
    targets: Targets = {
        "ranking without chance": lambda world: PopularityPolicy(world, 1, epsilon=0.0),
        **click_targets(run, names),
        "truth": OraclePolicy,
    }
    rows = off_policy_study(to / "logs", dataset, targets, num_seeds, settings, max_minutes=max_minutes)
    own = [
        {"target": name, "truth": truth} | row
        for name, (logged, truth) in log_rows(dataset).items()
        for row in estimate_rows(logged)
    ]
    results: dict[str, Any] = {"market": rows, "log": own}
    parts = [summary_markdown(rows), estimates_markdown(own, ("target", "truth"))]
    if open_bandit is not None:
        results["open_bandit"] = open_bandit_rows(open_bandit)
        parts.append(estimates_markdown(results["open_bandit"], ("campaign", "log", "target", "truth")))
    return _written(to, "off-policy", results, "\n".join(parts))


def _written(to: Path, name: str, results: dict[str, Any], text: str) -> dict[str, Any]:
    write_json(to / f"{name}.json", results)
    write_bytes(to / f"{name}.md", text.encode())
    return results
