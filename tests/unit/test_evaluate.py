"""Statistics, the comparison of two models, the gate, and the process that runs lighteval."""

import json
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from posttrain.errors import InputError, PosttrainError
from posttrain.evaluation.evaluation import Written, joined, measured
from posttrain.evaluation.lighteval_process import Lighteval, lighteval_python, run_lighteval
from posttrain.evaluation.metrics import model_metrics, show, summary
from posttrain.evaluation.runner import Answered, Benchmark, Exam, Judged
from posttrain.evaluation.tasks import HELD_OUT, Task, of_documents, stated_answer
from posttrain.evaluation.votes import majorities
from posttrain.outputs.manifest import MANIFEST, publish, sha256, write_jsonl
from posttrain.params.schema import Params
from posttrain.paths import COMPLETIONS, EVALUATE_RESULTS, GRPO_MODEL, PREPARED, RUN_LOG, SFT_MODEL, UNPUBLISHED
from posttrain.rewards.scoring import Verifier
from posttrain.training.from_scratch import train_tokenizer
from stages import evaluate
from tests.held_locks import is_released
from tests.hostile import TOWER, block

ParamsWith = Callable[[dict[str, Any]], Params]

RIGHT = "<think>a</think><answer>5</answer>"
WRONG = "<think>a</think><answer>6</answer>"
BARE = "5"

PROBLEMS = [
    {"id": "a", "problem": "Solve: 2x + 1 = 11", "answer": "x = 5"},
    {"id": "b", "problem": "Solve: 3x - 5 = 10", "answer": "x = 5"},
]


def answered(*rows: list[str], lengths: list[int] | None = None) -> list[Written]:
    """Completions of each problem, the first of each ended by itself."""
    return [Written(texts, [True] + [False] * (len(texts) - 1), lengths or [3] * len(texts)) for texts in rows]


def theirs(*correct: list[float], **metrics: float) -> Judged:
    return Judged(metrics, list(correct))


# Two problems, two completions each. SFT solves one of four, GRPO three of four.
WRITTEN = {"sft": answered([RIGHT, WRONG], [BARE, WRONG]), "grpo": answered([RIGHT, RIGHT], [RIGHT, BARE])}
VERDICTS = {
    "sft": theirs([1.0, 0.0], [0.0, 0.0], **{"pass@1": 0.25, "pass@2": 0.5}),
    "grpo": theirs([1.0, 1.0], [1.0, 0.0], **{"pass@1": 0.75, "pass@2": 1.0}),
}
TASK = Task(HELD_OUT, PROBLEMS)


