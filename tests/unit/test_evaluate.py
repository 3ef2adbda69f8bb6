"""Statistics, the comparison of two models, the gate, and the process that runs lighteval."""

import json
import math
import statistics
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
from posttrain.evaluation.lighteval_process import MODELS, lighteval_python, run_lighteval, spec
from posttrain.evaluation.lighteval_runner import cut_off
from posttrain.evaluation.metrics import join, model_metrics, show, summary
from posttrain.evaluation.votes import majorities
from posttrain.outputs.manifest import MANIFEST, publish, sha256, write_jsonl
from posttrain.params.schema import Params
from posttrain.paths import EVALUATE_RESULTS, GRPO_MODEL, PREPARED, RUN_LOG, SFT_MODEL, UNPUBLISHED
from posttrain.rewards.scoring import Verifier
from posttrain.training.from_scratch import train_tokenizer
from stages import evaluate
from tests.held_locks import is_released
from tests.hostile import TOWER, block
from tests.templates import TEMPLATES
from tests.trainers import learnt_checkpoint

ParamsWith = Callable[[dict[str, Any]], Params]

RIGHT = "<think>a</think><answer>5</answer>"
WRONG = "<think>a</think><answer>6</answer>"
BARE = "5"

PROBLEMS = [
    {"id": "a", "problem": "Solve: 2x + 1 = 11", "answer": "x = 5"},
    {"id": "b", "problem": "Solve: 3x - 5 = 10", "answer": "x = 5"},
]


def answers(*rows: tuple[list[str], list[float]], **metrics: float) -> dict[str, Any]:
    """lighteval's answer for one model: completions and verdicts of each problem."""
    return {
        "metrics": metrics,
        "rows": [
            {"id": "?", "number": number, "completions": texts, "correct": correct, "finished": [True, False]}
            for number, (texts, correct) in enumerate(rows)
        ],
    }


# Two problems, two completions each. SFT solves one of four, GRPO three of four.
OUTCOME = {
    "sft": answers(([RIGHT, WRONG], [1.0, 0.0]), ([BARE, WRONG], [0.0, 0.0]), **{"pass@1": 0.25, "pass@2": 0.5}),
    "grpo": answers(([RIGHT, RIGHT], [1.0, 1.0]), ([RIGHT, BARE], [1.0, 0.0]), **{"pass@1": 0.75, "pass@2": 1.0}),
    "versions": {"lighteval": "0.13.0"},
}


# The comparison


