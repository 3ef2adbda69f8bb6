"""Any model: what ends its turn, whole completions, what is kept of them, the command, and lighteval's own process."""

import json
import math
import os
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.errors import InputError, PosttrainError
from posttrain.evaluation.lighteval_process import Lighteval
from posttrain.evaluation.runner import Answered, Benchmark, Exam
from posttrain.evaluation.settings import Settings
from posttrain.evaluation.subjects import Subject
from posttrain.evaluation.tasks import HELD_OUT, Task
from posttrain.generation.completion_cache import Order, completions, forget, model_hash
from posttrain.generation.generators import Transformers, require_whole
from posttrain.params.launch import Launch
from posttrain.params.schema import Params
from posttrain.paths import COMPLETIONS
from tests.templates import TEMPLATES
from tests.trainers import learnt_checkpoint
from tests.unit.test_evaluate import ANSWERS_FOR_THE_STAGE, geometric_model, interpreter

ROOT = Path(__file__).parents[2]
ParamsWith = Callable[[dict[str, Any]], Params]
SETTINGS = Settings(
    num_samples=4,
    temperature=1.0,
    top_p=1.0,
    max_new_tokens=400,
    batch_size=4,
    seed=1,
    system=None,
    dtype="float32",
)


def task(count: int) -> Task:
    problems = [{"id": str(n), "problem": f"Solve: 3x = {n}", "answer": "x = 2"} for n in range(count)]
    return Task(HELD_OUT, problems)


def order(folder: Path, settings: Settings, count: int = 16) -> Order:
    subject = Subject("m", folder, None)
    ids = subject.prompts(task(count)).ids
    return Order(model_hash(folder), "m", ids, settings.seeds(count), settings.sampling, subject.end_tokens)


@pytest.fixture
def model(project: Path) -> Path:
    geometric_model(project / "model", 0.05)
    return project / "model"


@pytest.mark.parametrize(("samples", "batch"), [(1, 16), (4, 16), (4, 4), (8, 4), (16, 8), (4, 64)])
def test_no_completion_is_cut_off_however_many_end_first(model: Path, samples: int, batch: int) -> None:
    """Lengths are geometric with mean 20, end token included, whatever shares a batch."""
    settings = replace(SETTINGS, num_samples=samples, batch_size=batch)
    asked = order(model, settings, 64)
    with settings.in_this_process(model, Launch(threads=1)) as generator:
        written = completions(asked, generator)
    lengths = [len(tokens) for row in written for tokens in row]
    assert all(tokens[-1] in asked.end_tokens for row in written for tokens in row)
    assert statistics.fmean(lengths) == pytest.approx(20, abs=4 * 19.5 / math.sqrt(len(lengths)))


def test_a_sample_is_the_same_in_any_batch(model: Path) -> None:
    found = []
    for batch in (1, 5, 16):
        settings = replace(SETTINGS, batch_size=batch)
        with settings.in_this_process(model, Launch(threads=1)) as generator:
            found.append(completions(order(model, settings), generator))
    assert found[0] == found[1] == found[2]
    assert len({tuple(tokens) for row in found[0] for tokens in row}) > 16


def test_every_token_that_ends_a_turn_ends_a_completion(model: Path) -> None:
    """As in Gemma, whose tokenizer names another end than its generation_config.json, which names both."""
    subject = Subject("m", model, None)
    own = subject.tokenizer.eos_token_id
    assert subject.end_tokens == {own}
    letter = subject.tokenizer.convert_tokens_to_ids("a")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [letter, 7], "min_new_tokens": 50}))
    again = Subject("m", model, None)
    assert again.end_tokens == {own, letter, 7}
    with SETTINGS.in_this_process(model, Launch(threads=1)) as generator:
        written = completions(order(model, SETTINGS), generator)
    assert {len(tokens) for row in written for tokens in row} == {1}
    assert again.text("<think>", [letter]) == "<think>"


@pytest.mark.parametrize(
    ("tokens", "whole"),
    [
        ([5, 5], False),
        ([5, 2], True),
        ([5, 5, 5], True),
        ([5, 2, 5], False),
        ([5, 9], True),
        ([], False),
        ([5] * 4, False),
    ],
)
def test_a_completion_that_neither_ended_nor_is_full_is_a_fault(tokens: list[int], whole: bool) -> None:
    if whole:
        require_whole(tokens, {2, 9}, 3, "m")
    else:
        with pytest.raises(PosttrainError, match="neither ended nor has max_new_tokens 3"):
            require_whole(tokens, {2, 9}, 3, "m")


