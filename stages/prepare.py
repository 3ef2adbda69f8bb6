"""Stage 1: problems, gold answers and teacher traces in one form, training and held-out problems apart.

Reads   the `prepare` and `verifier` sections: a source of problems (built-in equations, a file, a folder, the Hub)
Writes  data/prepared/{sft,train,test}.jsonl and a manifest that counts every row left out and why
Run     posttrain prepare

`sft.jsonl` has {id, problem, completion}, one row a trace; `train.jsonl` and `test.jsonl` have {id, problem, answer}
and the columns to keep, one row a problem. No problem of the test set is in the other two.
"""

import time
from collections import Counter

from posttrain.data.problems import (
    BUILT_IN,
    Examples,
    built_in,
    cap,
    decontaminate,
    deduplicate,
    from_source,
    gradable,
    require_rows,
)
from posttrain.judge.verifier import Verifier
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import beside, publish, write_jsonl
from posttrain.outputs.run_log import log_run
from posttrain.params.schema import Params
from posttrain.paths import PREPARED


def run(params: Params) -> None:
    """Prepare and publish data/prepared."""
    began, made_from = time.monotonic(), Origin("prepare", params).record
    dropped: Counter[str] = Counter()
    examples: Examples = {}
    train, test = built_in(params) if params.prepare.dataset == BUILT_IN else from_source(params.prepare, dropped)
    if params.prepare.dataset == BUILT_IN or params.prepare.columns.answer is not None:
        with Verifier(params.verifier.timeout_s, 1.0, params.launch.reward_workers) as verifier:
            kinds = params.prepare.drop_golds
            train, test = (gradable(problems, kinds, verifier, dropped, examples) for problems in (train, test))
    test, train = deduplicate(test, dropped), deduplicate(train, dropped)
    train = cap(decontaminate(train, test, dropped), params.prepare.max_train, dropped)
    test = cap(test, params.prepare.max_test, dropped)
    require_rows(train, test, params.prepare, dropped)
    traces = [(problem, completion) for problem in train for completion in problem.completions]
    rows = {
        "sft": [{"id": p.id, "problem": p.text, "completion": completion} for p, completion in traces],
        "train": [p.row() for p in train],
        "test": [p.row() for p in test],
    }
    counts = {name: len(value) for name, value in rows.items()}
    with beside(PREPARED) as out:
        for name, value in rows.items():
            write_jsonl(out / f"{name}.jsonl", value)
        publish(out, PREPARED, made_from | {"rows": counts, "dropped": dict(+dropped), "examples": examples})
    log_run("prepare", seconds=time.monotonic() - began)
    print(f"prepare | {counts['train']} training problems with {counts['sft']} traces | {counts['test']} held out")
    for reason, number in sorted((+dropped).items()):
        shown = f", for instance {', '.join(map(repr, examples[reason]))}" if reason in examples else ""
        print(f"prepare | left out: {number} {reason}{shown}")
    print(f"prepare | wrote {PREPARED}/ | next: posttrain sft")
