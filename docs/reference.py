"""The reference pages of the site, from the code: commands, rewards, library. Reads the code, runs only its parser.

python docs/reference.py    prints the names of the pages and how long they are
"""

import argparse
import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "posttrain"
NODES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def pages() -> dict[str, str]:
    """The Markdown of each page by its place on the site."""
    return {"reference/commands.md": commands(), "reference/rewards.md": rewards(), "reference/library.md": library()}


def commands() -> str:
    sys.path.insert(0, str(ROOT))
    os.environ["COLUMNS"] = "100"
    from posttrain.cli import parser

    root = parser()
    (found,) = (action for action in root._actions if isinstance(action, argparse._SubParsersAction))
    parts = [f"## posttrain {name}\n\n```\n{command.format_help()}```\n" for name, command in found.choices.items()]
    return f"# Commands\n\nWhat `posttrain COMMAND --help` prints.\n\n```\n{root.format_help()}```\n\n" + "\n".join(
        parts
    )


def rewards() -> str:
    """Every reward with its parameters, from the classes of the `rewards` section, and what its function says."""
    tree = ast.parse((LIBRARY / "params/rewards.py").read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    functions = dict(top_level(LIBRARY / "rewards"))
    text = "# Rewards\n\nKeys of the `rewards` section, each with a `weight`: [how they are used](../rewards.md).\n"
    for name, kind, meaning in fields(classes["Rewards"]):
        text += f"\n## {name}\n\n{meaning}\n"
        inner = list(fields(classes[kind.split(" |")[0]]))
        if inner:
            text += "\n| parameter | type | meaning |\n|---|---|---|\n"
            text += "".join(f"| `{key}` | {of.replace('|', chr(92) + '|')} | {says} |\n" for key, of, says in inner)
        if (node := functions.get(name)) is not None:
            text += f"\n```python\n{signature(node)}\n```\n\n{ast.get_docstring(node) or ''}\n"
    return text


def fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Name, type and docstring of the fields that have one."""
    for field, after in zip(node.body, node.body[1:], strict=False):
        said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and said:
            yield field.target.id, ast.unparse(field.annotation), " ".join(after.value.value.split())


def library() -> str:
    """Each module of the library with its public functions and classes, and what they say of themselves."""
    text = "# Library\n\nThe public names of `posttrain`, by module, with their docstrings.\n"
    for path in sorted(LIBRARY.rglob("*.py")):
        tree = ast.parse(path.read_text())
        shown = [
            node for node in tree.body if isinstance(node, NODES) and node.name[0] != "_" and ast.get_docstring(node)
        ]
        if not shown:
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        text += f"\n## {module}\n\n{quoted(ast.get_docstring(tree))}\n"
        for node in shown:
            text += f"\n```python\n{signature(node)}\n```\n\n{quoted(ast.get_docstring(node))}\n"
    return text


def top_level(folder: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                yield node.name, node


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}"


def quoted(docstring: str | None) -> str:
    """A docstring as it stands: its brackets and angles are no Markdown."""
    return f"```text\n{docstring}\n```" if docstring else ""


if __name__ == "__main__":
    for path, text in pages().items():
        print(f"{path} {len(text.splitlines())} lines")
