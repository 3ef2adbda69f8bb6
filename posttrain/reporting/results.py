"""What a report is made from: the results of the stages, read, with nothing that only one machine has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain import paths
from posttrain.errors import InputError
from posttrain.graph import how_to_restore
from posttrain.outputs.json_files import read_object, read_objects
from posttrain.outputs.manifest import MANIFEST, sha256
from posttrain.params.schema import Params
from posttrain.text_files import read_text

Columns = dict[str, list[float | None]]

MODELS = {"base": "base", "sft": "SFT", "grpo": "GRPO"}
"""Those that an evaluation can have, and what a person calls them."""

FOLDERS = {"sft": paths.SFT_RESULTS, "grpo": paths.GRPO_RESULTS}


@dataclass(frozen=True)
class Results:
    """The stages' results; `manifests` are of the data and of the evaluation."""

    params: Params
    evaluation: dict[str, Any]
    samples: list[dict[str, Any]]
    sft: dict[str, Any]
    health: dict[str, Any]
    curves: dict[str, Columns]
    manifests: dict[str, dict[str, Any]]
    hashes: dict[str, str]
    """The sha256 of each of those manifests."""

    @property
    def models(self) -> dict[str, str]:
        """Those evaluated, in the order of training."""
        return {name: label for name, label in MODELS.items() if name in self.evaluation}

    @property
    def held_out(self) -> list[dict[str, Any]]:
        """The problems that the claim is of, without those of further tasks."""
        return [row for row in self.samples if "task" not in row]

    @property
    def adopted(self) -> bool:
        """Whether models/sft was taken as it is, without SFT here."""
        return "tokens_seen" not in self.sft


def read(params: Params) -> Results:
    """Raises: InputError naming the stage to run, if one of its results is missing."""
    manifests = {"prepare": paths.PREPARED / MANIFEST, "evaluate": paths.EVALUATE_RESULTS / MANIFEST}
    return Results(
        params=params,
        evaluation=read_json(paths.EVALUATE_RESULTS / "metrics.json", "evaluate"),
        samples=read_samples(paths.EVALUATE_RESULTS / "samples.jsonl", "evaluate"),
        sft=read_json(paths.SFT_RESULTS / "metrics.json", "sft"),
        health=read_json(paths.GRPO_RESULTS / "health.json", "grpo"),
        curves={stage: read_curve(folder / "curve.tsv", stage) for stage, folder in FOLDERS.items()},
        manifests={stage: read_json(path, stage) for stage, path in manifests.items()},
        hashes={stage: sha256(path) for stage, path in manifests.items()},
    )


def read_samples(path: Path, made_by: str) -> list[dict[str, Any]]:
    """Raises: InputError if the file is missing, or has a line that is no JSON object"""
    return list(read_objects(require_file(path, made_by), how_to_restore(made_by, path)))


def require_file(path: Path, made_by: str) -> Path:
    """Raises: InputError if the file is missing."""
    if not path.is_file():
        raise InputError(
            str(path),
            got="no such file",
            wanted=f"the output of `posttrain {made_by}`",
            do=f"run `posttrain {made_by}` first, or `dvc repro`",
        )
    return path


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """Raises: InputError if the file is missing or holds no JSON object with something in it"""
    data = read_object(require_file(path, made_by), how_to_restore(made_by, path))
    if not data:
        raise InputError(
            str(path), got="an empty object", wanted="the file as the stage wrote it", do=how_to_restore(made_by, path)
        )
    return data


def read_curve(path: Path, made_by: str) -> Columns:
    """A TSV as columns; an empty cell, a step at which the quantity was not logged, is None.

    Raises: InputError if the file is missing or no table of numbers
    """
    text = read_text(require_file(path, made_by), how_to_restore(made_by, path))
    try:
        head, *rows = [line.split("\t") for line in text.splitlines() or [""]]
        if "step" not in head:
            raise ValueError("no column `step`")
        cells = {name: column for name, *column in zip(head, *rows, strict=True)}
        return {name: [float(cell) if cell else None for cell in column] for name, column in cells.items()}
    except ValueError as error:
        wanted = "the curve that the stage wrote"
        raise InputError(str(path), got=str(error)[:120], wanted=wanted, do=how_to_restore(made_by, path)) from None
