"""results/report.html: one page with all that it needs inside, and nothing of a model or a user that a browser runs.

Text is escaped by Jinja; data stand as JSON in blocks that no browser runs, and the page's scripts write them as text.
Two scripts run, which the Content-Security-Policy knows by their hashes: the charting library and the page's own.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from posttrain.reporting import charts, drawing, lengths, problems, provenance, tables
from posttrain.reporting.results import Results

HERE = Path(__file__).parent
SCRIPTS = ("dom", "filters", "completion", "controls", "problems", "charts", "files", "start")
"""The page's own, in the order in which they stand in one block."""
FORMS = ("svg", "png")
"""In which each figure is drawn."""
UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
"""What would end a block of JSON or mean something else in a script, and half characters, which no file can hold."""


def embedded(data: Any) -> str:
    """JSON that stays in its <script> element, whatever text it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@cache
def library() -> str:
    return (HERE / "vendor/uPlot.iife.min.js").read_text(encoding="utf-8")


@cache
def script() -> str:
    parts = [(HERE / f"page/{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n{\n' + "\n".join(parts) + "}\n"


def style() -> str:
    files = (HERE / "vendor/uPlot.min.css", HERE / "page/page.css", HERE / "page/problems.css")
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def policy(*scripts: str) -> str:
    """A Content-Security-Policy under which these scripts run and nothing else does or is fetched."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def render(results: Results, drawn: dict[str, bytes]) -> str:
    """The page; `drawn` has its figures, as `files` returns them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(HERE / "page"),
    )
    environment.filters["embedded"] = embedded
    environment.globals["grid"] = tables.grid
    return environment.get_template("report.html.jinja").render(**content(results, drawn))


def content(results: Results, drawn: dict[str, bytes]) -> dict[str, Any]:
    """What the templates show."""
    found, changed = lengths.measured(results), problems.transitions(results)
    return {
        "results": results,
        "evaluation": results.evaluation,
        "models": results.models,
        "tables": {table.name: table for table in tables.tables(results, changed, found)},
        "transitions": changed,
        "outcome_names": tables.OUTCOME_NAMES,
        "disagreements": problems.disagreements(results),
        "unit": found.unit,
        "charts": charts.charts(results),
        "events": charts.events(results.health),
        "figures": {name: drawing.for_page(drawn[f"{name}.svg"]) for name in figures(results)},
        "telling": problems.telling(results, results.params.report.num_samples),
        "lineage": provenance.lineage(results),
        "params": provenance.as_yaml(provenance.params(results)),
        "work": provenance.work(results),
        "data": {
            "curves": charts.for_page(results),
            "problems": {"labels": results.models, "unit": found.unit, "pairs": problems.pairs(results)},
            "index": problems.index(results),
        },
        "chunks": problems.chunks(results),
        "right": problems.right,
        "style": style(),
        "library": library(),
        "script": script(),
        "policy": policy(library(), script()),
    }


def figures(results: Results) -> dict[str, Callable[[], Any]]:
    """What draws each figure of the page, by the figure's name."""
    found = lengths.measured(results)
    return {
        "scores": partial(drawing.scores, results),
        "gains": partial(drawing.gains, results),
        **{f"lengths-{name}": partial(drawing.lengths, found, name) for name in results.models},
        **{
            chart.name: partial(drawing.curve, chart, columns, results.health)
            for chart, columns in charts.charts(results)
        },
    }


def files(results: Results) -> dict[str, bytes]:
    """The page's figures and tables as files, by name, for papers and slides."""
    found = {f"{name}.{form}": drawing.saved(draw(), form) for name, draw in figures(results).items() for form in FORMS}
    for table in tables.tables(results, problems.transitions(results), lengths.measured(results)):
        found |= {f"{table.name}.md": table.markdown().encode(), f"{table.name}.tex": table.latex().encode()}
    return found
