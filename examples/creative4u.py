"""Creative4U: a judge of two advertisements that gives its reasons, taught, then rewarded.

moontide market test-creatives --dataset data/market --impressions 2000 --to stats.parquet
moontide creative pairs --dataset data/market --stats stats.parquet --to pairs
python examples/creative4u.py pairs --start runs/encoder --steps 600 --rewarded 100 --to runs/judge
moontide creative judge a.jpg b.jpg --model runs/judge --title "red mug" --query "mug"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from moontide.creative.judge import Judge
from moontide.creative.metrics import judge_metrics
from moontide.creative.pairset import PairSet
from moontide.creative.schooling import school
from moontide.recipes import creative4u


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, help="folder of `moontide creative pairs`")
    parser.add_argument("--start", help="folder of an encoder or a Qwen-VL; default: a tiny new model")
    parser.add_argument("--steps", type=int, default=600, help="supervised steps")
    parser.add_argument("--rewarded", type=int, default=100, help="steps of reinforcement; 0: none")
    parser.add_argument("--judged", type=int, default=500, help="test pairs to judge in both orders")
    parser.add_argument("--to", type=Path, required=True, help="folder of the judge")
    asked = parser.parse_args()

    pair_set = PairSet.open(asked.pairs)
    plan = creative4u.training(asked.steps, max(1, asked.rewarded))
    school(pair_set, asked.to, plan.but(stage="both" if asked.rewarded else "sft"), asked.start)
    judge = Judge.load(asked.to)
    pairs = pair_set.pairs("test")[: asked.judged]
    duels = judge.duels(pairs, picture=pair_set.picture)
    found = judge_metrics(pairs, [one for duel in duels for one in (duel.forward, duel.backward)])
    print(
        f"right in both orders {found.strict.value:.3f}, over both orders {found.order_invariant.value:.3f}"
    )
    print(duels[0].forward.text)


if __name__ == "__main__":
    main()