def test_nothing_of_the_models_file_and_what_a_prompt_opened_comes_back(project: Path, params_with: ParamsWith) -> None:
    trace = "<think>\n3x = 6\n</think>\n<answer>\nx = 2\n</answer>"
    rows = [{"id": "a", "problem": "Solve: 3x = 6", "completion": trace}]
    folder = project / "model"
    learnt_checkpoint(params_with({}), TEMPLATES["DeepSeek-R1-Distill"], rows, folder)
    path = folder / "generation_config.json"
    bent = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "min_new_tokens": 50}
    path.write_text(json.dumps(json.loads(path.read_text()) | bent))
    subject = Subject("m", folder, None)
    prompts = subject.prompts(Task(HELD_OUT, rows))
    settings = replace(SETTINGS, num_samples=2, temperature=0.2, max_new_tokens=64)
    asked = Order("m", "m", prompts.ids, settings.seeds(1), settings.sampling, subject.end_tokens)
    with settings.in_this_process(folder, Launch(threads=1)) as generator:
        (samples,) = completions(asked, generator)
    assert [subject.text(prompts.begun[0], tokens) for tokens in samples] == [trace, trace]


def test_a_prompt_has_to_have_room(model: Path) -> None:
    subject = Subject("m", model, None)
    with pytest.raises(InputError, match="exceed 1024 of context"):
        subject.require_room(subject.prompts(task(2)), 1020)


# What is kept


class Counting(Transformers):
    """Counts what it was asked to write, and dies when it is told to."""

    written = 0
    dies_at: int | None = None

    def write(self, prompts_P: Any, *rest: Any) -> Any:
        if self.written == self.dies_at:
            raise KeyboardInterrupt
        Counting.written += 1
        return super().write(prompts_P, *rest)


def test_what_was_asked_before_is_not_asked_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "written", 0)

    def ask(settings: Settings = SETTINGS) -> list[list[list[int]]]:
        rows = settings.batch_size * settings.num_samples
        with Counting(model, settings.dtype, Launch(threads=1), settings.batch_size, rows) as generator:
            return completions(order(model, settings), generator)

    # A run that is killed goes on from its last batch.
    monkeypatch.setattr(Counting, "dies_at", 2)
    with pytest.raises(KeyboardInterrupt):
        ask()
    monkeypatch.setattr(Counting, "dies_at", None)
    first = ask()
    assert Counting.written == 4
    assert ask() == first
    assert Counting.written == 4
    # What is not whole any more is written again.
    broken = sorted(COMPLETIONS.iterdir())
    broken[0].write_bytes(broken[0].read_bytes()[:-9])
    broken[1].write_text("[[[1]]]\n")
    assert ask() == first
    assert Counting.written == 6
    # Whatever changes an answer is another question.
    for change in ({"seed": 2}, {"temperature": 0.9}, {"top_p": 0.9}, {"max_new_tokens": 300}, {"dtype": "bfloat16"}):
        before = Counting.written
        ask(replace(SETTINGS, **change))
        assert Counting.written == before + 4, change
    geometric_model(model, 0.06)
    before = Counting.written
    assert ask() != first
    assert Counting.written == before + 4


