"""One batch scored by each process's share of it, as TRL hands it out: `torchrun reward_table.py OUT.json`.

The verifier's workers import this file too, each as it starts, so what takes seconds is imported by `main`.
"""

import json
import sys
from pathlib import Path

from posttrain.params import schema
from posttrain.prompts import completion_text
from posttrain.worker import leave

GROUP = 8
GOLDS = ["x = 5", "\\frac{1}{2}", "x^2-9"]
# Longer and longer; some right, some wrong, one without end, one without form.
ANSWERS = ["x = 5", "1/2", "(x-3)(x+3)", "5^{(5^{(5^{(5^{5})})})}", "6", "0.5", "x^2+9", None]
REWARDS = {
    "accuracy": {"weight": 1.0},
    "format": {"weight": 0.1},
    "tag_count": {"weight": 0.05},
    "length": {"weight": 0.2},
    "reasoning_steps": {"weight": 0.1, "steps": 3},
    "cosine": {
        "weight": 0.1,
        "min_value_wrong": -1.0,
        "max_value_wrong": -0.5,
        "min_value_correct": 0.5,
        "max_value_correct": 1.0,
        "max_len": 12,
    },
    "repetition_penalty": {"weight": 0.1, "ngram_size": 2, "max_penalty": -1.0, "language": "en"},
    "soft_overlong_punishment": {"weight": 0.1, "max_completion_len": 9, "soft_punish_cache": 4},
}


def main(out: Path) -> None:
    from accelerate import PartialState
    from accelerate.utils import gather_object

    from posttrain.grpo.batch_rewards import BatchRewards
    from posttrain.rewards.scoring import Scoring

    state = PartialState(cpu=True)
    rows = [{"id": gold, "problem": gold, "answer": gold} for gold in GOLDS]
    texts = [
        completion_text("1. so\n2. so " * (place + 1), answer) if answer else "nothing declared"
        for _ in GOLDS
        for place, answer in enumerate(ANSWERS)
    ]
    share = len(texts) // state.num_processes
    mine = range(state.process_index * share, (state.process_index + 1) * share)
    rewards = schema.Rewards.model_validate(REWARDS)
    with Scoring(rewards, schema.Verifier(timeout_s=0.5, max_timeout_frac=1.0), workers=1) as scoring:
        table = {}
        for name in scoring.params:
            scores = BatchRewards(scoring, rows, GROUP).function(name)(
                completions=[[{"role": "assistant", "content": texts[number]}] for number in mine],
                completion_ids=[list(range(number % GROUP + 3)) for number in mine],
                number=[number // GROUP for number in mine],
            )
            table[name] = gather_object(scores)
    if state.is_main_process:
        out.write_text(json.dumps({"processes": state.num_processes, "table": table}))
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
