"""`posttrain recipe`: the shipped params with a recipe's own, written into params.yaml beside its comments."""

import re
import shutil
from pathlib import Path

import pytest

from posttrain.errors import InputError
from posttrain.params.file import check_params, load_params, read_yaml
from posttrain.params.recipes import apply_recipe, list_recipes, overlaid
from posttrain.params.round_trip import dump, load
from posttrain.paths import PARAMS
from tests.conftest import PROJECT, ROOT

SMALL = r"""# A small recipe for tests
seed: 7
model:
  name_or_path: models/base
  revision: abc123
  scratch: {hidden_size: 64, intermediate_size: 128}
prompts: {system: "Think first:\nthen answer # in tags."}
prepare:
  dataset: rows.jsonl
  answer_pattern: '####\s*(.+)'
  columns: {solution: answer}
grpo: {learning_rate: 1e-05, beta: 0, health: {kl_divergence: {action: stop}}}
launch: {report_to: [tensorboard]}
evaluate: {gate: {min_gain: null}}
"""
# What SMALL says, by hand.
CHANGES = {
    "seed": 7,
    "model.name_or_path": "models/base",
    "model.revision": "abc123",
    "model.scratch.hidden_size": 64,
    "model.scratch.intermediate_size": 128,
    "prompts.system": "Think first:\nthen answer # in tags.",
    "prepare.dataset": "rows.jsonl",
    "prepare.answer_pattern": "####\\s*(.+)",
    "prepare.columns.solution": "answer",
    "grpo.learning_rate": 0.00001,
    "grpo.beta": 0,
    "grpo.health.kl_divergence.action": "stop",
    "launch.report_to": ["tensorboard"],
    "evaluate.gate.min_gain": None,
}


@pytest.fixture
def recipes(project: Path) -> Path:
    folder = project / "recipes"
    folder.mkdir()
    shutil.copy(ROOT / "recipes/tiny.yaml", folder)
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    (folder / "broken.yaml").write_text("# Breaks the schema\ngrpo: {num_generation: 4}\n", encoding="utf-8")
    (folder / "bare.yaml").write_text("seed: 8\n", encoding="utf-8")
    return folder


def comments(text: str) -> list[str]:
    return re.findall(r"(?:^|\s)#\s.*", text)


def aligned(text: str) -> str:
    """The text with one blank before a comment, which a longer value has pushed to the right for good."""
    return re.sub(r"(\S) +#", r"\1 #", text)


def test_recipes_are_listed_with_their_first_line(recipes: Path) -> None:
    assert list_recipes() == [
        ("bare", ""),
        ("broken", "Breaks the schema"),
        ("small", "A small recipe for tests"),
        ("tiny", list_recipes()[-1][1]),
    ]


def test_the_keys_of_the_recipe_change_and_no_others(recipes: Path) -> None:
    expected = read_yaml(PARAMS)
    for dotted, value in CHANGES.items():
        *sections, key = dotted.split(".")
        section = expected
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    apply_recipe("small")
    assert read_yaml(PARAMS) == expected
    params = load_params(PARAMS)
    assert params.grpo.learning_rate == 0.00001
    assert (params.grpo.health.kl_divergence.action, params.grpo.health.kl_divergence.above) == ("stop", 0.05)


def test_comments_and_order_stay(recipes: Path) -> None:
    before = PARAMS.read_text(encoding="utf-8")
    apply_recipe("bare")
    after = PARAMS.read_text(encoding="utf-8")
    assert len(comments(before)) > 10
    assert comments(after) == comments(before)
    # The recipe names one key, so one line differs.
    lines = list(zip(before.splitlines(), after.splitlines(), strict=True))
    assert [new for old, new in lines if old != new] == ["seed: 8"]


def test_a_changed_line_keeps_its_comment(recipes: Path) -> None:
    PARAMS.write_text(
        PARAMS.read_text(encoding="utf-8").replace("  beta:", "  # above beta\n  beta:"), encoding="utf-8"
    )
    before = comments(PARAMS.read_text(encoding="utf-8"))
    assert any("above beta" in comment for comment in before)
    apply_recipe("small")
    text = PARAMS.read_text(encoding="utf-8")
    text = text.replace(r'"Think first:\nthen answer # in tags."', "null")  # a value, not a comment
    assert comments(text) == before


