"""Two evaluations side by side: what is the same problem, what is said of it, and where samples come from."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.commands.compare import SAMPLES, compare, evaluated
from posttrain.errors import InputError
from posttrain.evaluation.statistics import gain

PROBLEMS = 24


def row(number: int, sft: list[int], grpo: list[int], **other: Any) -> dict[str, Any]:
    models = {name: {"correct": [float(one) for one in right]} for name, right in (("sft", sft), ("grpo", grpo))}
    return {"problem": f"Solve: {number}x = {6 * number}", "answer": "x = 6", **models, **other}


def save(folder: Path, rows: list[dict[str, Any]]) -> None:
    path = folder / SAMPLES
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


def test_models_of_one_evaluation(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 20 problems from 1 of 2 to 2 of 2, three unchanged, one lost.
    rows = [row(n, [1, 0], [1, 1]) for n in range(20)] + [row(n, [1, 1], [1, 1]) for n in range(20, 23)]
    save(Path(), [*rows, row(23, [1, 1], [0, 1])])
    assert main(["compare", "workspace:sft", "workspace"]) == 0
    told = capsys.readouterr().out
    expected = gain([0.5] * 20 + [1.0] * 4, [1.0] * 23 + [0.5], 2)
    assert expected.low > 0
    claim = (
        f"improved: workspace:grpo over workspace:sft {expected.mean:+.3f} [{expected.low:+.3f}, {expected.high:+.3f}]"
    )
    assert claim in told
    assert f"workspace:sft  pass@1 {(0.5 * 20 + 4) / 24:.3f} [" in told
    assert "20 problems better:" in told
    assert told.count("(gold x = 6): 1 of 2, then 2") == 5  # of each kind, at most
    assert "1 problems worse:\ncompare |   Solve: 23x = 138 (gold x = 6): 2 of 2, then 1\n" in told


def test_only_problems_with_the_same_text_and_gold_are_compared(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(Path("a"), [row(n, [1], [0]) for n in range(PROBLEMS)])
    other = row(0, [1], [1]) | {"answer": "x = 7"}
    save(Path("b"), [other, *(row(n, [1], [1]) for n in range(1, PROBLEMS + 3))])
    compare(["a", "b"])
    told = capsys.readouterr().out
    assert f"{PROBLEMS - 1} problems x 1 samples" in told
    assert "a:grpo pass@1 0.000 [0.000, " in told
    assert "| 1 problems that the other has not are left out" in told
    assert "| 4 problems that the other has not are left out" in told


def test_text_of_data_has_no_power_over_a_terminal(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(Path(), [row(n, [0], [1]) | {"problem": f"{n}\x1b[2J" + "long " * 40} for n in range(3)])
    compare(["workspace:sft", "workspace"])
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "too few problems" in told


@pytest.mark.parametrize(
    ("first", "second", "got"),
    [
        ("workspace:base", "workspace", "an evaluation without base"),
        ("nowhere", "workspace", ""),
        ("a", "workspace", "no such file"),
        ("workspace", "b", "no problem that both have"),
        ("workspace", "c", "1 and 2 completions"),
        ("d", "workspace", "no samples"),
    ],
)
def test_what_cannot_be_compared_is_said(
    project: Path, capsys: pytest.CaptureFixture[str], first: str, second: str, got: str
) -> None:
    Path("a").mkdir()
    save(Path(), [row(1, [1], [1])])
    save(Path("b"), [row(2, [1], [1])])
    save(Path("c"), [row(1, [1, 1], [1, 1])])
    save(Path("d"), [])
    assert main(["compare", first, second]) == 2
    told = capsys.readouterr().err
    assert got in told
    assert "Traceback" not in told


def test_a_commit_and_a_tag_have_the_samples_that_dvc_kept(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    run("git", "init", "-q")
    for key, value in (("user.name", "a"), ("user.email", "a@b.c")):
        run("git", "config", key, value)
    run("dvc", "init", "-q")
    Path("dvc.yaml").unlink()
    for number, right in enumerate(([0], [1])):
        save(Path(), [row(n, [0], right) for n in range(PROBLEMS)])
        run("dvc", "add", "-q", str(SAMPLES))
        run("git", "add", "-A")
        run("git", "commit", "-qm", str(number))
    run("git", "tag", "good")
    SAMPLES.unlink()
    compare(["HEAD~1", "good"])
    assert "improved: good:grpo over HEAD~1:grpo +1.000" in capsys.readouterr().out
    with pytest.raises(InputError, match="good:base"):
        evaluated("good:base")


def rate(number: int, right: list[int], task: str | None = None, model: str = "m") -> dict[str, Any]:
    named = {} if task is None else {"task": task}
    return {
        **named,
        "problem": f"p{number}",
        "answer": None,
        "gold": "6",
        model: {"correct": [float(r) for r in right]},
    }


def test_evaluations_of_other_models_and_tasks(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, right in (("a", [0]), ("b", [1])):
        Path(folder).mkdir()
        rows = [*(rate(n, right, "gsm8k") for n in range(PROBLEMS)), *(rate(n, [0], "aime24") for n in range(3))]
        Path(folder, SAMPLES.name).write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    assert main(["compare", "a", "b", "--task", "gsm8k"]) == 0
    assert "improved: b:m over a:m +1.000" in capsys.readouterr().out
    assert main(["compare", "a", "b"]) == 2
    assert "--task gsm8k" in capsys.readouterr().err
    assert main(["compare", "a", "b", "a"]) == 2
    assert "--seeds" in capsys.readouterr().err


def test_seeds_have_a_mean_and_a_spread_of_their_own(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pass@1 after GRPO 0.5, 0.7 and 0.9; each evaluation alone is narrow."""
    for name, right in (("s1", 100), ("s2", 140), ("s3", 180)):
        save(Path(name), [row(n, [0] * 4, [int(n < right)] * 4) for n in range(200)])
    assert main(["compare", "--seeds", "s1", "s2", "s3"]) == 0
    told = capsys.readouterr().out
    assert "seeds | s1 pass@1 0.500 [" in told
    # Mean 0.7, standard deviation 0.2, Student's 0.975 quantile of 2 degrees 4.303: 4.303 x 0.2 / sqrt(3) = 0.497.
    line = "pass@1 0.700 [0.203, 1.000] over 3 seeds, standard deviation between them 0.200, 0.500 to 0.900"
    assert line in told
    assert "over SFT +0.700 [+0.203, +1.000] over 3 seeds" in told
    assert "leaves out the spread between seeds" in told
    assert "the interval of s1, s2, s3 holds no other seed's pass@1" in told
    assert "these checkpoints together: improved over SFT +0.700 [" in told
    assert main(["compare", "--seeds", "s1"]) == 2
    assert main(["compare", "--seeds", "s1", "s1"]) == 2


