"""A chart as SVG that needs nothing from a network.

Reads, writes  nothing
Run            data_uri(intervals([("seed=1", 0.95, 0.97, 0.98)], "pass@1"))
"""

import base64
from collections.abc import Sequence
from html import escape

WIDTH, LABEL, MARGIN, ROW = 760, 320, 20, 24


def intervals(rows: Sequence[tuple[str, float, float, float]], title: str) -> str:
    """A line from low to high with a dot at the value for each (name, low, value, high), on an axis from 0 to 1."""
    height = ROW * (len(rows) + 2) + MARGIN
    parts = [f'<text x="{MARGIN}" y="{ROW - 6}" font-weight="bold">{escape(title)}</text>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{x(tick)} {ROW}V{height - ROW}" stroke="#ccc"/>')
        parts.append(f'<text x="{x(tick)}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    for index, (name, low, value, high) in enumerate(rows, start=1):
        y = ROW * index + ROW // 2
        parts.append(f'<text x="{MARGIN}" y="{y + 4}">{escape(name)}</text>')
        parts.append(f'<path d="M{x(low)} {y}H{x(high)}" stroke="#36c" stroke-width="3"/>')
        parts.append(f'<circle cx="{x(value)}" cy="{y}" r="5" fill="#36c"><title>{value:.3f}</title></circle>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )


def x(value: float) -> float:
    return round(LABEL + value * (WIDTH - LABEL - 2 * MARGIN), 1)


def data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