def test_twice_is_once(recipes: Path) -> None:
    apply_recipe("small")
    once = PARAMS.read_bytes()
    apply_recipe("small")
    assert PARAMS.read_bytes() == once


HARDWARE = """# Another model and other hardware
model: {lora: {r: 8, alpha: 16, dropout: 0.0, target_modules: all-linear, quantize_4bit: false}}
rewards:
  brevity: {weight: 0.1, function: "rewards/brevity.py:brevity", timeout_s: 10}
sft: {max_steps: 50}
grpo: {trl: {delta: 4.0}, health: {window: 5, truncation: {action: "off"}}}
launch:
  mixed_precision: bf16
  vllm:
    gpus: [] # of the CPU build
"""


def test_nothing_of_the_recipe_before_is_left(recipes: Path) -> None:
    (recipes / "hardware.yaml").write_text(HARDWARE, encoding="utf-8")
    original = aligned(PARAMS.read_text(encoding="utf-8"))
    apply_recipe("small")
    alone = aligned(PARAMS.read_text(encoding="utf-8"))
    apply_recipe("hardware")
    assert load_params(PARAMS).grpo.beta == 0.01  # as shipped; small has 0
    apply_recipe("small")
    assert aligned(PARAMS.read_text(encoding="utf-8")) == alone
    apply_recipe("tiny")
    assert aligned(PARAMS.read_text(encoding="utf-8")) == original


def test_a_section_that_was_null_comes_back_with_its_comments(recipes: Path) -> None:
    (recipes / "none.yaml").write_text(
        "# No SFT\nsft: null\nmodel: {name_or_path: models/base/own}\n", encoding="utf-8"
    )
    original = PARAMS.read_text(encoding="utf-8")
    apply_recipe("none")
    assert load_params(PARAMS).sft is None
    apply_recipe("small")
    assert load_params(PARAMS).require_sft().batch_size == read_yaml(recipes / "tiny.yaml")["sft"]["batch_size"]
    apply_recipe("none")
    apply_recipe("tiny")
    assert aligned(PARAMS.read_text(encoding="utf-8")) == aligned(original)


def test_what_was_changed_by_hand_is_gone(recipes: Path) -> None:
    """Also keys that the shipped params do not have, and a whole section that was removed."""
    original = read_yaml(PARAMS)
    text = overlaid(None, {"seed": 9, "grpo.health.probe_falls.drop": 0.5, "launch.machines": 2, "grpo.trl.delta": 4.0})
    PARAMS.write_text(text.replace("report: {", "# report: {"), encoding="utf-8")
    apply_recipe("bare")
    assert read_yaml(PARAMS) == {**original, "seed": 8}


def test_comments_between_sections_stay_whatever_comes_and_goes_above(recipes: Path) -> None:
    """ruamel gives them to the last key of the section above, whose comment they follow."""
    (recipes / "hardware.yaml").write_text(HARDWARE, encoding="utf-8")
    last, above = "  tag_count: {weight: 0.05}", "\n\n# what follows is of grpo\ngrpo:\n"
    shipped = PARAMS.read_text(encoding="utf-8")
    before = shipped.replace(f"{last}\n\ngrpo:\n", f"{last} # the last one{above}")
    PARAMS.write_text(before, encoding="utf-8")
    apply_recipe("hardware")
    assert f"{last} # the last one\n  brevity: " in PARAMS.read_text(encoding="utf-8")
    assert f"timeout_s: 10}}{above}" in PARAMS.read_text(encoding="utf-8")
    own = '  mine: {weight: 1.0, function: "mine.py:mine", timeout_s: 1} # by hand'
    PARAMS.write_text(shipped.replace(f"{last}\n\ngrpo:\n", f"{last}\n{own}{above}"), encoding="utf-8")
    apply_recipe("tiny")
    assert f"{last}{above}" in PARAMS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\n\n# the end\n",
        "# the beginning\n\na: {x: 1}  # flow\nb:\n- 1\n\n# between\n- 2\n# below\n\nc: >-\n  folded\n  text\n\nd: 1\n",
        "a:   # of a section\n  # above x\n  x: 1\n\n  # above y\n  y: [1, 2] # list\n\n# above b\nb:\n\n  c: 1.5e-3\n",
        "a: 'single'\nb: \"double\"\nc: plain:plain\nd: {e: \"a:b\", f: ['<a:b>', c]}\n",
    ],
)
def test_what_is_not_changed_is_written_as_it_was_read(text: str) -> None:
    assert dump(load(text)) == text


