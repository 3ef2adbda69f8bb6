"""`posttrain recipe`: an overlay merged into params.yaml, comments and all."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from posttrain.errors import InputError
from posttrain.params.file import check_params, load_params, read_yaml
from posttrain.params.recipes import apply_recipe, list_recipes, merged
from posttrain.paths import PARAMS
from tests.conftest import PROJECT

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
grpo: {learning_rate: 1e-05, beta: 0}
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
    "evaluate.gate.min_gain": None,
}


@pytest.fixture
def recipes(project: Path) -> Path:
    folder = project / "recipes"
    folder.mkdir()
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    (folder / "broken.yaml").write_text("# Breaks the schema\ngrpo: {num_generation: 4}\n", encoding="utf-8")
    (folder / "bare.yaml").write_text("seed: 8\n", encoding="utf-8")
    return folder


def comments(text: str) -> list[str]:
    return re.findall(r"(?:^|\s)#\s.*", text)


def test_recipes_are_listed_with_their_first_line(recipes: Path) -> None:
    assert list_recipes() == [
        ("bare", ""),
        ("broken", "Breaks the schema"),
        ("small", "A small recipe for tests"),
    ]


def test_the_keys_of_the_recipe_change_and_no_others(recipes: Path) -> None:
    expected = read_yaml(PARAMS)
    for dotted, value in CHANGES.items():
        *sections, key = dotted.split(".")
        section = expected
        for name in sections:
            section = section[name]
        section[key] = value
    apply_recipe("small")
    assert read_yaml(PARAMS) == expected
    assert load_params(PARAMS).grpo.learning_rate == 0.00001


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


def test_the_order_of_disjoint_recipes_does_not_matter(recipes: Path) -> None:
    (recipes / "a.yaml").write_text("sft: {max_steps: 50}\n", encoding="utf-8")
    (recipes / "b.yaml").write_text("grpo: {max_steps: 6}\n", encoding="utf-8")
    original = PARAMS.read_bytes()
    apply_recipe("a")
    apply_recipe("b")
    one = PARAMS.read_bytes()
    PARAMS.write_bytes(original)
    apply_recipe("b")
    apply_recipe("a")
    assert PARAMS.read_bytes() == one
    assert (load_params(PARAMS).sft.max_steps, load_params(PARAMS).grpo.max_steps) == (50, 6)


def test_an_unknown_recipe_names_the_known_ones(recipes: Path) -> None:
    before = PARAMS.read_bytes()
    with pytest.raises(InputError) as caught:
        apply_recipe("smal")
    assert "smal" in caught.value.where
    assert "bare, broken, small" in caught.value.wanted
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


def test_changes_come_after_the_recipe_and_write_nothing(project: Path) -> None:
    before = PARAMS.read_text()
    (project / "recipes").mkdir()
    (project / "recipes/mine.yaml").write_text("# Mine.\nseed: 5\ngrpo: {beta: 0.5, max_steps: 7}\n")
    text = merged("mine", {"grpo.beta": 0.25, "sft.learning_rate": 1e-05, "grpo.trl.delta": 4.0})
    params = check_params(YAML(typ="safe", pure=True).load(text), PARAMS)
    assert (params.seed, params.grpo.beta, params.grpo.max_steps) == (5, 0.25, 7)
    assert (params.sft.learning_rate, params.grpo.trl) == (1e-05, {"delta": 4.0})
    assert "# the tutorial's kl_penalty" in text
    assert PARAMS.read_text() == before


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [("grop.beta", 1, "did you mean `grpo`?"), ("seed.x", 1, "valid integer"), ("model.lora.r", 8, "model.lora.alpha")],
)
def test_a_change_that_the_schema_does_not_take_is_named(project: Path, key: str, value: int, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        merged(None, {key: value})