def rows_and_metrics(
    verifier: Verifier, written: dict[str, list[Written]], verdicts: dict[str, Judged], task: Task = TASK
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    rows = joined(task, written, verdicts, verifier)
    return rows, measured(task, rows, verdicts, verifier)


# The comparison


def test_models_stand_next_to_each_problem(verifier: Verifier) -> None:
    rows = joined(TASK, WRITTEN, VERDICTS, verifier)
    assert [{key: row[key] for key in ("id", "problem", "answer")} for row in rows] == PROBLEMS
    assert rows[0]["sft"] == {
        "completions": [RIGHT, WRONG],
        "correct": [1.0, 0.0],
        "finished": [True, False],
        "tokens": [3, 3],
        "rewards": [
            {"accuracy": 1.0, "format": 1.0},
            {"accuracy": 0.0, "format": 1.0},
        ],
        "lighteval": [1.0, 0.0],
        "differs": [None, None],
    }
    assert rows[1]["grpo"]["rewards"] == [
        {"accuracy": 1.0, "format": 1.0},
        {"accuracy": 0.0, "format": 0.0},  # nothing declared
    ]


def test_every_metric_of_a_model_by_hand(verifier: Verifier) -> None:
    """Four problems x four samples, replayed; each number worked out beside it."""
    problems = [{"id": str(n), "problem": f"p{n}", "answer": "5"} for n in range(4)]
    written = [
        Written([RIGHT, RIGHT, WRONG, WRONG], [True] * 4, [10, 20, 30, 40]),
        Written([RIGHT, RIGHT, RIGHT, RIGHT], [True] * 4, [10, 10, 10, 10]),
        Written([WRONG, WRONG, WRONG, BARE], [True, True, True, False], [50, 50, 50, 99]),
        Written([BARE, BARE, RIGHT, "<answer>7</answer>"], [True] * 4, [4, 4, 60, 6]),
    ]
    verdicts = {"m": theirs([1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], **{"pass@1": 0.375})}
    _, found = rows_and_metrics(verifier, {"m": written}, verdicts, Task(HELD_OUT, problems))
    low, high = found["m"].pop("pass@1_low"), found["m"].pop("pass@1_high")
    assert 0 <= low < 7 / 16 < high <= 1
    assert found["m"] == {
        "pass@1": 7 / 16,  # 2 + 4 + 0 + 1 right of 16
        # 1 - C(4-c, k) / C(4, k) with c = 2, 4, 0, 1, and their mean
        "pass@2": pytest.approx((5 / 6 + 1 + 0 + 1 / 2) / 4),
        "pass@3": pytest.approx((1 + 1 + 0 + 3 / 4) / 4),
        "pass@4": pytest.approx((1 + 1 + 0 + 1) / 4),
        "maj@4": pytest.approx((1 / 2 + 1 + 0 + 1 / 2) / 4),  # 5 5 6 6 ties; so do the 5 and the 7 of the last
        "format": pytest.approx(12 / 16),  # all but BARE, three times, and the answer without thoughts
        "undecided": 0,
        "finished": 15 / 16,
        "truncated": pytest.approx(1 / 16),
        # 4 4 6 10 10 10 10 10 20 30 40 50 50 50 60 99: 463 in all, the 8th and 9th 10 and 20, the 16th of 16 99
        "tokens": {"mean": 463 / 16, "median": 15.0, "p95": 99.0},
        "tokens_right": {"mean": 130 / 7, "median": 10.0, "p95": 60.0},  # 10 20 10 10 10 10 60
        "tokens_wrong": {"mean": 333 / 9, "median": 40.0, "p95": 99.0},  # 30 40 50 50 50 99 4 4 6
        "lighteval_pass@1": 0.375,
        "lighteval_differs": 1,  # the RIGHT of the last problem
    }


def test_what_lighteval_says_otherwise_is_counted_and_never_the_verdict(verifier: Verifier) -> None:
    # lighteval takes one WRONG for right and, in the other problem, one RIGHT for wrong.
    written = {"sft": answered([RIGHT, WRONG], [BARE, RIGHT])}
    rows, found = rows_and_metrics(verifier, written, {"sft": theirs([1.0, 1.0], [0.0, 0.0], **{"pass@1": 0.5})})
    metrics = found["sft"]
    assert (metrics["lighteval_differs"], metrics["lighteval_pass@1"], metrics["pass@1"]) == (2, 0.5, 0.5)
    assert [row["sft"]["correct"] for row in rows] == [[1.0, 0.0], [0.0, 1.0]]
    assert [row["sft"]["differs"] for row in rows] == [[None, "number"], [None, "number"]]


def test_a_benchmark_is_judged_by_lighteval_with_our_judge_beside(verifier: Verifier) -> None:
    documents = [
        {"id": "0", "problem": "Question: 2+3?", "plain": "Question: 2+3?", "golds": [" 2+3=<<2+3=5>>5\n#### 5"]},
        {"id": "1", "problem": "Prove it.", "plain": "Prove it.", "golds": ["see the proof above"]},
    ]
    task = of_documents(Benchmark("gsm8k", None, None), documents, verifier)
    assert [problem["answer"] for problem in task.problems] == ["5", None]
    written = {"m": answered(["So\n#### 5", "It is 5."], ["\\boxed{1}", "?"])}
    rows, found = rows_and_metrics(verifier, written, {"m": theirs([1, 1], [1, 0], extractive_match=0.75)}, task)
    assert rows[0]["m"]["judge"] == [True, None]  # nothing is stated in the second
    assert rows[1]["m"]["judge"] == [None, None]  # no gold that we read
    m = found["m"]
    assert (m["pass@1"], m["pass@2"], m["lighteval_extractive_match"]) == (0.75, 1.0, 0.75)
    assert (m["judge_stated"], m["judge_pass@1"], m["judge_differs"]) == (0.25, 0.25, 0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer>5</answer>", "5"),
        ("so \\boxed{3}, no: \\boxed{\\frac12}", "\\frac12"),
        ("ANSWER: $7$\nANSWER: 8.", "8"),
        ("The answer is 12.", "12"),
        ("<think>ANSWER: 3</think> hm", None),
        ("5", None),
    ],
)
def test_what_a_completion_of_a_benchmark_states(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["5", "5", "6", "7"], [1, 1, 0, 0], 1.0),
        (["6", "6", "5", "5"], [0, 0, 1, 1], 0.5),  # a tie, whichever came first
        (["5", "6", "7"], [1, 0, 0], 1 / 3),
        ([None, None, "5", "6"], [0, 0, 1, 0], 0.5),  # nothing declared is no vote
        ([None, None, None, "5"], [0, 0, 0, 1], 1.0),
        ([None, None], [0, 0], 0.0),
        (["1/2", "0.5", "7", "7"], [1, 1, 0, 0], 0.5),  # two writings of one answer
        (["8", "8.0", "x = 8", "5", "5"], [0, 0, 0, 1, 1], 0.0),
        (["\\sqrt{12}", "2\\sqrt{3}", "5"], [0, 0, 1], 0.0),
        (["???", "!!!", "5"], [0, 0, 1], 1 / 3),  # what nobody can read is equal to nothing
    ],
)
def test_majority_by_hand(verifier: Verifier, answers: list[str | None], correct: list[float], expected: float) -> None:
    assert majorities([answers], [correct], verifier) == [pytest.approx(expected)]