def test_what_is_written_can_be_read_also_within_braces(recipes: Path) -> None:
    mine = {"weight": 1.0, "function": "rewards/mine.py:mine", "timeout_s": 10, "urls": ["http://localhost:8000"]}
    shipped = PARAMS.read_text()
    PARAMS.write_text(shipped.replace("  format: {weight: 0.1}\n", "  format: {weight: 0.1}\n  mine: {weight: 1.0}\n"))
    PARAMS.write_text(overlaid(None, {f"rewards.mine.{key}": value for key, value in mine.items()}))
    assert 'function: "rewards/mine.py:mine"' in PARAMS.read_text()
    assert read_yaml(PARAMS)["rewards"]["mine"] == mine


def test_an_unknown_recipe_names_the_known_ones(recipes: Path) -> None:
    before = PARAMS.read_bytes()
    with pytest.raises(InputError) as caught:
        apply_recipe("smal")
    assert "smal" in caught.value.where
    assert "bare, broken, small, tiny" in caught.value.wanted
    assert PARAMS.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("grpo: {num_generation: 4}\n", "did you mean `num_generations`?"),
        ("grpo: {num_generations: 1}\n", "greater than or equal to 2"),
        ("evaluate: {temperature: 0, num_samples: 2}\n", "num_samples"),
        ("grpo: 5\n", "grpo"),
        ("seed: 3\ngrpo: [\n", "line 3"),
        ("- seed\n", "a mapping"),
        ("", "a mapping"),
    ],
)
def test_a_recipe_that_breaks_the_schema_changes_nothing(recipes: Path, content: str, said: str) -> None:
    (recipes / "small.yaml").write_text(content, encoding="utf-8")
    before = PARAMS.read_bytes()
    with pytest.raises(InputError, match=r"small\.yaml") as caught:
        apply_recipe("small")
    assert said in str(caught.value)
    assert PARAMS.read_bytes() == before
    assert {path.name for path in Path.cwd().iterdir()} == PROJECT | {"recipes"}


def test_outside_a_project_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="root folder"):
        list_recipes()


def test_changes_come_after_the_recipe_and_write_nothing(recipes: Path) -> None:
    before = PARAMS.read_text()
    (recipes / "mine.yaml").write_text("# Mine.\nseed: 5\ngrpo: {beta: 0.5, max_steps: 7}\n")
    changes = {
        "grpo.beta": 0.25,
        "sft.learning_rate": 1e-05,
        "grpo.trl.delta": 4.0,
        "grpo.health.truncation.above": 0.3,
    }
    text = overlaid("mine", changes)
    params = check_params(load(text), PARAMS)
    assert (params.seed, params.grpo.beta, params.grpo.max_steps) == (5, 0.25, 7)
    assert (params.sft.learning_rate, params.grpo.trl) == (1e-05, {"delta": 4.0})
    assert (params.grpo.health.truncation.above, params.grpo.health.truncation.growth) == (0.3, 0.2)
    assert "# the tutorial's kl_penalty" in text
    assert PARAMS.read_text() == before


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("grop.beta", 1, "did you mean `grpo`?"),
        ("seed.x", 1, "valid integer"),
        ("model.lora.r", 8, "model.lora.alpha"),
        ("grpo.health.truncation.abov", 0.3, "did you mean `above`?"),
        ("launch.vllm.python_path", "python", "did you mean `python`?"),
    ],
)
def test_a_change_that_the_schema_does_not_take_is_named(project: Path, key: str, value: int, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        overlaid(None, {key: value})