def test_seeds_that_show_nothing_alone_may_show_it_together(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each seed of four gains on 4 of 100 problems of its own, where the first alone is indistinguishable."""
    for seed in range(4):
        won = range(10 * seed, 10 * seed + 4)
        save(Path(f"s{seed}"), [row(n, [int(n % 10 == 9)] * 2, [int(n % 10 == 9 or n in won)] * 2) for n in range(100)])
    save(Path("s3"), [row(n, [1] * 6, [1] * 6) for n in range(100, 120)])  # other problems, and another number of tries
    assert main(["compare", "--seeds", "s0", "s1", "s3"]) == 0
    assert "these checkpoints have no problem in common" in capsys.readouterr().out
    save(Path("s3"), [row(n, [int(n % 10 == 9)] * 6, [int(n % 10 == 9 or n in range(30, 34))] * 6) for n in range(100)])
    assert main(["compare", "s0:sft", "s0"]) == 0
    assert "indistinguishable: s0:grpo over s0:sft +0.040 [-" in capsys.readouterr().out
    assert main(["compare", "--seeds", "s0", "s1", "s2", "s3"]) == 0
    told = capsys.readouterr().out
    before = [float(n % 10 == 9) for n in range(100)]
    after = list(before)
    for seed, tries in enumerate((2, 2, 2, 6)):
        after[10 * seed : 10 * seed + 4] = [tries / 12] * 4
    expected = gain(before, after, 12)
    assert expected.low > 0
    line = f"improved over SFT {expected.mean:+.3f} [{expected.low:+.3f}, {expected.high:+.3f}], paired p "
    assert line in told
    assert "100 problems x 12 samples" in told
