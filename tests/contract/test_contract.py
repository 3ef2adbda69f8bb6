"""What holds the project together: the five words agree, DVC knows what a stage reads, no knob is dead."""

import ast
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest

from posttrain import paths
from posttrain.cli import STAGES, parser
from posttrain.errors import InputError
from posttrain.grpo import trainer as grpo_trainer
from posttrain.grpo.health import DIFFERENCE, RATIO, RULES, Monitor
from posttrain.launch.accelerate import accelerate_config, environment
from posttrain.launch.layout import layout
from posttrain.outputs.facts import flat
from posttrain.outputs.manifest import MANIFEST
from posttrain.params.file import check_params, load_params, read_yaml
from posttrain.params.health import Health
from posttrain.params.launch import VLLM, Launch
from posttrain.params.recipes import apply_recipe, list_recipes
from posttrain.params.rewards import CustomReward, Rewards
from posttrain.params.schema import GRPO, Params
from posttrain.params.section import Section
from posttrain.sft import trainer as sft_trainer
from tests.unit.test_health import SICK, sick

ROOT = Path(__file__).parents[2]
WORDS = ["prepare", "sft", "grpo", "evaluate", "report"]

# Cannot change a result: they name things, start and end processes, move files, read the params that DVC tracks key by
# key, or have a killed run end with the bytes of one never killed, which tests/pipeline/test_resume.py compares.
# posttrain/params/health.py is not among them: its defaults are science that params.yaml need not say.
PLUMBING = {
    *("posttrain/cli.py", "posttrain/run_stage.py", "posttrain/worker.py", "posttrain/errors.py", "posttrain/paths.py"),
    "posttrain/text_files.py",
    *("posttrain/graph.py", "posttrain/commands", "posttrain/launch"),
    *(
        f"posttrain/params/{name}.py"
        for name in ("__init__", "file", "launch", "recipes", "rewards", "round_trip", "plain_yaml")
    ),
    *("posttrain/params/schema.py", "posttrain/params/section.py"),
    *(f"posttrain/outputs/{name}.py" for name in ("manifest", "identity", "parents", "checkpoints", "run_log", "disk")),
    *("posttrain/outputs/weight_files.py", "posttrain/outputs/json_files.py"),
    *(f"posttrain/processes/{name}.py" for name in ("process_tree", "lock", "signals", "bounded")),
}

DVC: dict[str, Any] = read_yaml(ROOT / "dvc.yaml")


def imports_of(file: Path) -> set[Path]:
    """The files of the project that a file imports, wherever in the file."""
    return imports_of_source(file.read_text())


def imports_of_source(source: str) -> set[Path]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            path = ROOT / name.replace(".", "/")
            found |= {path for path in (path.with_suffix(".py"), path / "__init__.py") if path.is_file()}
    return found


def within(path: Path, places: Iterable[str]) -> bool:
    return any(path.is_relative_to(ROOT / place) for place in places)


def closure(word: str) -> set[Path]:
    """Every file that a stage imports, directly or not, plumbing left out."""
    seen: set[Path] = set()
    waiting = {ROOT / f"stages/{word}.py"}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        waiting |= {path for path in imports_of(file) if not within(path, PLUMBING)} - seen
    return {path for path in seen if path.name != "__init__.py" or path.parent.name == "rewards"}


def test_the_five_words_agree() -> None:
    assert list(DVC["stages"]) == list(STAGES) == WORDS
    assert set(WORDS) <= set(Params.model_fields)
    assert {path.stem for path in (ROOT / "stages").iterdir() if path.suffix} == {*WORDS, "__init__"}
    for word in WORDS:
        assert (ROOT / f"tests/unit/test_{word}.py").is_file(), word
        assert DVC["stages"][word]["cmd"] == f"python -m posttrain {word}"
        assert word in DVC["stages"][word]["params"]