def test_a_completion_without_a_verdict_is_wrong_and_counted(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "timeout_s", 0.1)
    monkeypatch.setattr(verifier, "_known", OrderedDict())
    task = Task(HELD_OUT, [{"id": "a", "problem": "?", "answer": "\\sqrt{13}"}])
    _, found = rows_and_metrics(verifier, {"sft": answered([block(TOWER)])}, {"sft": theirs([0.0])}, task)
    assert (found["sft"]["pass@1"], found["sft"]["undecided"]) == (0.0, 1)


def test_the_summary_by_hand(verifier: Verifier) -> None:
    metrics = summary(*rows_and_metrics(verifier, WRITTEN, VERDICTS), 0.2)
    assert (metrics["sft"]["pass@1"], metrics["grpo"]["pass@1"]) == (0.25, 0.75)
    # First problem 2/2 - 1/2, second 1/2 - 0/2: both gain 0.5. Two problems are no evidence.
    gain = metrics["gain"]
    assert gain["mean"] == 0.5
    assert gain["low"] < 0
    assert gain["p_value"] > 0.3
    assert metrics["verdict"] == "too few problems"
    assert metrics["gate"] == {"min_gain": 0.2, "passed": False}
    assert (metrics["problems"], metrics["samples_per_problem"]) == (2, 2)
    assert "clean" not in metrics["grpo"]
    assert "clean_gain" not in metrics


