"""The pictures of docs/report.md, of results/report.html in headless Chromium.

PYTHONPATH=. python docs/screens.py        writes docs/report/*.png
PYTHONPATH=. python docs/screens.py gsm8k  writes the claim of the run that results/ holds to docs/report/gsm8k.png
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser import Browser, browser

PAGE, SCREENS = Path("results/report.html"), Path(__file__).with_name("report")
COLOURS = 160
"""Of a picture, so that all of them together stay small."""
OPENED = """(() => {
  const menu = document.querySelector("select[aria-label=order]");
  menu.value = "better";
  menu.dispatchEvent(new Event("change"));
  const row = document.querySelector(".row");
  row.open = true;
  return new Promise((done) => setTimeout(() => {
    document.querySelectorAll(".thought").forEach((one) => { one.open = true; });
    document.getElementById("problems").scrollIntoView();
    setTimeout(done, 300);
  }, 300));
})()"""
HOVERED = """(() => {
  document.querySelector("[data-chart=grpo-rewards]").scrollIntoView();
  const over = document.querySelector("[data-chart=grpo-rewards] .u-over");
  const box = over.getBoundingClientRect();
  const place = { clientX: box.left + box.width * 0.3, clientY: box.top + 60, bubbles: true };
  over.dispatchEvent(new MouseEvent("mouseenter"));
  over.dispatchEvent(new MouseEvent("mousemove", place));
  return new Promise((done) => setTimeout(done, 300));
})()"""


def screen(tab: Browser, name: str, width: int, height: int, prepare: str = "0", dark: bool = False) -> None:
    """One picture, after `prepare` has run on the page."""
    tab.size(width, height)
    tab.dark(dark)
    tab.open(PAGE)
    tab.run(prepare)
    with tempfile.TemporaryDirectory() as folder:
        tab.picture(Path(folder) / "screen.png")
        picture = Image.open(Path(folder) / "screen.png").convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(SCREENS / f"{name}.png", optimize=True)


def main() -> None:
    SCREENS.mkdir(exist_ok=True)
    with browser() as tab:
        if names := sys.argv[1:]:
            return screen(tab, names[0], 1280, 640)
        screen(tab, "claim", 1280, 640)
        screen(tab, "problems", 1280, 960, OPENED)
        screen(tab, "curves-dark", 1280, 760, HOVERED, dark=True)
        screen(tab, "phone-claim", 390, 844)
        screen(tab, "phone-problems", 390, 844, OPENED)
        screen(tab, "phone-curves-dark", 390, 844, HOVERED, dark=True)


if __name__ == "__main__":
    main()
