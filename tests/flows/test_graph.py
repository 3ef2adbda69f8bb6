"""What flows read in dvc.yaml."""

from pathlib import Path

import pytest

from posttrain.errors import InputError
from posttrain.graph import given_inputs, made_inputs, small_files, stage_names

ROOT = Path(__file__).parents[2]
COPY = {"cmd": "cp in.txt out.txt", "deps": ["in.txt"], "outs": ["out.txt"]}
COUNT = {
    "cmd": "wc out.txt > count.txt",
    "deps": ["in.txt", "out.txt"],
    "metrics": [{"count.txt": {"cache": False}}],
    "plots": ["plot.csv"],
}


def test_stages_are_named_in_the_order_of_the_file(dvc_project):
    assert stage_names(dvc_project({"zebra": COPY, "ant": COUNT})) == ["zebra", "ant"]


def test_the_five_words_are_the_stages_of_this_project():
    assert stage_names(ROOT) == ["prepare", "sft", "grpo", "evaluate", "report"]


def test_what_a_stage_reads_is_given_or_made(dvc_project):
    root = dvc_project({"copy": COPY, "count": COUNT})
    assert given_inputs(root) == ["in.txt"]
    assert made_inputs("count", root) == {"out.txt": "copy"}
    assert made_inputs("copy", root) == {}


def test_small_files_are_what_dvc_leaves_to_git(dvc_project):
    root = dvc_project({"copy": COPY, "count": COUNT})
    assert small_files(root) == ["count.txt"]
    assert small_files(root, ["copy"]) == []


def test_outside_a_project_the_error_says_where_to_go(tmp_path):
    with pytest.raises(InputError, match="run in the project's root folder"):
        stage_names(tmp_path)
