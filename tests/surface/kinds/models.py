"""Folders of models in models/base, through `posttrain check`, `chat` and `sft`."""

import json
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from posttrain.params.file import read_yaml
from tests.surface import faults
from tests.surface.case import Case
from tests.surface.kinds.data import as_yaml
from tests.surface.kinds.reward_files import LINES

FOLDER = "models/base/m"
OBJECTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("check",),
    ("check",),
    ("chat", FOLDER, "--ask", "2 + 2"),
    ("sft",),
    ("rewards", "rows.jsonl", "--tokenizer", FOLDER),
)
TEMPLATES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 9999999999 }}",
    "{{ 'a' * 99999999 }}",
    "{% for a in range(9999999) %}{{ 'a' * 1000 }}{% endfor %}",
    "{{ messages | string * 99999999 }}",
    "{{ 10 ** 99999999 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ raise_exception('\\x1b[31m') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages[99].content }}",
    "{% if %}",
    "{% include '/etc/passwd' %}",
    "{{ '\x1b[31m' }}",
    "{{ strftime_now('%H:%M:%S.%f') }}",
    "{{" * 5000,
    "{{ '%999999999d' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{% for a in messages[-1].content %}{% for b in messages[-1].content %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% if messages[0].role != 'system' %}{{ ['a'] * 10 ** 9 }}{% endif %}",
    "{{ strftime_now('" * 9000,
)


def cases(project: Path) -> st.SearchStrategy[Case]:
    there = {path.name: path.read_bytes() for path in (project / "models/sft").iterdir()}
    files = {name: content for name, content in there.items() if name != "manifest.json"}
    return st.builds(
        lambda fault, argv: case_of(project, files, fault, argv),
        faulty_file(files),
        st.sampled_from(COMMANDS),
    )


def case_of(project: Path, files: dict[str, bytes], fault: tuple[str, faults.Fault], argv: tuple[str, ...]) -> Case:
    params = read_yaml(project / "params.yaml")
    params["model"]["name_or_path"] = FOLDER
    params["launch"]["processes"] = 1
    params["sft"].update(max_steps=1, warmup_steps=0, logging_steps=1)
    name, (what, content, expected) = fault
    given: dict[str, Any] = {f"{FOLDER}/{one}": text for one, text in files.items()}
    given |= {f"{FOLDER}/{name}": content, "params.yaml": as_yaml(params)}
    rows = {"rows.jsonl": LINES} if argv[0] == "rewards" else {}
    known = expected == "accepted" or argv == ("sft",)
    return Case(argv, f"{name}: {what}", given | rows, expected if known else "either")


@st.composite
def faulty_file(draw: st.DrawFn, files: dict[str, bytes]) -> tuple[str, faults.Fault]:
    name = draw(st.sampled_from([*OBJECTS, "chat_template.jinja", "model.safetensors", "README.md"]))
    valid = files[name]
    found = faults.of_bytes(valid) | faults.of_place("either")
    if name in OBJECTS:
        found |= faults.in_tree(json.loads(valid)) | faults.in_tree(json.loads(valid))
    elif name == "model.safetensors":
        found = faults.of_bytes(valid, "refused") | faults.of_place() | weights(valid)
    elif name == "chat_template.jinja":
        bodies = st.sampled_from(TEMPLATES)
        found |= bodies.map(lambda text: faults.Fault(text[:60], text.encode() + valid, "either"))
    else:
        tree = {"license": "mit", "base_model": "a/b", "tags": ["x"]}
        found |= faults.in_tree(tree).map(
            lambda one: one._replace(content=b"---\n" + bytes(one.content) + b"\n---\n")  # type: ignore[arg-type]
        )
    return name, draw(found)


def weights(valid: bytes) -> st.SearchStrategy[faults.Fault]:
    """safetensors with another header, without a tensor, or with numbers that are none."""
    (length,) = struct.unpack("<Q", valid[:8])
    header, data = json.loads(valid[8 : 8 + length]), valid[8 + length :]
    names = [name for name in header if name != "__metadata__"]

    def packed(text: bytes, rest: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text + rest

    def without(name: str) -> faults.Fault:
        kept = {one: entry for one, entry in header.items() if one != name}
        return faults.Fault(f"{name} left out", packed(json.dumps(kept).encode(), data), "refused")

    def lost(name: str) -> faults.Fault:
        start = header[name]["data_offsets"][0]
        return faults.Fault(
            f"NaN in {name}",
            packed(json.dumps(header).encode(), data[:start] + b"\xff\xff\xff\x7f" + data[start + 4 :]),
            "refused",
        )

    changed = faults.in_tree(header).map(
        lambda one: one._replace(content=packed(bytes(one.content), data), expected="either")
    )  # type: ignore[arg-type]
    return changed | st.sampled_from(names).map(without) | st.sampled_from(names).map(lost)


def valid(project: Path) -> st.SearchStrategy[Case]:
    """The model as it is, as other programs save it, and with further files beside it."""
    there = {path.name: path.read_bytes() for path in (project / "models/sft").iterdir()}
    files = {name: content for name, content in there.items() if name != "manifest.json"}
    weights, template = files["model.safetensors"], files["chat_template.jinja"]
    (length,) = struct.unpack("<Q", weights[:8])
    header, data = json.loads(weights[8 : 8 + length]), weights[8 + length :]
    text = json.dumps(dict(reversed(header.items()))).encode()
    text += b" " * (-len(text) % 8)
    others = {
        "unchanged": {},
        "a header in another order": {"model.safetensors": struct.pack("<Q", len(text)) + text + data},
        "without a card": {"README.md": b""},
        "further files": {"notes.txt": b"\xff", ".gitattributes": b"*.safetensors filter=lfs\n"},
        "comments in the template": {"chat_template.jinja": b"{# of ours #}" + template},
        "a loop in the template": {
            "chat_template.jinja": b"{% for n in range(3) %}{% set x = n %}{% endfor %}" + template
        },
        "JSON with other spaces": {"config.json": json.dumps(json.loads(files["config.json"]), indent=8).encode()},
    }
    return st.builds(
        lambda name, argv: case_of(project, files | others[name], ("README.md", named(name, files, others)), argv),
        st.sampled_from(list(others)),
        st.sampled_from(COMMANDS),
    )


def named(name: str, files: dict[str, bytes], others: dict[str, dict[str, bytes]]) -> faults.Fault:
    return faults.Fault(name, others[name].get("README.md", files["README.md"]), "accepted")
