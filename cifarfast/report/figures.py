"""Figures as SVG that takes its colours from the page, so that one drawing serves light, dark and print.

Matplotlib draws with stand-in colours; ``to_svg`` replaces each by a CSS variable: ``--ink``, ``--muted``, ``--grid``,
``--paper``, ``--s0`` … for runs and ``--k0`` … for classes. Text stays text, in the page's own font.
"""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
DIAGONAL, ERROR = "#050505", "#060606"
SERIES, CLASSES = 8, 10
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    DIAGONAL: "--good",
    ERROR: "--bad",
    **{f"#0a0a{i:02x}": f"--s{i}" for i in range(SERIES)},
    **{f"#0b0b{i:02x}": f"--k{i}" for i in range(CLASSES)},
}
_STYLE: Any = {  # Any: matplotlib types the keys as one long literal
    "svg.fonttype": "none",
    "svg.hashsalt": "cifarfast",
    "text.parse_math": False,  # a class may be called "$"
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": MUTED,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
_NUMBER = re.compile(r"-?\d+\.\d{2,}")


def series_color(number: int) -> str:
    """Stand-in colour of run ``number``; they repeat after eight."""
    return f"#0a0a{number % SERIES:02x}"


def class_color(number: int) -> str:
    """Stand-in colour of class ``number``; they repeat after ten."""
    return f"#0b0b{number % CLASSES:02x}"


def style() -> Any:
    """Context in which figures are made and drawn."""
    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this size in inches, with one pair of axes. To be used inside ``style()``."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def new_panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A small figure of this size in inches whose axes have a title, ticks of three characters, and no labels."""
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    figure.subplots_adjust(left=0.22 / width, right=1 - 0.06 / width, bottom=0.2 / height, top=1 - 0.24 / height)
    return figure, figure.subplots()


def to_svg(figure: Figure, description: str) -> str:
    """The figure as an ``<svg>`` element for a page; ``description`` is what a screen reader says."""
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine(None)  # else saving draws everything once more, to lay it out
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;\"]*;?\s*", "", text)
    text = re.sub(r"font: ([^;\"]*?px) [^;\"]*", _font, text)
    text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", text)
    text = re.sub(r"#0[0-9a-f]{5}\b", lambda match: _variable(match[0]), text)
    # coordinates, but neither what is written nor the scale of a picture
    text = re.sub(r"<(?!image)[^>]*>", lambda tag: _NUMBER.sub(_rounded, tag[0]), text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    head = f'<svg role="img" aria-label="{escape(description)}" '
    body = text[text.index(">") :]
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    return f'{head}{box[0]} xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"{body.strip()}'


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.1f}".removesuffix(".0")


def _font(match: re.Match[str]) -> str:
    """Matplotlib's ``font: bold 9px 'DejaVu Sans', …`` without the family."""
    size = match[1].split()[-1]
    return f"font-size: {size}" + ("; font-weight: 600" if "bold" in match[1] or "700" in match[1] else "")


def _variable(color: str) -> str:
    return f"var({_VARIABLES[color]})" if color in _VARIABLES else color


def short(names: Sequence[str], limit: int = 12) -> list[str]:
    """Names cut to ``limit`` characters."""
    return [name if len(name) <= limit else name[: limit - 1] + "…" for name in names]
