"""Stage 1: problems, gold answers and teacher traces in one form, training and held-out problems apart.

Reads   the `prepare` and `verifier` sections: a source of problems (built-in equations, a file, a folder, the Hub)
Writes  data/prepared/{sft,train,test}.jsonl (many traces: sft.parquet), fates.parquet, card.md, and a manifest that
        counts every row left out and why
Run     posttrain prepare

`sft` has {id, problem, completion}, one row a trace; `train` and `test` have {id, problem, answer} and the columns to
keep, one row a problem. No problem of the test set is in the other two, in other words either, unless params keep it:
its row in `test` says `contaminated` then. `fates.parquet` has every row of the sources, and what became of it:
`posttrain data --why`.
"""

import time
from typing import Any

from posttrain.data.card import card, markdown
from posttrain.data.golds import Golds
from posttrain.data.prepared import counted, every_rule, preparing, require_problems, require_sound, table_of
from posttrain.data.problems import TRAIN, Problems
from posttrain.data.rules import ordered
from posttrain.data.traces import Traces
from posttrain.data.written import write
from posttrain.judge.verifier import Verifier
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import beside, publish
from posttrain.outputs.run_log import log_run
from posttrain.params.schema import Params
from posttrain.paths import PREPARED


def run(params: Params) -> None:
    """Prepare and publish data/prepared."""
    began, made_from = time.monotonic(), Origin("prepare", params).record
    with preparing(made_from) as folder:
        problems = Problems(table_of(params, folder), params.prepare)
        require_sound(problems)
        with Verifier(params.verifier.timeout_s, 1.0, params.launch.reward_workers) as verifier:
            golds = Golds(verifier, folder / "verdicts.jsonl")
            for rule in every_rule(params, golds, folder):
                problems.apply(rule)
            require_problems(problems)
            traces = Traces(problems, golds, ordered(problems, TRAIN), folder)
            with beside(PREPARED) as out:
                counts = write(problems, traces, out)
                facts = made_from | {"rows": counts, "card": card(problems, traces)} | counted(problems, traces)
                (out / "card.md").write_text(markdown(facts), encoding="utf-8")
                publish(out, PREPARED, facts)
    log_run("prepare", seconds=time.monotonic() - began)
    print(f"prepare | {counts['train']} training problems with {counts['sft']} traces | {counts['test']} held out")
    for what, applied in (("", problems.applied), (" traces", traces.applied.values())):
        for done in (done for done in applied if done.rows_out):
            notes = list(dict.fromkeys(seen(example)[:80] for example in done.examples if "note" in example))[:5]
            shown = f", for instance {', '.join(map(repr, notes))}" if notes else ""
            print(f"prepare | left out: {done.rows_out}{what} {done.reason}{shown}")
    for noted in problems.noted.values():
        print(f"prepare | to look at: {len(noted.rows)} {noted.reason}")
    print(f"prepare | wrote {PREPARED}/ | next: posttrain sft")


def seen(example: dict[str, Any]) -> str:
    """What the rule saw of a row: its problem where it is like another one, and only how like is noted."""
    return str(example["problem"] if "like" in example else example["note"])