def test_a_base_is_a_row_and_sft_is_compared_with_it(verifier: Verifier, capsys: pytest.CaptureFixture[str]) -> None:
    written = {"base": answered([WRONG, BARE], [BARE, WRONG]), **WRITTEN}
    verdicts = {"base": theirs([0.0, 0.0], [0.0, 0.0]), **VERDICTS}
    metrics = summary(*rows_and_metrics(verifier, written, verdicts), None)
    without = summary(*rows_and_metrics(verifier, WRITTEN, VERDICTS), None)
    assert list(metrics)[:3] == ["base", "sft", "grpo"]
    gain = metrics["sft_gain"]
    assert (gain["mean"], gain["verdict"]) == (0.25, "too few problems")
    assert gain["low"] < 0 < gain["high"]
    assert {key: value for key, value in metrics.items() if key not in ("base", "sft_gain")} == without
    show(metrics)
    printed = capsys.readouterr().out
    assert "evaluate | base | pass@1 0.000 | pass@2 0.000 | maj@2 0.000" in printed
    assert "evaluate | SFT over the base too few problems: pass@1 +0.250 [" in printed


def made(correct: dict[str, list[list[float]]], flagged: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of models that earned these verdicts, the first problems flagged as seen in training."""
    count = len(next(iter(correct.values())))
    rows = [
        {
            "id": str(n),
            **({"contaminated": True} if n < flagged else {}),
            **{
                name: {
                    "completions": [RIGHT if one else WRONG for one in all_of[n]],
                    "correct": [float(one) for one in all_of[n]],
                    "finished": [True] * len(all_of[n]),
                    "tokens": [3] * len(all_of[n]),
                    "rewards": [{"accuracy": one, "format": 1.0} for one in all_of[n]],
                    "differs": [None] * len(all_of[n]),
                }
                for name, all_of in correct.items()
            },
        }
        for n in range(count)
    ]
    return rows, correct


def summarised(verifier: Verifier, correct: dict[str, Any], min_gain: float | None, flagged: int = 0) -> dict[str, Any]:
    rows, _ = made(correct, flagged)
    return summary(rows, {name: model_metrics(rows, name, {}, verifier) for name in correct}, min_gain)


@pytest.mark.parametrize(
    ("sft", "grpo", "min_gain", "claim", "passed"),
    [
        # Each of 24 problems gains 1/2.
        ([[0, 0, 0, 1]] * 24, [[0, 1, 1, 1]] * 24, 0.5, "improved", True),
        ([[0, 0, 0, 1]] * 24, [[0, 1, 1, 1]] * 24, 0.6, "improved", False),
        ([[0, 0, 0, 1]] * 19, [[0, 1, 1, 1]] * 19, 0.5, "too few problems", False),
        ([[1, 1]] * 24, [[0, 1]] * 24, 0.2, "regressed", False),
        ([[0, 1]] * 24, [[0, 1]] * 24, 0.0, "indistinguishable", False),
    ],
)
def test_the_summary_says_what_the_gate_will_say(
    verifier: Verifier, sft: list[list[float]], grpo: list[list[float]], min_gain: float, claim: str, passed: bool
) -> None:
    metrics = summarised(verifier, {"sft": sft, "grpo": grpo}, min_gain)
    assert metrics["verdict"] == claim
    assert metrics["gate"] == {"min_gain": min_gain, "passed": passed}
    assert metrics["gain"]["low"] <= metrics["gain"]["mean"] <= metrics["gain"]["high"]


def test_problems_that_training_has_seen_stand_apart(verifier: Verifier, capsys: pytest.CaptureFixture[str]) -> None:
    # 20 flagged problems are learnt by heart; the 30 clean ones get worse. The whole gains, the clean part does not.
    sft = [[0, 0]] * 20 + [[1, 0]] * 30
    grpo = [[1, 1]] * 20 + [[0, 0]] * 15 + [[1, 0]] * 15
    metrics = summarised(verifier, {"sft": sft, "grpo": grpo}, 0.1, flagged=20)
    assert metrics["grpo"]["clean"]["pass@1"] == pytest.approx(15 / 60)
    assert metrics["grpo"]["clean"]["problems"] == 30
    assert metrics["grpo"]["contaminated"]["pass@1"] == 1.0
    assert metrics["sft"]["contaminated"]["pass@1_high"] < 0.5
    assert metrics["gain"]["mean"] == pytest.approx(0.25)
    assert metrics["verdict"] == "improved"
    assert metrics["clean_gain"]["mean"] == pytest.approx(-1 / 4)
    assert metrics["gate"] == {"min_gain": 0.1, "passed": False}
    show(metrics)
    printed = capsys.readouterr().out
    assert "evaluate | grpo | clean: 30 problems, 0.250 [" in printed
    assert "without problems that training has seen, regressed: pass@1 -0.250" in printed
    # Nothing lost on the clean part: the gate holds. With no clean problem at all nothing is known of it.
    better = [[1, 1]] * 20 + [[1, 1]] * 30
    assert summarised(verifier, {"sft": sft, "grpo": better}, 0.1, flagged=20)["gate"]["passed"]
    assert not summarised(verifier, {"sft": sft, "grpo": better}, 0.1, flagged=50)["gate"]["passed"]


# The process. The interpreters are real programs, which do what lighteval's Python might.


def interpreter(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """LIGHTEVAL_PYTHON becomes an executable that runs `code`; its arguments are RUNNER SPEC OUT."""
    Path("fake.py").write_text(code, encoding="utf-8")
    program = Path("fake").absolute()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{Path("fake.py").absolute()}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("LIGHTEVAL_PYTHON", str(program))


def test_no_environment_names_the_command_that_makes_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTEVAL_PYTHON", raising=False)
    monkeypatch.setattr(sys, "prefix", str(project / "nowhere/.venv"))
    with pytest.raises(InputError, match="make setup") as caught:
        lighteval_python()
    assert caught.value.where == ".venv-lighteval/bin/python"
    monkeypatch.setenv("LIGHTEVAL_PYTHON", "/nowhere/python")
    with pytest.raises(InputError, match="make setup") as caught:
        run_lighteval({"tasks": []}, project, 5)
    assert caught.value.where == "/nowhere/python"


def test_the_environment_is_that_of_the_folder_else_the_one_beside_what_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(folder: Path) -> Path:
        python = folder / ".venv-lighteval/bin/python"
        python.parent.mkdir(parents=True)
        python.touch(mode=0o755)
        return python

    monkeypatch.setattr(sys, "prefix", str(project / "elsewhere/.venv"))
    monkeypatch.delenv("LIGHTEVAL_PYTHON", raising=False)
    beside = made(project / "elsewhere")
    assert lighteval_python() == beside
    own = made(project)
    assert lighteval_python() == own
    named = made(project / "named")
    monkeypatch.setenv("LIGHTEVAL_PYTHON", str(named))
    assert lighteval_python() == named


def test_the_runner_is_told_what_was_asked_and_answered(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(
        monkeypatch,
        "import json, sys\n"
        "spec = json.load(open(sys.argv[2]))\n"
        "done = {'metrics': {}, 'correct': [[1.0], [0.0]]}\n"
        "results = {task['name']: dict.fromkeys(spec['models'], done) for task in spec['tasks']}\n"
        "json.dump({'results': results, 'versions': {'spec': json.dumps(spec)}}, open(sys.argv[3], 'w'))\n",
    )
    answers = {"b": [Answered("p1", ["x"]), Answered("p2", ["y"])], "a": [Answered("p1", ["z"]), Answered("p2", ["w"])]}
    Path("gsm8k").mkdir()
    exams = [
        Exam(HELD_OUT, None, PROBLEMS, answers),
        Exam("gsm8k", Benchmark("gsm8k", Path("gsm8k"), 2), PROBLEMS, answers),
        Exam("own", None, PROBLEMS, answers),
    ]
    runner = Lighteval(project / "room", "Think.", 1, 60)
    verdicts, said = runner.judge(exams, {"b": Path("models/b"), "a": Path("models/a")})
    assert list(verdicts["own"]) == ["b", "a"]  # in the order that models are compared in, whatever JSON sorted
    told = json.loads(said["spec"])
    assert (told["work"], told["system"], told["num_samples"]) == ("judge", "Think.", 1)
    assert told["models"] == {"a": "models/a", "b": "models/b"}
    held_out, gsm8k, own = told["tasks"]
    assert held_out["answers"]["b"] == [{"prompt": "p1", "texts": ["x"]}, {"prompt": "p2", "texts": ["y"]}]
    assert (gsm8k["benchmark"], gsm8k["limit"], gsm8k["data_dir"]) == (True, 2, str((project / "gsm8k").resolve()))
    assert held_out["data_dir"] != own["data_dir"]  # `datasets` finds nothing else there
    lines = Path(own["data_dir"], "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{**PROBLEMS[0], "number": 0}, {**PROBLEMS[1], "number": 1}]


def test_the_runner_gets_the_spec_and_a_clean_environment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(
        monkeypatch,
        "import json, os, sys\n"
        "runner, spec, out = sys.argv[1:]\n"
        "answer = {'runner': runner, 'spec': json.load(open(spec)), 'environment': dict(os.environ)}\n"
        "json.dump(answer, open(out, 'w'))\n",
    )
    leaks = ("PYTHONPATH", "VIRTUAL_ENV", "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in leaks:
        monkeypatch.setenv(name, "/leak")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    answer = run_lighteval({"tasks": [{"data_dir": "/x"}]}, project, 60)
    assert Path(answer["runner"]).name == "lighteval_runner.py"
    assert Path(answer["runner"]).is_file()
    assert answer["spec"] == {"tasks": [{"data_dir": "/x"}]}
    assert [name for name in leaks if name in answer["environment"]] == []
    assert answer["environment"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert answer["environment"]["HF_HUB_OFFLINE"] == "1"


def test_a_runner_that_fails_shows_the_end_of_its_output(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(monkeypatch, "import sys\nfor n in range(100): print(f'line {n}.')\nsys.exit('no such model')\n")
    with pytest.raises(PosttrainError) as caught:
        run_lighteval({"tasks": []}, project, 60)
    said = str(caught.value)
    assert "exited with 1" in said
    assert "line 99." in said
    assert said.rstrip().endswith("no such model")
    assert "line 0." not in said
    assert caught.value.exit_code == 1
    # The whole of it is where the message says.
    assert str(RUN_LOG / "lighteval.log") in said
    assert "line 0." in (RUN_LOG / "lighteval.log").read_text(encoding="utf-8")


# A process that starts another one, which holds a lock for as long as it lives.
SPAWN = """
import os, subprocess, sys, time
child = '''
import fcntl, time
held = open("held", "w")
fcntl.flock(held, fcntl.LOCK_EX)
open("ready", "w").close()
time.sleep(30)
'''
print("loading the model", flush=True)
subprocess.Popen([sys.executable, "-S", "-c", child])
while not os.path.exists("ready"):
    time.sleep(0.01)
"""


def test_a_runner_that_takes_too_long_ends_with_all_it_started(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(monkeypatch, SPAWN + "time.sleep(30)\n")
    began = time.monotonic()
    with pytest.raises(PosttrainError, match="evaluate_timeout_s=3") as caught:
        run_lighteval({"tasks": []}, project, 3)
    assert time.monotonic() - began < 25
    assert Path("ready").exists(), "the child never started, so this shows nothing"
    assert is_released("held")
    assert "loading the model" in str(caught.value)


@pytest.mark.parametrize("code", [0, 7])
def test_what_a_runner_leaves_behind_ends_with_it(project: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    interpreter(monkeypatch, SPAWN + f"open(sys.argv[3], 'w').write('{{}}')\nsys.exit({code})\n")
    if code:
        with pytest.raises(PosttrainError, match="exited with 7"):
            run_lighteval({"tasks": []}, project, 60)
    else:
        assert run_lighteval({"tasks": []}, project, 60) == {}
    assert Path("ready").exists(), "the child never started, so this shows nothing"
    assert is_released("held")


# The stage


ANSWERS_FOR_THE_STAGE = """
import json, sys
spec = json.load(open(sys.argv[2]))
results = {}
for task in spec["tasks"]:
    results[task["name"]] = {
        name: {"metrics": {"pass@1": 0.5}, "correct": [[0.0] * len(one["texts"]) for one in rows]}
        for name, rows in task["answers"].items()
    }
json.dump({"results": results, "versions": {"lighteval": "0.13.0"}}, open(sys.argv[3], "w"))
"""


def published_inputs() -> None:
    for target in (PREPARED, SFT_MODEL, GRPO_MODEL):
        source = Path("work")
        source.mkdir()
        if target == PREPARED:
            write_jsonl(source / "test.jsonl", PROBLEMS)
        else:
            geometric_model(source, 0.2 if target == GRPO_MODEL else 0.1)
        parents = {str(SFT_MODEL): sha256(SFT_MODEL / MANIFEST)} if target == GRPO_MODEL else {}
        publish(source, target, {"parents": parents})


def results() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in EVALUATE_RESULTS.iterdir()}


def test_evaluate_end_to_end(
    project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = params_with({"evaluate.num_samples": 2, "evaluate.batch_size": 1, "evaluate.max_new_tokens": 200})
    published_inputs()
    interpreter(monkeypatch, ANSWERS_FOR_THE_STAGE)
    evaluate.run(params)
    metrics = json.loads((EVALUATE_RESULTS / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["verdict"] == "too few problems"
    assert metrics["grpo"]["finished"] == 1.0
    samples = [json.loads(line) for line in (EVALUATE_RESULTS / "samples.jsonl").read_text().splitlines()]
    assert [len(row["grpo"]["completions"]) for row in samples] == [2, 2]
    first = results()
    kept = sorted(COMPLETIONS.iterdir())
    assert len(kept) == 4  # a batch for each problem of each model
    # What is kept is read, and gives the same bytes as what is written anew, all of it or a part.
    written_at = [path.read_bytes() for path in kept]
    for lost in ([], kept[:1], kept):
        for path in lost:
            path.unlink()
        evaluate.run(params)
        assert results() == first
    assert [path.read_bytes() for path in sorted(COMPLETIONS.iterdir())] == written_at
    assert list(UNPUBLISHED.iterdir()) == []
    # A failure keeps what was there.
    interpreter(monkeypatch, "import sys\nsys.exit('no such model')\n")
    with pytest.raises(PosttrainError):
        evaluate.run(params)
    assert results() == first
    assert list(UNPUBLISHED.iterdir()) == []


@pytest.mark.parametrize(("missing", "stage"), [(PREPARED, "prepare"), (SFT_MODEL, "sft"), (GRPO_MODEL, "grpo")])
def test_evaluate_needs_the_outputs_before_it(
    project: Path, params_with: ParamsWith, missing: Path, stage: str
) -> None:
    published_inputs()
    missing.rename("elsewhere")
    with pytest.raises(InputError) as caught:
        evaluate.run(params_with({}))
    assert caught.value.where == str(missing)
    assert f"posttrain {stage}" in caught.value.do


def geometric_model(folder: Path, end_frac: float) -> None:
    """A model that ends with this probability at every step, whatever it has read, and else writes an `a`."""
    tokenizer = train_tokenizer(["Solve: 3x = 6, a"], 384)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Qwen2Config(vocab_size=len(tokenizer), **sizes, num_key_value_heads=1, max_position_embeddings=1024)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.fill_(1.0)  # so what the head sees is eight ones
        model.lm_head.weight.fill_(-10.0)
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("a")] = math.log(1 - end_frac) / 8
        model.lm_head.weight[tokenizer.eos_token_id] = math.log(end_frac) / 8
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