def test_the_oldest_go_where_there_is_no_room(project: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        path = project / "kept" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("x" * 100)
        os.utime(path, (1000 - age, 1000 - age))
    forget(project / "kept", 210)
    assert {path.stem for path in (project / "kept").iterdir()} == {"new", "middle"}


# The command


def own_file(count: int = 3) -> None:
    rows = [{"problem": f"Solve: 3x = {n}", "answer": f"x = {n}"} for n in range(count)]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


COMMAND = ["--tasks", "own.jsonl", "--samples", "2", "--max-new-tokens", "200", "--temperature", "1"]


def test_models_are_evaluated_where_there_is_no_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    interpreter(monkeypatch, ANSWERS_FOR_THE_STAGE)
    geometric_model(tmp_path / "one", 0.1)
    geometric_model(tmp_path / "two", 0.6)
    own_file()
    assert main(["evaluate", "one", "two/", *COMMAND, "--limit", "2", "--output", "both"]) == 0
    told = capsys.readouterr().out
    assert "evaluate | own: 2 problems x 2 samples" in told
    assert "evaluate | too few problems: two over one, pass@1 +0.000" in told
    assert main(["evaluate", "one", *COMMAND]) == 0
    block = json.loads(Path("both/metrics.json").read_text())["tasks"]["own"]
    assert (block["problems"], block["samples_per_problem"]) == (2, 2)
    assert block["one"]["tokens"]["mean"] > block["two"]["tokens"]["mean"]
    manifest = json.loads(Path("both/manifest.json").read_text())
    assert manifest["settings"]["max_new_tokens"] == 200
    assert set(manifest["models"]["two"]["files"]) == {path.name for path in Path("two").iterdir()}
    assert manifest["models"]["one"]["dtype"] == "float32"
    capsys.readouterr()
    assert main(["compare", "both:one", "results/evaluations/one"]) == 0
    assert "| 1 problems that the other has not are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["one", "--tasks", "none.jsonl"], "No such file"),
        (["one", "--tasks", "bad.jsonl"], "`answer` is 3"),
        (["one", "--tasks", "prose.jsonl"], "a gold that the judge can read"),
        (["one"], "no evaluate.tasks"),
        (["one", "--tasks", "gsm8k=nowhere"], "a local copy of the data of gsm8k"),
        (["one", "one/", *COMMAND], "the same name twice"),
        (["one", "--tasks", "own.jsonl", "--samples", "2", "--temperature", "0"], "always gives the same completion"),
        (["./nowhere", *COMMAND], "no such folder"),
        (["some/model", *COMMAND], "NAME@COMMIT"),
        (["some/model@main", *COMMAND], "NAME@COMMIT"),
        (["empty", *COMMAND], "config.json"),
        (COMMAND, "without a model"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    interpreter(monkeypatch, "raise SystemExit('never asked')")
    geometric_model(tmp_path / "one", 0.1)
    Path("empty").mkdir()
    own_file()
    Path("bad.jsonl").write_text('{"problem": "a", "answer": 3}\n')
    Path("prose.jsonl").write_text(json.dumps({"problem": "a", "answer": "\\frac{1}{"}) + "\n")
    assert main(["evaluate", *command]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


# lighteval itself, in its environment


@pytest.mark.slow
def test_lighteval_asks_and_judges_its_own_tasks_and_ours(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTEVAL_PYTHON", str(ROOT / ".venv-lighteval/bin/python"))
    data = project / "gsm8k"
    data.mkdir()
    rows = [{"question": f"{n} plus 3?", "answer": f"{n}+3=<<{n}+3={n + 3}>>{n + 3}\n#### {n + 3}"} for n in range(5)]
    for split in ("train", "test"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    geometric_model(project / "model", 0.1)
    subject = Subject("m", project / "model", "Think.")
    benchmark = Benchmark("gsm8k", data, 3)
    runner = Lighteval(project / "room", "Think.", 2, 300)
    (project / "room").mkdir()
    documents = runner.documents([benchmark])["gsm8k"]
    assert len(documents) == 3
    golds = {document["problem"]: document["golds"][0].rpartition("####")[2].strip() for document in documents}
    assert all(text == f"Question: {int(gold) - 3} plus 3?\nAnswer:" for text, gold in golds.items())
    asked = Task("gsm8k", [{**document, "answer": None} for document in documents])
    exam = Exam("gsm8k", benchmark, documents, {"m": []})
    for number, prompt in enumerate(subject.prompts(asked).texts):
        gold = golds[documents[number]["problem"]]
        exam.answers["m"].append(Answered(prompt, [f"That makes {gold}", "12345" if number else f"It is {gold}."]))
    ours = Exam(HELD_OUT, None, task(2).problems, {"m": []})
    for prompt in subject.prompts(task(2)).texts:
        ours.answers["m"].append(Answered(prompt, ["<think>a</think><answer>x = 2</answer>", "2"]))
    verdicts, versions = runner.judge([exam, ours], {"m": project / "model"})
    assert verdicts["gsm8k"]["m"].correct == [[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    assert verdicts["gsm8k"]["m"].metrics == {"extractive_match": pytest.approx(4 / 6)}
    assert verdicts[HELD_OUT]["m"].correct == [[1.0, 0.0], [1.0, 0.0]]
    assert verdicts[HELD_OUT]["m"].metrics == {"pass@1": 0.5, "pass@2": 1.0, "maj@2": pytest.approx(0.5, abs=0.5)}
    assert versions["lighteval"] == "0.13.0"
    # Answers to another prompt than lighteval's are no answers, and a task that it has not is named.
    shutil.rmtree(project / "room")
    (project / "room").mkdir()
    ours.answers["m"][1] = Answered("another", ["a", "b"])
    with pytest.raises(PosttrainError, match="another prompt than lighteval's was answered"):
        runner.judge([ours], {"m": project / "model"})
    with pytest.raises(InputError, match=r"did you mean .*gsm8k"):
        runner.documents([Benchmark("gsm8", data, None)])
