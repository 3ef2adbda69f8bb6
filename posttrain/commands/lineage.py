"""From a checkpoint back to its data: does everything still hold, and what came of it?

Reads   the manifests of models/, data/prepared and results/evaluate, every file that they name, params.yaml
Writes  nothing
Run     posttrain verify [FOLDER], posttrain lineage
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.graph import how_to_restore
from posttrain.outputs.disk import readable
from posttrain.outputs.facts import MADE_BY, code_hash, code_path, differences, versions
from posttrain.outputs.json_files import read_object
from posttrain.outputs.manifest import MANIFEST, files_of, read_manifest, sha256, sha256_all
from posttrain.params.schema import Params
from posttrain.paths import EVALUATE_RESULTS, GRPO_MODEL, GRPO_RESULTS, PREPARED, RUN_LOG, SFT_MODEL, SFT_RESULTS
from posttrain.training.card import is_number

OK, CHANGED, MISSING, NOTE = "ok", "changed", "missing", "note"
SHORT = 12
"""Characters of a hash that a person reads."""


@dataclass(frozen=True)
class Check:
    verdict: str
    what: str
    detail: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# verify


def verify(folder: Path, params: Params) -> bool:
    """Print a line for each thing that holds and for each that does not; whether all hold."""
    began = time.monotonic()
    verdicts: Counter[str] = Counter()
    sizes_b: dict[Path, int] = {}
    for check in walk(normal(folder), params, sizes_b):
        verdicts[check.verdict] += 1
        print(f"{check.verdict:7} {check.what}" + (f" | {check.detail}" if check.detail else ""), flush=True)
    seconds, size_b = time.monotonic() - began, sum(sizes_b.values())
    counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in (OK, CHANGED, MISSING))
    print(f"verify  {counts} | {readable(size_b)} hashed in {seconds:.1f} s, {readable(round(size_b / seconds))}/s")
    return not verdicts[CHANGED] and not verdicts[MISSING]


def normal(folder: Path) -> Path:
    """The folder as manifests call it, if it is in the project."""
    absolute = folder.absolute()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def walk(folder: Path, params: Params, sizes_b: dict[Path, int]) -> Iterator[Check]:
    """The checks of a folder and of all that it was made from, each folder once; `sizes_b` gets what was hashed."""
    waiting, seen = [folder], set()
    while waiting:
        node = waiting.pop(0)
        if node in seen:
            continue
        seen.add(node)
        again = f"posttrain {MADE_BY.get(node, 'STAGE')}"
        if not (node / MANIFEST).is_file():
            yield Check(MISSING, str(node / MANIFEST), f"half-written or not there: `{again}` makes it")
            continue
        try:
            manifest = read_manifest(node / MANIFEST, f"run `{again}` again")
        except InputError as error:
            yield Check(CHANGED, str(node / MANIFEST), error.got)
            continue
        yield from check_files(node, manifest["files"], sizes_b)
        sections = [section(manifest, name) for name in ("parents", "inputs", "params", "code")]
        if None in sections:
            yield Check(
                MISSING, str(node / MANIFEST), f"it does not say what {node} was made from; run `{again}` again"
            )
            continue
        if "adopted" in manifest:
            yield Check(NOTE, f"{node}: origin", f"adopted from {manifest['adopted']}, not trained here")
        parents, inputs, recorded, code = (value or {} for value in sections)
        yield from check_parents(node, parents)
        yield from check_inputs(node, inputs, sizes_b)
        yield from check_params(node, recorded, params)
        yield from check_code(node, code)
        yield from note_versions(node, manifest)
        waiting += [Path(parent) for parent in reversed(parents)]  # the model first, the data last


def section(manifest: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = manifest.get(name)
    return value if isinstance(value, dict) else None


def check_files(node: Path, files: dict[str, str], sizes_b: dict[Path, int]) -> Iterator[Check]:
    """The files of a folder against its manifest: each as written, none missing, none added."""
    there = {str(path.relative_to(node)) for path in files_of(node)}
    faults = list(compare({node / name: value for name, value in files.items()}, sizes_b))
    faults += [
        Check(CHANGED, str(node / name), "added: no stage wrote it") for name in sorted(there - {*files, MANIFEST})
    ]
    yield from faults or [Check(OK, str(node), f"{counted(files)} as written")]


def check_inputs(node: Path, inputs: dict[str, str], sizes_b: dict[Path, int]) -> Iterator[Check]:
    faults = list(compare({Path(name): value for name, value in inputs.items()}, sizes_b))
    yield from (Check(fault.verdict, fault.what, f"{fault.detail}; {node} was made from it") for fault in faults)
    if inputs and not faults:
        yield Check(OK, f"{node}: inputs", f"{counted(inputs)} as read")


def compare(recorded: dict[Path, str], sizes_b: dict[Path, int]) -> Iterator[Check]:
    """What is missing or has another hash than recorded. No file is read twice."""
    present = [path for path in recorded if path.is_file()]
    sizes_b |= {path: path.stat().st_size for path in present}
    hashes = sha256_all(present)
    for path, value in recorded.items():
        if path not in hashes:
            yield Check(MISSING, str(path), "no such file")
        elif hashes[path] != value:
            yield Check(CHANGED, str(path), f"sha256 {value[:SHORT]} when written, now {hashes[path][:SHORT]}")


def counted(files: dict[str, str]) -> str:
    return f"{len(files)} file" + ("s" if len(files) != 1 else "")


def check_parents(node: Path, parents: dict[str, str]) -> Iterator[Check]:
    for name, value in parents.items():
        manifest = Path(name) / MANIFEST
        if not manifest.is_file():
            continue  # its own node says so
        if sha256(manifest) == value:
            yield Check(OK, f"{node}: parent {name}", f"manifest {value[:SHORT]}")
        else:
            yield Check(CHANGED, f"{node}: parent {name}", f"made from another one, {value[:SHORT]}")


def check_params(node: Path, recorded: dict[str, Any], params: Params) -> Iterator[Check]:
    now = params.model_dump(mode="json", include=set(recorded))
    faults = differences({"params": recorded}, {"params": now})
    yield from (Check(CHANGED, f"{node}: params", fault) for fault in faults)
    if not faults:
        yield Check(OK, f"{node}: params", f"{', '.join(recorded)} as in params.yaml")


def check_code(node: Path, code: dict[str, str]) -> Iterator[Check]:
    faults = []
    for name, value in code.items():
        path = code_path(name)
        if not path.is_file():
            faults.append(Check(MISSING, f"{node}: code", f"{name}: no such file"))
        elif (now := code_hash(path.read_bytes(), path.suffix)) != value:
            faults.append(Check(CHANGED, f"{node}: code", f"{name} {value[:SHORT]} when run, now {now[:SHORT]}"))
    yield from faults or [Check(OK, f"{node}: code", f"{len(code)} modules as run, comments aside")]


def note_versions(node: Path, manifest: dict[str, Any]) -> Iterator[Check]:
    """Other packages than it was made with: the bytes hold, a new run may give others."""
    used, now = manifest.get("versions", {}), versions()
    other = [f"{name} {used[name]}, now {now.get(name, 'none')}" for name in used if used[name] != now.get(name)]
    if other:
        yield Check(NOTE, f"{node}: versions", f"{'; '.join(other)}: a new run may give other bytes")


# ---------------------------------------------------------------------------------------------------------------------
# lineage


def lineage() -> None:
    """The tree from the data to the evaluation, with the metrics at each node."""
    nodes = [
        (PREPARED, data_lines),
        (SFT_MODEL, lambda: adoption() + training_lines(SFT_RESULTS)),
        (GRPO_MODEL, lambda: training_lines(GRPO_RESULTS)),
        (EVALUATE_RESULTS, evaluation_lines),
    ]
    for depth, (folder, lines) in enumerate(nodes):
        indent = "   " * depth
        print(f"{indent[:-3]}{'└─ ' if depth else ''}{folder} | {state(folder)}")
        if (folder / MANIFEST).is_file():
            for line in lines():
                print(f"{indent}   {line}")


def state(folder: Path) -> str:
    """The hash of a node's manifest, the commit of its run where the log knows, and which parents are others now."""
    stage = MADE_BY[folder]
    if not (folder / MANIFEST).is_file():
        return f"not there: `posttrain {stage}` makes it"
    manifest = read_manifest(folder / MANIFEST, f"run `posttrain {stage}` again")
    value = sha256(folder / MANIFEST)
    others = [
        f"made from another {parent}"
        for parent, recorded in (section(manifest, "parents") or {}).items()
        if (Path(parent) / MANIFEST).is_file() and sha256(Path(parent) / MANIFEST) != recorded
    ]
    return " | ".join([f"manifest {value[:SHORT]}", *commit(stage, value), *others])


