"""Every path of the pipeline, once. Relative to the project's root, which is the working directory of a stage."""

from pathlib import Path

PARAMS = Path("params.yaml")
RECIPES = Path("recipes")

PREPARED = Path("data/prepared")
SFT_MODEL = Path("models/sft")
GRPO_MODEL = Path("models/grpo")

SFT_RESULTS = Path("results/sft")
GRPO_RESULTS = Path("results/grpo")
EVALUATE_RESULTS = Path("results/evaluate")
REPORT = Path("results/report.html")

# Untracked: scratch folders that become outs by one rename, and what may differ between two equal runs (seconds).
SCRATCH = Path(".posttrain/scratch")
RUN_LOG = Path(".posttrain/runs")

LIGHTEVAL_ENVIRONMENT = Path(".venv-lighteval")