@pytest.mark.parametrize("word", WORDS)
def test_a_stage_depends_on_all_code_that_it_imports(word: str) -> None:
    missing = {path for path in closure(word) if not within(path, DVC["stages"][word]["deps"])}
    assert not missing, f"{word} imports what its deps in dvc.yaml do not cover"


@pytest.mark.parametrize("word", WORDS)
def test_a_stage_depends_on_no_code_that_it_does_not_import(word: str) -> None:
    code = [dep for dep in DVC["stages"][word]["deps"] if dep.startswith(("posttrain/", "stages/"))]
    assert [dep for dep in code if not any(within(path, [dep]) for path in closure(word))] == []


FLOORS = ("posttrain", "stages", "flows")
"""From the ground up."""


@pytest.mark.parametrize("floor", FLOORS)
def test_no_floor_imports_a_higher_one(floor: str) -> None:
    higher = [f"{name}/" for name in FLOORS[FLOORS.index(floor) + 1 :]]
    for file in sorted((ROOT / floor).rglob("*.py")):
        assert not any(within(path, higher) for path in imports_of(file)), file
        assert floor == "flows" or "prefect" not in modules_of(file), file


def modules_of(file: Path) -> set[str]:
    """The top-level names of what a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in names}


def test_one_place_of_the_library_starts_a_stage_by_name() -> None:
    naming = [file for file in (ROOT / "posttrain").rglob("*.py") if '"stages.' in file.read_text()]
    assert [str(file.relative_to(ROOT)) for file in naming if 'f"stages.' in file.read_text()] == [
        "posttrain/run_stage.py"
    ]
    assert len(naming) == 1


def test_no_rooms_import_each_other_in_a_circle() -> None:
    """By file: a file does not import itself by way of others, at module level."""
    files = sorted((ROOT / "posttrain").rglob("*.py"))
    arrows = {file: {path for path in top_imports(file) if path.name != "__init__.py"} for file in files}
    for file in files:
        reached, waiting = set(), set(arrows[file])
        while waiting:
            path = waiting.pop()
            reached.add(path)
            waiting |= arrows.get(path, set()) - reached
        assert file not in reached, file


def top_imports(file: Path) -> set[Path]:
    tree = ast.parse(file.read_text())
    top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    return imports_of_source(ast.unparse(top))


def test_every_dependency_exists_or_is_made_by_a_stage() -> None:
    made = {str(out) for stage in DVC["stages"].values() for out in outs_of(stage)}
    for word, stage in DVC["stages"].items():
        for dep in stage["deps"]:
            assert dep in made or (ROOT / dep).exists(), f"{word}: {dep}"


def outs_of(stage: dict[str, Any]) -> list[str]:
    items = [item for kind in ("outs", "metrics", "plots") for item in stage.get(kind, [])]
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


def test_every_published_path_is_an_output() -> None:
    outs = {out for stage in DVC["stages"].values() for out in outs_of(stage)}
    results = (paths.EVALUATE_RESULTS / MANIFEST, paths.REPORT, paths.REPORT_FILES)
    for path in (paths.PREPARED, paths.SFT_MODEL, paths.GRPO_MODEL, *results):
        assert str(path) in outs
    for folder in (paths.SFT_RESULTS, paths.GRPO_RESULTS):
        assert {str(folder / name) for name in ("metrics.json", "curve.tsv", "samples.jsonl")} <= outs


def test_grpo_depends_on_the_defaults_that_params_need_not_say() -> None:
    """DVC compares the text of params.yaml, and would not see another threshold in the schema."""
    assert "posttrain/params/health.py" in DVC["stages"]["grpo"]["deps"]
    assert Path(inspect.getfile(Health)) == ROOT / "posttrain/params/health.py"
    defaulted = {model for model in sections() if any(not field.is_required() for field in model.model_fields.values())}
    assert defaulted == {Params, GRPO, Health, Launch, VLLM, Rewards}
    assert {name for name, field in Params.model_fields.items() if not field.is_required()} == {"launch"}
    assert {name for name, field in GRPO.model_fields.items() if not field.is_required()} == {"health"}
    assert {field.default for field in Rewards.model_fields.values()} == {None}  # not measured


def sections(model: type[Section] = Params) -> list[type[Section]]:
    """Every section of the schema."""
    kinds = [kind for field in model.model_fields.values() for kind in (field.annotation, *get_args(field.annotation))]
    inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
    return [model, *(found for kind in inner for found in sections(kind))]


def test_hardware_invalidates_no_stage() -> None:
    listed = {section for stage in DVC["stages"].values() for section in stage["params"]}
    assert "launch" not in listed
    assert listed == set(Params.model_fields) - {"launch"}


# ---------------------------------------------------------------------------------------------------------------------
# Recipes


RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_merges_into_valid_params(name: str, project: Path) -> None:
    (project / "recipes").symlink_to(ROOT / "recipes")
    apply_recipe(name)
    load_params(paths.PARAMS)


def test_every_recipe_says_what_it_is(project: Path) -> None:
    (project / "recipes").symlink_to(ROOT / "recipes")
    recipes = dict(list_recipes())
    assert list(recipes) == RECIPES
    assert all(len(title) > 20 for title in recipes.values())


OTHERS = [name for name in RECIPES if name != "tiny"]


def test_params_ship_as_the_tiny_recipe() -> None:
    assert read_yaml(ROOT / "params.yaml") == read_yaml(ROOT / "recipes/tiny.yaml")


def test_params_fit_two_screens() -> None:
    assert len((ROOT / "params.yaml").read_text().splitlines()) <= 125


@pytest.mark.parametrize("name", ["params.yaml", "recipes/tiny.yaml"])
def test_params_have_the_form_that_dvc_writes(name: str, tmp_path: Path) -> None:
    """`dvc exp run -S` writes the whole file anew: without this, `git diff` shows twenty lines beside the one."""
    shipped, changed = (ROOT / name).read_text(), tmp_path / "params.yaml"
    changed.write_text(shipped)
    # a process of its own: posttrain.params.round_trip has ruamel write null as a word, for all of a process
    code = "import sys; from dvc.utils.hydra import apply_overrides; apply_overrides(sys.argv[1], sys.argv[2:])"
    subprocess.run([sys.executable, "-c", code, str(changed), "grpo.num_generations=4"], check=True)
    assert changed.read_text() == shipped.replace("num_generations: 16", "num_generations: 4")


@pytest.mark.parametrize("name", OTHERS)
def test_another_recipe_says_only_what_it_changes(name: str) -> None:
    shipped = flat(load_params(ROOT / "params.yaml").model_dump())
    own = flat(read_yaml(ROOT / f"recipes/{name}.yaml"))
    assert [key for key, value in own.items() if key in shipped and shipped[key] == value] == []


@pytest.mark.parametrize("name", OTHERS)
def test_tiny_undoes_another_recipe(name: str, project: Path) -> None:
    (project / "recipes").symlink_to(ROOT / "recipes")
    apply_recipe(name)
    assert read_yaml(paths.PARAMS) != read_yaml(ROOT / "params.yaml")
    apply_recipe("tiny")
    assert read_yaml(paths.PARAMS) == read_yaml(ROOT / "params.yaml")


@pytest.mark.parametrize("name", OTHERS)
def test_a_recipe_is_the_same_after_any_other(name: str, project: Path) -> None:
    (project / "recipes").symlink_to(ROOT / "recipes")
    apply_recipe(name)
    alone = read_yaml(paths.PARAMS)
    for other_name in OTHERS:
        apply_recipe(other_name)
        apply_recipe(name)
        assert read_yaml(paths.PARAMS) == alone, other_name


@pytest.mark.parametrize("name", OTHERS)
def test_comments_survive_a_recipe(name: str, project: Path) -> None:
    (project / "recipes").symlink_to(ROOT / "recipes")
    before = paths.PARAMS.read_text()
    apply_recipe(name)
    after = paths.PARAMS.read_text()
    gone = [section for section, value in read_yaml(paths.PARAMS).items() if value is None]
    for section in gone:  # with its comments, but for that of its own line
        before = re.sub(rf"^({section}:.*\n)(?:  .*\n)+", r"\1", before, flags=re.M)
    assert [comment for comment in comments(after) if comment in comments(before)] == comments(before)
    apply_recipe("tiny")
    assert comments(paths.PARAMS.read_text()) == comments((ROOT / "params.yaml").read_text())


def comments(text: str) -> list[str]:
    return re.findall(r"(?:^|\s)(# .*)", text)


# ---------------------------------------------------------------------------------------------------------------------
# No dead knobs: each value of a section changes what is built from it

SHIPPED: dict[str, Any] = check_params(read_yaml(ROOT / "params.yaml"), paths.PARAMS).model_dump()
"""With the defaults of what params.yaml does not say."""

OTHER: dict[str, Any] = {
    "lr_scheduler_type": "linear",
    "loss_type": "dapo",
    "scale_rewards": "group",
    "multi_objective_aggregation": "normalize_then_sum",
    "prompts_per_step": 16,
    "top_p": 0.5,
    "epsilon": 0.3,
    "importance_sampling_level": "sequence",
    "trl": {"adam_beta2": 0.95},
}


def changed(section: str, key: str, base: dict[str, Any] | None = None) -> Params:
    """Params with one leaf changed, `a.b` for a nested one; `base` are keys of the section that a test needs set."""
    data = deepcopy(SHIPPED)
    for dotted, value in (base or {}).items():
        parent, name = leaf(data[section], dotted)
        parent[name] = value
    parent, name = leaf(data[section], key)
    parent[name] = other(name, parent[name])
    return check_params(data, Path("params.yaml"))


def leaf(section: dict[str, Any], dotted: str) -> tuple[dict[str, Any], str]:
    *parents, name = dotted.split(".")
    for parent in parents:
        section = section[parent]
    return section, name


def other(name: str, value: Any) -> Any:
    """Another value that the schema takes."""
    if name == "action":
        return {"warn": "stop", "stop": "rollback", "rollback": "warn"}[value]
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if not value:
        return 1
    return value / 2 if isinstance(value, float) and name != "above" and value < 1 else value * 2


def leaves(section: dict[str, Any], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, value in section.items():
        names += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [prefix + name]
    return sorted(names)


GRPO_LEAVES = leaves(SHIPPED["grpo"])
WATCHED = [key for key in GRPO_LEAVES if key.startswith("health.")]
assert [f"health.{key}" for key in leaves(Health().model_dump())] == WATCHED
NOT_TRLS = {  # tests/unit/test_{watch,dynamic,records,difficulty,grpo}.py go with and without
    *("difficulty", "probe.problems", "probe.every_steps", "publish"),
    *("dynamic_sampling.max_rounds", "keep_completions_steps", "generation_dtype"),
}


@pytest.mark.parametrize("key", sorted({*GRPO_LEAVES} - {*WATCHED} - NOT_TRLS))
def test_every_grpo_knob_reaches_trl(key: str, tmp_path: Path) -> None:
    before = grpo_trainer.trainer_config(load_params(ROOT / "params.yaml"), tmp_path).to_dict()
    assert grpo_trainer.trainer_config(changed("grpo", key), tmp_path).to_dict() != before


@pytest.mark.parametrize("key", WATCHED)
def test_every_health_knob_changes_what_the_monitor_says(key: str) -> None:
    base = {"health.kl_divergence.action": "rollback"}
    assert said(changed("grpo", key, base)) != said(changed("grpo", "beta", base))


def said(params: Params) -> list[tuple[str, str, int]]:
    """What the monitor says about every sick curve, and about some that are just sick enough."""
    edges = [
        sick(reward_accuracy=lambda step: 0.4 + 0.0003 * step, reward_format=lambda step: 0.9),
        sick(reward_accuracy=lambda step: 0.4 + 0.0003 * step),
        sick(completions_truncated_frac=lambda step: 0.6),
        [row | {DIFFERENCE: 0.0, RATIO: 0.4} for row in sick()],
    ]
    found = []
    for rows in (*SICK.values(), *edges):
        monitor = Monitor(params)
        for finding in (finding for row in rows for finding in monitor.observe(row)):
            found.append((finding.rule, finding.action, finding.step))
            if finding.action == "rollback":
                monitor.rolled_back()
    return found


@pytest.mark.parametrize("key", sorted(SHIPPED["sft"]))
def test_every_sft_knob_reaches_trl(key: str, tmp_path: Path) -> None:
    before = sft_trainer.trainer_config(load_params(ROOT / "params.yaml"), tmp_path).to_dict()
    assert sft_trainer.trainer_config(changed("sft", key), tmp_path).to_dict() != before


SEVERAL = {"strategy": "zero3", "processes": 4, "machines": 2, "threads": 2}
"""Processes on machines, without which most of `launch` says nothing."""
LAUNCHED = {
    **{"device": "cuda", "strategy": "zero2", "mixed_precision": "bf16", "offload": "all"},
    **{"main_address": "10.0.0.1:29500", "micro_batch_size": 8},
}
RUNNING = {"reward_workers", "evaluate_timeout_s", "checkpoint_every_s", "report_to"}
"""What a stage hands to the verifier, to lighteval's process, to the trainer's checkpoints and to trackers
(tests/unit/test_trackers.py), which nothing shows."""


@pytest.mark.parametrize("key", [key for key in Launch.model_fields if key not in {"vllm", *RUNNING}])
def test_every_launch_knob_changes_what_is_launched_or_trained(key: str, tmp_path: Path) -> None:
    """Those of `launch.vllm` change what TRL or the server is told: tests/unit/test_vllm.py."""
    before = Launch(**SEVERAL)
    value = LAUNCHED.get(key, other(key, getattr(before, key)))
    assert built(Launch(**{**SEVERAL, key: value}), tmp_path) != built(before, tmp_path)


def built(launch: Launch, folder: Path) -> Any:
    """What accelerate and the trainers are told, or why they are not."""
    params = load_params(ROOT / "params.yaml").model_copy(update={"launch": launch})
    try:
        found = layout(launch)
        trainers = [room.trainer_config(params, folder).to_dict() for room in (sft_trainer, grpo_trainer)]
    except InputError as error:
        return error.where, error.got
    return accelerate_config(found), environment(found), trainers


# ---------------------------------------------------------------------------------------------------------------------
# Documents


DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_commands_that_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    commands = set(re.findall(r"posttrain ([a-z]+)\b(?=[^\n]*`|\n)", " ".join(re.findall(r"`[^`\n]+`", text)) + "\n"))
    known = next(action.choices for action in parser()._actions if action.dest == "command")
    assert known is not None
    assert commands <= set(known), commands
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)`", text)):
        assert re.search(rf"^{target}:", makefile, re.M), f"make {target}"


def test_the_reference_of_params_is_that_of_the_schema() -> None:
    reference = runpy.run_path(str(ROOT / "docs/params.py"))["reference"]
    assert (ROOT / "docs/params.md").read_text() == reference(), "made by: python docs/params.py"


@pytest.mark.parametrize("model", sorted({*sections(), CustomReward}, key=lambda model: model.__name__))
def test_every_key_says_what_it_is_and_begins_with_a_noun(model: type[Section]) -> None:
    beginnings = {name: str(field.description).partition(" ")[0] for name, field in model.model_fields.items()}
    for name, word in beginnings.items():
        assert re.fullmatch(r"[A-Z][\w'-]*[.,:]?", word), f"{model.__name__}.{name}: {word}"
        assert word.lower() not in {
            "of",
            "over",
            "in",
            "the",
            "their",
            "what",
            "whether",
            "how",
            "used",
            "holds",
            "none",
        }


def test_the_documents_list_every_health_rule() -> None:
    named = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/health.md").read_text(), re.M)
    assert named == list(RULES)


def test_documents_link_to_files_that_exist() -> None:
    for name in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
            assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"


def test_the_tables_and_plots_of_documents_are_those_of_their_data() -> None:
    plots = runpy.run_path(str(ROOT / "docs/plots.py"))
    pages = "".join((ROOT / f"docs/{name}.md").read_text() for name in ("tutorial", "gsm8k"))
    for sweep, shape in plots["SWEEPS"].items():
        assert plots["tabulate"](sweep) in pages, sweep
        if shape.panels:
            assert plots["draw"](sweep) == (ROOT / f"docs/plots/{sweep}.svg").read_text(), sweep


def test_the_picture_of_the_readme_is_of_the_committed_results() -> None:
    plots = runpy.run_path(str(ROOT / "docs/plots.py"))
    assert plots["picture"](ROOT / "results") == (ROOT / "docs/plots/grpo.svg").read_text(), "python docs/plots.py"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert [path.name for path in sorted((ROOT / "docs").glob("[a-z]*.md")) if f"({path.name})" not in index] == []


def test_the_readme_is_short() -> None:
    """The first screen says what this is; the tree and the table of changes stay a glance."""
    text = (ROOT / "README.md").read_text()
    tree = text.split("## The tree")[1].split("```")[1].strip().splitlines()
    changes = text.split("## Change one thing")[1].split("## ")[0]
    assert len(tree) <= 20
    assert changes.count("\n| ") - 1 <= 10
    assert text.index("docs/plots/grpo.svg") < text.index("make run") < 1500


# ---------------------------------------------------------------------------------------------------------------------
# Files that a person or another program can hand us

READ_ELSEWHERE = {
    "posttrain/text_files.py": "the one place",
    **dict.fromkeys(
        ("posttrain/commands/check/resources.py", "posttrain/outputs/disk.py"), "what the kernel says of the machine"
    ),
    **dict.fromkeys(
        (f"posttrain/processes/{name}.py" for name in ("bounded", "pool", "process_tree")), "the kernel; own logs"
    ),
    **dict.fromkeys(
        ("posttrain/evaluation/lighteval_process.py", "posttrain/evaluation/lighteval_runner.py"),
        "what one of the two wrote for the other, in the scratch folder of the run",
    ),
    **dict.fromkeys(
        (
            *("posttrain/sft/dataset.py", "posttrain/training/publish.py", "posttrain/training/resume.py"),
            "posttrain/launch/accelerate.py",
        ),
        "what the same run wrote a moment before",
    ),
    "posttrain/generation/completion_cache.py": "whatever is wrong with it, it is generated again",
    "posttrain/reporting/page.py": "files of the package",
    "posttrain/vllm/generator.py": "answers of the server that it started",
    "posttrain/vllm/server.py": "answers of the server that it started",
    "posttrain/params/plain_yaml.py": "parses text that it has bounded",
    "posttrain/params/round_trip.py": "parses text that plain_yaml has read without complaint",
    "posttrain/commands/relock.py": "parses text that plain_yaml has read without complaint",
}
"""Where text is read or YAML parsed without `text_files`, `json_files` and `plain_yaml`, and why."""


def test_text_of_others_is_read_in_one_place() -> None:
    files = [file for floor in FLOORS for file in (ROOT / floor).rglob("*.py")]
    bare = {str(file.relative_to(ROOT)) for file in files if reads_bare(file.read_text())}
    assert bare == READ_ELSEWHERE.keys()


def reads_bare(source: str) -> bool:
    """Whether a module calls `read_text` of a path, `json.load` of a file, or `load` of a YAML."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    methods = [(call.attr, ast.unparse(call.value).lower()) for call in calls if isinstance(call, ast.Attribute)]
    return any(name == "read_text" or (name == "load" and ("json" in of or "yaml" in of)) for name, of in methods)
