"""The report in a browser: nothing of a model runs, nothing is asked for, and all problems can be found."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from posttrain import paths
from posttrain.outputs.manifest import MANIFEST, sha256, write_json
from posttrain.params.file import load_params
from posttrain.reporting import page
from stages import report
from tests.browser import CHROMIUM, Browser, browser

ROOT = Path(__file__).parents[2]
LIBRARY = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
ATTACKS = (
    "</script><script>window.ran = 1; alert(1)</script>",
    "<img src=x onerror='window.ran = 2'>",
    "<svg onload='window.ran = 3'></svg><!-- <script>",
    "\u2028window.ran = 4\u2029 \ud83d {{ 7 * 7 }} ${window.ran = 5} ]]>",
    "<iframe src='javascript:parent.ran = 6'></iframe><a href='javascript:ran = 7'>x</a>",
)
PROBLEMS = 150
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


def test_the_library_is_the_one_that_was_published() -> None:
    for name, value in LIBRARY.items():
        assert sha256(page.HERE / "vendor" / name) == value
    assert "MIT License" in (page.HERE / "vendor/LICENSE").read_text()


@pytest.mark.parametrize("text", ATTACKS)
def test_embedded_json_neither_ends_its_block_nor_changes(text: str) -> None:
    held = page.embedded({text: [text]})
    assert json.loads(held) == {text: [text]}
    assert not set("<>&\u2028\u2029") & set(held)
    held.encode()


def test_embedded_json_is_json() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        page.embedded(float("nan"))


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
@pytest.mark.parametrize("name", page.SCRIPTS)
def test_the_pages_scripts_are_valid_and_build_no_markup(name: str) -> None:
    path = page.HERE / f"page/{name}.js"
    assert subprocess.run(["node", "--check", str(path)], capture_output=True, text=True).stderr == ""
    source = path.read_text()
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|fetch\(", source)
        == []
    )
    assert max(map(len, source.splitlines())) <= 160


class Elements(HTMLParser):
    """Every element with its attributes; the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.scripts[-1] += data


def model(rate: float) -> dict[str, Any]:
    return {"pass@1": rate, "pass@1_low": rate - 0.05, "pass@1_high": rate + 0.05, "format": 1.0}


def answered(number: int, right: list[int], text: str) -> dict[str, Any]:
    texts = [f"<think>\nthought {number}.{place} {text}\n</think>\n<answer>\n{place}\n</answer>" for place in range(4)]
    return {
        "completions": texts,
        "correct": [float(value) for value in right],
        "finished": [True, True, True, number % 10 != 0],
        "tokens": [20 + number, 30, 40, 50],
        "differs": [None, "number" if number % 25 == 0 else None, None, None],
        "rewards": [{"accuracy": float(value), ATTACKS[1]: None} for value in right],
    }


def row(number: int) -> dict[str, Any]:
    """Of ten problems five go from wrong to right, one from right to wrong."""
    was, now = {0: ([1, 1, 1, 0], [0, 0, 0, 1]), 1: ([1] * 4, [1] * 4)}.get(number % 10, ([0, 0, 1, 0], [1, 1, 1, 1]))
    attack = ATTACKS[number % len(ATTACKS)]
    models = {"sft": answered(number, was, attack), "grpo": answered(number, now if number % 10 < 7 else was, attack)}
    return {"id": f"id{number}", "problem": f"Problem {number} {attack}", "answer": attack, **models}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of which every text is an attack."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = {
            "files": {},
            "rows": {"sft": 8, "train": 4, "test": PROBLEMS},
            "dropped": dict.fromkeys(ATTACKS, 1),
            "card": {attack: [attack] for attack in ATTACKS},
        }
        write_json(paths.PREPARED / MANIFEST, json.loads(json.dumps(data).replace("\\ud83d", "?")))
        write_json(paths.SFT_RESULTS / "metrics.json", {"parameters": 1, "tokens_seen": 1})
        (paths.SFT_RESULTS / "curve.tsv").write_text("step\tloss\n1\t2.5\n2\tnan\n3\t1.5\n")
        head = ["step", "reward/</script><u>", "advantage/std", "policy/kl_divergence"]
        steps = [[str(step), str(step / 100), "0.3", "0.01"] for step in range(1, 101)]
        paths.GRPO_RESULTS.mkdir(parents=True)
        (paths.GRPO_RESULTS / "curve.tsv").write_text("\n".join("\t".join(line) for line in [head, *steps]) + "\n")
        finding = {
            "rule": "truncation",
            "action": "warn",
            "step": 50,
            "saw": ATTACKS[0],
            "why": "Why.",
            "do": ATTACKS[1],
        }
        health = {"steps": {"asked": 100, "trained": 100, "published": 100}, "stopped_by": None, "rollbacks": []}
        write_json(paths.GRPO_RESULTS / "health.json", health | {"findings": [finding]})
        claim = {
            "sft": model(0.3),
            "grpo": model(0.8),
            "gain": {"mean": 0.5, "low": 0.4, "high": 0.6, "p_value": 1e-9, "detectable": 0.05},
            "verdict": "improved",
            "gate": {"min_gain": None, "passed": True},
            "problems": PROBLEMS,
            "samples_per_problem": 4,
            ATTACKS[0]: {ATTACKS[1]: ATTACKS[2]},
        }
        write_json(paths.EVALUATE_RESULTS / "metrics.json", claim)
        write_json(paths.EVALUATE_RESULTS / MANIFEST, {"files": {}, "params": {"model": {"name_or_path": ATTACKS[0]}}})
        lines = [json.dumps(row(number)) for number in range(PROBLEMS)]  # half characters, escaped
        (paths.EVALUATE_RESULTS / "samples.jsonl").write_text("\n".join(lines) + "\n")
        params = load_params(ROOT / "params.yaml")
        report.run(params.model_copy(update={"prepare": params.prepare.model_copy(update={"dataset": ATTACKS[1]})}))
    return folder / paths.REPORT