def commit(stage: str, manifest: str) -> list[str]:
    """The commit of the run that wrote a manifest; nothing if another run, or another machine, did."""
    log = read_numbers(RUN_LOG / f"{stage}.json", stage)
    made = log.get("git")
    if log.get("manifest") != manifest or not isinstance(made, dict):
        return []
    return [f"commit {made['commit'][:SHORT]}" + (" with changes" if made["dirty"] else "")]


def data_lines() -> list[str]:
    manifest = read_manifest(PREPARED / MANIFEST, "run `posttrain prepare` again")
    rows, dropped = section(manifest, "rows") or {}, section(manifest, "dropped") or {}
    return [
        ", ".join(f"{name} {number} rows" for name, number in sorted(rows.items())),
        *(f"left out: {number} {reason}" for reason, number in sorted(dropped.items())),
    ]


def adoption() -> list[str]:
    """Where models/sft comes from if nothing trained it."""
    manifest = read_manifest(SFT_MODEL / MANIFEST, "run `posttrain sft` again")
    return [f"adopted from {manifest['adopted']}, not trained here"] if "adopted" in manifest else []


def training_lines(results: Path) -> list[str]:
    """The metrics of sft or grpo; where a run has a first and a last value, both on one line."""
    metrics = {
        name: value for name, value in read_numbers(results / "metrics.json", results.name).items() if is_number(value)
    }
    shown = []
    for name, value in sorted(metrics.items()):
        if name.endswith("_first") and name.removesuffix("_first") in metrics:
            continue
        first = metrics.get(f"{name}_first")
        shown.append(f"{name} {value:.4g}" if first is None else f"{name} {first:.4g} → {value:.4g}")
    return wrapped(shown) or [f"no {results}/metrics.json"]


def evaluation_lines() -> list[str]:
    metrics = read_numbers(EVALUATE_RESULTS / "metrics.json", "evaluate")
    lines = []
    for model in ("base", "sft", "grpo"):
        values = metrics.get(model, {})
        if "pass@1" in values:
            interval = f"[{values['pass@1_low']:.3f}, {values['pass@1_high']:.3f}]"
            lines.append(f"{model:4} pass@1 {values['pass@1']:.3f} {interval} | format {values['format']:.3f}")
    if gain := metrics.get("sft_gain"):
        lines.append(f"SFT {gain['verdict']}: {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    if gain := metrics.get("gain"):
        lines.append(f"{metrics['verdict']}: {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    return lines or [f"no {EVALUATE_RESULTS}/metrics.json"]


def wrapped(items: list[str], width: int = 100) -> list[str]:
    """Items joined to lines."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 3 <= width:
            lines[-1] += f" | {item}"
        else:
            lines.append(item)
    return lines


def read_numbers(path: Path, made_by: str) -> dict[str, Any]:
    """A file of metrics; nothing where there is none.

    Raises: InputError if it is no JSON object.
    """
    if not path.is_file():
        return {}
    return read_object(path, how_to_restore(made_by, path))
