"""Every path of the pipeline, once. Relative to the project's root, which is the working directory of a stage."""

from pathlib import Path

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")
LOCK = Path("dvc.lock")
RECIPES = Path("recipes")

SOURCE_DATA = Path("data/source")
BASE_MODELS = Path("models/base")
OWN_REWARDS = Path("rewards")
PREPARED = Path("data/prepared")
SFT_MODEL = Path("models/sft")
GRPO_MODEL = Path("models/grpo")

SFT_RESULTS = Path("results/sft")
GRPO_RESULTS = Path("results/grpo")
EVALUATE_RESULTS = Path("results/evaluate")
GRPO_METRICS = Path("results/grpo.json")
EVALUATE_METRICS = Path("results/evaluate.json")
"""The few numbers that DVC shows and compares. All of them are in metrics.json of the stage's results."""
REPORT = Path("results/report.html")
REPORT_FILES = Path("results/report")

OUTPUTS = (Path("data"), Path("models"), Path("results"))
"""The folders with what stages make. Each may be a link to another file system."""

# Untracked: what becomes an out by one rename, what may differ between two equal runs (seconds), and what
# a killed run goes on from, which has to outlive the outs that DVC removes before it runs a stage. Runs of flows with
# other params have a worktree each, and leave a report.
UNPUBLISHED = Path(".posttrain/unpublished")
PREPARING = Path(".posttrain/prepare")
RUN_LOG = Path(".posttrain/runs")
TRACKER_LOGS = Path(".posttrain/logs")
CHECKPOINTS = Path(".posttrain/checkpoints")
DIFFICULTY = Path(".posttrain/difficulty")
COMPLETIONS = Path(".posttrain/completions")
LOCKS = Path(".posttrain/locks")
LAUNCH_CONFIGS = Path(".posttrain/launch")
LAUNCH_LOGS = Path(".posttrain/logs/launch")
WORKTREES = Path(".posttrain/worktrees")
REPORTS = Path(".posttrain/reports")
SWEEPS = Path(".posttrain/sweeps")

LIGHTEVAL_ENVIRONMENT = Path(".venv-lighteval")

TEMPORARY = "/.dvc/tmp/exps/"
"""Where DVC makes the workspaces of `dvc exp run --temp` and `--queue`. They lack what git ignores."""


def project_folder() -> Path:
    """The working folder, or the project that DVC made it for."""
    before, temporary, _ = Path.cwd().as_posix().partition(TEMPORARY)
    return Path(before) if temporary else Path()