def test_only_two_known_scripts_run_and_nothing_is_loaded(hostile: Path) -> None:
    elements = Elements()
    elements.feed(hostile.read_text(encoding="utf-8"))
    policy = next(
        attrs["content"] for _, attrs in elements.found if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    allowed = re.search(r"script-src ([^;]*);", policy)
    assert allowed is not None
    kinds = [attrs.get("type") for tag, attrs in elements.found if tag == "script"]
    run = [text for kind, text in zip(kinds, elements.scripts, strict=True) if kind is None]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert allowed[1] == " ".join(f"'sha256-{value}'" for value in hashes)
    assert len(hashes) == 2
    assert set(kinds) == {None, "application/json"}
    for tag, attrs in elements.found:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "u"}, (tag, attrs)
        addresses = [
            value or "" for name, value in attrs.items() if name in {"src", "href", "xlink:href", "srcset", "action"}
        ]
        assert all(address.startswith("#") for address in addresses), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)


# ---------------------------------------------------------------------------------------------------------------------
# In Chromium


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def tab(chromium: Browser, hostile: Path) -> Iterator[Browser]:
    """The page as it opens. Whatever a test does with it, nothing ran, failed, or left the file."""
    chromium.size(1280, 900)
    chromium.dark(False)
    chromium.open(hostile)
    yield chromium
    assert chromium.run("window.ran") is None
    assert chromium.said == []
    assert {address.partition(":")[0] for address in chromium.requests} <= {"file", "data"}
    assert {address for address in chromium.requests if address.startswith("file")} == {hostile.as_uri()}


def found(tab: Browser) -> int:
    return int(tab.run("document.querySelector('.found').textContent").split()[0].replace(",", ""))


def search(tab: Browser, text: str) -> int:
    tab.run(
        f"""(() => {{ const box = document.querySelector('input[type=search]'); box.value = {json.dumps(text)};
        box.dispatchEvent(new Event('input')); return new Promise((done) => setTimeout(done, 250)); }})()"""
    )
    return found(tab)


def choose(tab: Browser, menu: str, value: str) -> int:
    tab.run(
        f"""(() => {{ const menu = document.querySelector('select[aria-label="{menu}"]');
        menu.value = {json.dumps(value)}; menu.dispatchEvent(new Event('change')); }})()"""
    )
    return found(tab)


@needs_browser
def test_hostile_text_is_shown_as_text(tab: Browser) -> None:
    assert tab.run("[...document.querySelectorAll('.row .text')].slice(0, 2).map((one) => one.textContent)") == [
        f"Problem {number} {ATTACKS[number]}" for number in (0, 1)
    ]
    tab.run("document.querySelectorAll('.row').forEach((one) => { one.open = true; })")
    tab.run("new Promise((done) => setTimeout(done, 200))")
    assert tab.run("document.querySelector('.row[data-problem=id1] .thought pre').textContent").count(ATTACKS[1]) == 1
    assert tab.run("document.querySelectorAll('.row img, .row iframe, .row script').length") == 0


@needs_browser
def test_problems_are_searched_and_filtered(tab: Browser) -> None:
    assert found(tab) == PROBLEMS
    assert search(tab, "problem 77") == 1
    assert search(tab, "thought 77.2") == 0
    tab.run("document.querySelector('.filters input[type=checkbox]').click()")
    assert search(tab, "THOUGHT 77.2") == 1
    search(tab, "")
    assert choose(tab, "outcome", "gained") == PROBLEMS // 2
    assert choose(tab, "outcome", "lost") == PROBLEMS // 10
    assert choose(tab, "outcome", "fewer") == PROBLEMS // 10
    assert choose(tab, "kind", "cut") == PROBLEMS // 10
    choose(tab, "outcome", "")
    assert choose(tab, "kind", "differs") == PROBLEMS // 25
    assert choose(tab, "kind", "mixed") == PROBLEMS - PROBLEMS // 10
    assert choose(tab, "model", "grpo") == PROBLEMS // 10 + 3 * PROBLEMS // 10
    choose(tab, "kind", "")
    choose(tab, "order", "longest")
    assert tab.run("document.querySelector('.row').dataset.problem") == f"id{PROBLEMS - 1}"