def test_join_puts_both_models_next_to_each_problem(verifier: Verifier) -> None:
    rows = join(PROBLEMS, OUTCOME, verifier)
    assert [{key: row[key] for key in ("id", "problem", "answer")} for row in rows] == PROBLEMS
    assert rows[0]["sft"] == {
        "completions": [RIGHT, WRONG],
        "correct": [1.0, 0.0],
        "finished": [True, False],
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


def test_the_metrics_of_a_model_by_hand(verifier: Verifier) -> None:
    metrics = model_metrics(join(PROBLEMS, OUTCOME, verifier), "sft", OUTCOME["sft"]["metrics"], verifier)
    assert metrics == {
        "pass@1": 0.25,
        "pass@2": 0.5,
        "maj@2": 0.25,  # RIGHT and WRONG tie in the first problem
        "pass@1_low": pytest.approx(0.0, abs=0.01),  # of two problems nothing is known
        "pass@1_high": pytest.approx(0.99, abs=0.02),
        "format": 0.75,  # all but BARE
        "finished": 0.5,  # each problem's first of two
        "undecided": 0,
        "lighteval_pass@1": 0.25,
        "lighteval_pass@2": 0.5,
        "lighteval_differs": 0,
    }


def test_what_lighteval_says_otherwise_is_counted_and_never_the_verdict(verifier: Verifier) -> None:
    # lighteval takes one WRONG for right and, in the other problem, one RIGHT for wrong.
    outcome = {
        **OUTCOME,
        "sft": answers(([RIGHT, WRONG], [1.0, 1.0]), ([BARE, RIGHT], [0.0, 0.0]), **{"pass@1": 0.5}),
    }
    rows = join(PROBLEMS, outcome, verifier)
    metrics = model_metrics(rows, "sft", {"pass@1": 0.5}, verifier)
    assert (metrics["lighteval_differs"], metrics["lighteval_pass@1"], metrics["pass@1"]) == (2, 0.5, 0.5)
    assert [row["sft"]["correct"] for row in rows] == [[1.0, 0.0], [0.0, 1.0]]
    assert [row["sft"]["differs"] for row in rows] == [[None, "number"], [None, "number"]]


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
    problems = [{"id": "a", "problem": "?", "answer": "\\sqrt{13}"}]
    outcome = {name: answers(([block(TOWER)], [0.0]), **{"pass@1": 0.0}) for name in ("sft", "grpo")}
    metrics = model_metrics(join(problems, outcome, verifier), "sft", {}, verifier)
    assert (metrics["pass@1"], metrics["undecided"]) == (0.0, 1)


def test_the_summary_by_hand(params_with: ParamsWith, verifier: Verifier) -> None:
    params = params_with({"evaluate.num_samples": 2, "evaluate.gate.min_gain": 0.2})
    metrics = summary(join(PROBLEMS, OUTCOME, verifier), OUTCOME, params, verifier)
    assert (metrics["sft"]["pass@1"], metrics["grpo"]["pass@1"]) == (0.25, 0.75)
    # First problem 2/2 - 1/2, second 1/2 - 0/2: both gain 0.5. Two problems are no evidence.
    gain = metrics["gain"]
    assert gain["mean"] == 0.5
    assert gain["low"] < 0
    assert gain["p_value"] > 0.3
    assert metrics["verdict"] == "too few problems"
    assert metrics["gate"] == {"min_gain": 0.2, "passed": False}
    assert (metrics["problems"], metrics["samples_per_problem"]) == (2, 2)


def test_a_base_is_a_row_and_sft_is_compared_with_it(
    params_with: ParamsWith, verifier: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    base = answers(([WRONG, BARE], [0.0, 0.0]), ([BARE, WRONG], [0.0, 0.0]), **{"pass@1": 0.0})
    outcome = OUTCOME | {"base": base}
    samples = join(PROBLEMS, outcome, verifier)
    assert samples[0]["base"]["completions"] == [WRONG, BARE]
    metrics, without = (
        summary(samples, found, params_with({"evaluate.num_samples": 2}), verifier) for found in (outcome, OUTCOME)
    )
    assert list(metrics)[:3] == ["base", "sft", "grpo"]
    gain = metrics["sft_gain"]
    assert (gain["mean"], gain["verdict"]) == (0.25, "too few problems")
    assert gain["low"] < 0 < gain["high"]
    assert {key: value for key, value in metrics.items() if key not in ("base", "sft_gain")} == without
    show(metrics)
    printed = capsys.readouterr().out
    assert "evaluate | base | pass@1 0.000 | pass@2 0.000 | maj@2 0.000" in printed
    assert "evaluate | SFT over the base too few problems: pass@1 +0.250 [" in printed


def outcome_of(correct: dict[str, list[list[float]]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Problems and lighteval's answer, with completions that deserve the given verdicts."""
    problems = [{"id": str(number), "problem": "?", "answer": "5"} for number in range(len(correct["sft"]))]
    outcome: dict[str, Any] = {}
    for name, verdicts in correct.items():
        rows = [
            {"completions": [RIGHT if right else WRONG for right in v], "correct": v, "finished": [True] * len(v)}
            for v in verdicts
        ]
        outcome[name] = {"rows": rows, "metrics": {"pass@1": 0.0}}
    return problems, outcome


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
    params_with: ParamsWith,
    verifier: Verifier,
    sft: list[list[float]],
    grpo: list[list[float]],
    min_gain: float,
    claim: str,
    passed: bool,
) -> None:
    problems, outcome = outcome_of({"sft": sft, "grpo": grpo})
    params = params_with({"evaluate.gate.min_gain": min_gain, "evaluate.num_samples": len(sft[0])})
    metrics = summary(join(problems, outcome, verifier), outcome, params, verifier)
    assert metrics["verdict"] == claim
    assert metrics["gate"] == {"min_gain": min_gain, "passed": passed}
    assert metrics["gain"]["low"] <= metrics["gain"]["mean"] <= metrics["gain"]["high"]


def test_pass_at_every_k(params_with: ParamsWith, verifier: Verifier) -> None:
    problems, outcome = outcome_of({name: [[1, 1, 0, 0], [1, 0, 0, 0]] for name in ("sft", "grpo")})
    metrics = model_metrics(join(problems, outcome, verifier), "sft", {}, verifier)
    # Of two right in four: 1 - C(2,k) / C(4,k); of one right in four: k / 4.
    expected = [(1 / 2 + 1 / 4) / 2, (5 / 6 + 1 / 2) / 2, (1 + 3 / 4) / 2, 1.0]
    assert [metrics[f"pass@{k}"] for k in range(1, 5)] == pytest.approx(expected)


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
        run_lighteval({}, project, 5)
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


def test_the_spec_tells_the_runner_everything(project: Path, params_with: ParamsWith) -> None:
    changes = {
        "seed": 11,
        "model.dtype": "bfloat16",
        "prompts.system": "Think.",
        "evaluate.num_samples": 3,
        "evaluate.temperature": 0.7,
        "evaluate.top_p": 0.9,
        "evaluate.max_new_tokens": 77,
        "evaluate.batch_size": 5,
        "launch.threads": 4,
    }
    told = spec(params_with(changes), PROBLEMS, MODELS, project)
    assert told == {
        "models": {"sft": "models/sft", "grpo": "models/grpo"},
        "data_dir": str((project / "data").resolve()),
        "output_dir": str((project / "lighteval").resolve()),
        "rows": 2,
        "system": "Think.",
        "dtype": "bfloat16",
        "seed": 11,
        "threads": 4,
        "num_samples": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_new_tokens": 77,
        "batch_size": 5,
    }
    assert [path.name for path in (project / "data").iterdir()] == ["test.jsonl"]
    lines = (project / "data/test.jsonl").read_text(encoding="utf-8").splitlines()
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
    answer = run_lighteval({"rows": 2}, project, 60)
    assert Path(answer["runner"]).name == "lighteval_runner.py"
    assert Path(answer["runner"]).is_file()
    assert answer["spec"] == {"rows": 2}
    assert [name for name in leaks if name in answer["environment"]] == []
    assert answer["environment"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert answer["environment"]["HF_HUB_OFFLINE"] == "1"


def test_a_runner_that_fails_shows_the_end_of_its_output(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(monkeypatch, "import sys\nfor n in range(100): print(f'line {n}.')\nsys.exit('no such model')\n")
    with pytest.raises(PosttrainError) as caught:
        run_lighteval({}, project, 60)
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
        run_lighteval({}, project, 3)
    assert time.monotonic() - began < 10
    assert Path("ready").exists(), "the child never started, so this shows nothing"
    assert is_released("held")
    assert "loading the model" in str(caught.value)


@pytest.mark.parametrize("code", [0, 7])
def test_what_a_runner_leaves_behind_ends_with_it(project: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    interpreter(monkeypatch, SPAWN + f"open(sys.argv[3], 'w').write('{{}}')\nsys.exit({code})\n")
    if code:
        with pytest.raises(PosttrainError, match="exited with 7"):
            run_lighteval({}, project, 60)
    else:
        assert run_lighteval({}, project, 60) == {}
    assert Path("ready").exists(), "the child never started, so this shows nothing"
    assert is_released("held")


# The stage


def published_inputs() -> None:
    for target in (PREPARED, SFT_MODEL, GRPO_MODEL):
        source = Path("work")
        source.mkdir()
        write_jsonl(source / "test.jsonl", PROBLEMS)
        parents = {str(SFT_MODEL): sha256(SFT_MODEL / MANIFEST)} if target == GRPO_MODEL else {}
        publish(source, target, {"parents": parents})


def test_evaluate_end_to_end(project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_with({"evaluate.num_samples": 2, "evaluate.gate.min_gain": 0.2})
    published_inputs()
    interpreter(monkeypatch, f"import sys\nopen(sys.argv[3], 'w').write({json.dumps(OUTCOME)!r})\n")
    evaluate.run(params)
    metrics = json.loads((EVALUATE_RESULTS / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["gain"]["mean"] == 0.5
    assert metrics["verdict"] == "too few problems"
    samples = (EVALUATE_RESULTS / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["grpo"]["correct"] for line in samples] == [[1.0, 1.0], [1.0, 0.0]]
    first = {path.name: path.read_bytes() for path in EVALUATE_RESULTS.iterdir()}
    evaluate.run(params)
    assert {path.name: path.read_bytes() for path in EVALUATE_RESULTS.iterdir()} == first
    assert list(UNPUBLISHED.iterdir()) == []
    # A failure keeps what was there.
    interpreter(monkeypatch, "import sys\nsys.exit('no such model')\n")
    with pytest.raises(PosttrainError):
        evaluate.run(params)
    assert {path.name: path.read_bytes() for path in EVALUATE_RESULTS.iterdir()} == first
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


# The runner itself, in lighteval's environment


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


def asked_to_run(folder: Path, models: dict[str, Path], problems: list[str], **sampling: Any) -> dict[str, Any]:
    """The spec of a run over problems whose answers do not matter."""
    rows = [{"id": str(n), "problem": text, "answer": "x = 2", "number": n} for n, text in enumerate(problems)]
    (folder / "data").mkdir()
    write_jsonl(folder / "data/test.jsonl", rows)
    paths = {"data_dir": str(folder / "data"), "output_dir": str(folder / "lighteval")}
    rest = {"rows": len(rows), "system": None, "dtype": "float32", "seed": 1, "threads": 1, "top_p": 1.0}
    return {"models": {name: str(path) for name, path in models.items()}, **paths, **rest, **sampling}


def test_no_completion_is_cut_off_however_many_end_first(project: Path) -> None:
    """16 problems x 4 samples in batches of 4, which lighteval's own criterion ends when 4 of 16 rows have ended."""
    geometric_model(project / "model", 0.05)
    sampling = {"num_samples": 4, "temperature": 1.0, "max_new_tokens": 400, "batch_size": 4}
    task = asked_to_run(project, {"m": project / "model"}, [f"Solve: 3x = {n}" for n in range(16)], **sampling)
    found = run_lighteval(task, project, 300)["m"]
    assert found["problems"] == []
    assert all(all(row["finished"]) for row in found["rows"])
    lengths = [len(text) for row in found["rows"] for text in row["completions"]]
    assert statistics.fmean(lengths) == pytest.approx(19, abs=4 * 19.5 / math.sqrt(64))


def test_the_runner_gives_back_what_a_prompt_opened_and_takes_nothing_from_the_models_file(
    project: Path, params_with: ParamsWith
) -> None:
    trace = "<think>\n3x = 6\n</think>\n<answer>\nx = 2\n</answer>"
    rows = [{"id": "a", "problem": "Solve: 3x = 6", "completion": trace}]
    learnt_checkpoint(params_with({}), TEMPLATES["DeepSeek-R1-Distill"], rows, project / "model")
    path = project / "model/generation_config.json"
    bent = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "min_new_tokens": 50}
    path.write_text(json.dumps(json.loads(path.read_text()) | bent))
    sampling = {"num_samples": 2, "temperature": 0.2, "max_new_tokens": 64, "batch_size": 2}
    task = asked_to_run(project, {"m": project / "model"}, ["Solve: 3x = 6"], **sampling)
    found = run_lighteval(task, project, 300)["m"]
    assert found["rows"][0]["completions"] == [trace, trace]
    assert found["metrics"]["pass@1"] == 1.0


@pytest.mark.parametrize(("tokens", "cut"), [([5, 5], True), ([5, 2], False), ([5, 5, 5], False), ([5, 2, 0], False)])
def test_a_completion_that_neither_ended_nor_is_full_is_a_fault(tokens: list[int], cut: bool) -> None:
    assert cut_off(tokens, 2, {"max_new_tokens": 3}) is cut
