"""What `make docs` adds to docs/*.md: pages of the repository's own files, the reference, links that lead there.

A hook of MkDocs. A link out of docs/ works on a git host as it is; on the site it leads to a page made of that file.
"""

import re
import runpy
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
ROOT_PAGES = {"README.md": "overview.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
LISTED = re.compile(r"[\w./-]+\.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages that the navigation does not name, at its end."""
    named = set(LISTED.findall(str(config.nav)))
    more: list[Any] = [page.name for page in sorted(DOCS.glob("*.md")) if page.name not in named]
    if more:
        assert config.nav is not None
        config.nav.append({"More": more})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Root pages, the reference, and a page for each file or folder of the repository that a page links to."""
    texts = [page.read_text() for page in DOCS.glob("*.md")]
    made = {page: root_text(name) for name, page in ROOT_PAGES.items()} | runpy.run_path(str(DOCS / "reference.py"))[
        "pages"
    ]()
    for text in [*(site_links(text) for text in texts), *made.values()]:
        for target, _ in LINK.findall(text):
            if target.startswith("source/") and target not in made:
                made = {**made, target: source_page(ROOT / target.removeprefix("source/").removesuffix(".md"))}
    for path, text in made.items():
        file = File.generated(config, path, content=text)
        if path.startswith("source/"):
            file.inclusion = type(file.inclusion).NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    own = page.file.src_uri in {path.name for path in DOCS.glob("*.md")}
    return site_links(markdown) if own else markdown


def site_links(text: str) -> str:
    """A page of docs/ with the links that leave it turned to pages of the site."""
    return LINK.sub(lambda link: f"]({site_place(link[1])}{link[2] or ''})", text)


def root_text(name: str) -> str:
    """A page of the root folder as a page of docs/."""

    def moved(link: re.Match[str]) -> str:
        target = link[1].removeprefix("docs/") if link[1].startswith("docs/") else site_place(f"../{link[1]}")
        return f"]({target}{link[2] or ''})"

    return LINK.sub(moved, (ROOT / name).read_text())


def site_place(target: str) -> str:
    """The site's page for what a page of docs/ links to. What does not exist stays, for the strict build to refuse."""
    name = target.removeprefix("../")
    path = (ROOT if target.startswith("../") else DOCS) / name
    if target.startswith("../") and name in ROOT_PAGES:
        return ROOT_PAGES[name]
    shown = target.startswith("../") or path.suffix in {".py", ".sbatch", ".tsv"} or path.is_dir()
    return f"source/{path.resolve().relative_to(ROOT)}.md" if shown and path.exists() else target


def source_page(path: Path) -> str:
    name = path.relative_to(ROOT)
    if path.is_dir():
        names = sorted(
            f"- `{one.name}{'/' if one.is_dir() else ''}`" for one in path.iterdir() if one.name[0] not in "._"
        )
        return f"# {name}/\n\n" + "\n".join(names) + "\n"
    return f"# {name}\n\n````{path.suffix.removeprefix('.').replace('sbatch', 'bash')}\n{path.read_text()}\n````\n"