@needs_browser
def test_a_count_in_the_table_of_outcomes_is_a_filter(tab: Browser) -> None:
    counts = tab.run("[...document.querySelectorAll('button.count')].map((one) => one.textContent)")
    assert counts == ["75", "15", "15", "45", "75", "15"]
    tab.run("document.querySelectorAll('button.count')[1].click()")
    assert found(tab) == 15
    assert tab.run("document.querySelector('select[aria-label=outcome]').value") == "lost"
    tab.run("document.querySelectorAll('button.count')[1].click()")
    assert found(tab) == PROBLEMS


@needs_browser
def test_rows_are_made_as_they_are_needed_and_have_every_sample(tab: Browser) -> None:
    assert tab.run("document.querySelectorAll('.row').length") < PROBLEMS
    assert tab.run("document.querySelectorAll('.row .body').length") == 0
    for _ in range(5):
        tab.run("document.querySelector('.rows').scrollTo(0, 1e6); new Promise((done) => setTimeout(done, 100))")
    assert tab.run("document.querySelectorAll('.row').length") == PROBLEMS
    tab.run(
        "document.querySelector('.row[data-problem=id140]').open = true; new Promise((done) => setTimeout(done, 100))"
    )
    shown = "document.querySelector('.row[data-problem=id140] .columns > div:nth-child(2)')"
    assert tab.run(f"{shown}.querySelector('.thought').open") is False
    assert "thought 140.0" in tab.run(f"{shown}.querySelector('.thought pre').textContent")
    tab.run(f"{shown}.querySelectorAll('.samples button')[3].click()")
    assert "thought 140.3" in tab.run(f"{shown}.querySelector('.thought pre').textContent")
    assert tab.run(f"{shown}.querySelector('.facts').textContent").startswith("50 tokens · cut off · accuracy 1")


@needs_browser
def test_curves_can_be_read_hidden_and_saved(tab: Browser) -> None:
    assert tab.run("document.querySelectorAll('.uplot canvas').length") == 4
    assert tab.run("document.querySelector('[data-chart=grpo-kl] .static').checkVisibility()") is False
    tab.run(
        """(() => { const over = document.querySelector('[data-chart=grpo-kl] .u-over');
        const box = over.getBoundingClientRect();
        const place = { clientX: box.left + box.width * 49 / 99, clientY: box.top + 20, bubbles: true };
        over.dispatchEvent(new MouseEvent('mouseenter'));
        over.dispatchEvent(new MouseEvent('mousemove', place));
        return new Promise((done) => setTimeout(done, 200)); })()"""
    )
    legend = "document.querySelector('[data-chart=grpo-kl] .u-legend').textContent"
    assert re.sub(r"\s", "", tab.run(legend)) == "step50policy/kl_divergence0.01"
    assert tab.run("document.querySelector('[data-chart=grpo-kl] .event').textContent").startswith(
        "step 50: truncation (warn)"
    )
    tab.run("document.querySelectorAll('[data-chart=grpo-kl] .u-series')[1].querySelector('th').click()")
    assert tab.run("document.querySelectorAll('[data-chart=grpo-kl] .u-series.u-off').length") == 1
    svg = tab.run("document.querySelector('[data-figure=scores] .static svg').outerHTML")
    assert "var(--c3, #1a7f37)" in svg
    saved = (
        "HTMLAnchorElement.prototype.click = function () { (window.saved ??= []).push([this.download, this.href]); };"
    )
    tab.run(saved + "document.querySelectorAll('[data-figure=scores] .save button').forEach((one) => one.click())")
    tab.run("new Promise((done) => setTimeout(done, 500))")
    names = dict(tab.run("window.saved"))
    assert names["scores.svg"].startswith("data:image/svg+xml")
    assert "var(" not in names["scores.svg"]
    assert base64.b64decode(names["scores.png"].partition(",")[2]).startswith(b"\x89PNG")


@needs_browser
def test_the_page_fits_a_phone_and_the_dark(tab: Browser, hostile: Path) -> None:
    light = tab.run("getComputedStyle(document.body).backgroundColor")
    tab.size(390, 844)
    tab.open(hostile)
    assert tab.run("document.documentElement.scrollWidth") == 390
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; }); 0")
    assert tab.run("document.documentElement.scrollWidth") == 390
    tab.dark()
    assert tab.run("getComputedStyle(document.body).backgroundColor") != light


@needs_browser
def test_the_claim_is_there_without_javascript(tab: Browser, hostile: Path) -> None:
    tab.script(False)
    try:
        tab.open(hostile)
        tree = tab.ask("Accessibility.getFullAXTree")["nodes"]
    finally:
        tab.script(True)
    text = " ".join(str(node.get("name", {}).get("value", "")) for node in tree if not node["ignored"])
    assert "GRPO improved the model" in text
    assert "With JavaScript the page lists and searches all problems" in text
    assert "thought 0.0" in text
    assert "policy/kl_divergence" in text
