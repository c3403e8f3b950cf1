"""A bar chart as SVG: horizontal bars with whiskers, each labelled with its value as text.

Pure: a `Chart` in, text out. A library for this would be a large thing to install for five
pictures, and its files would differ in every line from run to run. The picture has a ground of its
own, light or dark as whoever looks at it prefers: it does not know what page it is on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from attrs import frozen

from benchmarks.figures import Figure

WIDTH = 760
_LEFT, _RIGHT = 160, 150  # for the labels and the values
_TOP, _ROW, _BAR, _BOTTOM = 64, 28, 16, 34
_SPAN = WIDTH - _LEFT - _RIGHT
_CUT = 6  # times the bar that the chart is about: what is longer is cut, or that one would not show
_TICKS = 5

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.quiet { fill: #59636e; font-size: 12px }
.ground { fill: #ffffff }
.bar { fill: #9fb0c3 }
.ours { fill: #2563eb }
.strong { font-weight: 600 }
.grid { stroke: #d8dee4 }
.whisker { stroke: #1f2328; stroke-width: 1.5; fill: none }
.gap { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .quiet { fill: #9198a1 }
  .ground, .gap { fill: #0d1117 }
  .bar { fill: #4d5a68 }
  .ours { fill: #58a6ff }
  .grid { stroke: #2b323b }
  .whisker { stroke: #e6edf3 }
}
"""


@frozen
class Bar:
    """Without a `value`, `note` says why. `ours`: the one that the chart is about."""

    label: str
    value: Figure | None
    note: str = ""
    ours: bool = False


@frozen
class Chart:
    title: str
    subtitle: str
    unit: str
    bars: tuple[Bar, ...]
    digits: int = 0


def svg(chart: Chart) -> str:
    height = _TOP + _ROW * len(chart.bars) + _BOTTOM
    tick = _tick(_limit(chart.bars))
    limit = tick * math.ceil(_limit(chart.bars) / tick)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(chart.title)}</title><style>{_STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>',
        _text(16, 26, chart.title, "title"),
        _text(16, 46, chart.subtitle, "quiet"),
        *_grid(tick, limit, height),
    ]
    for number, bar in enumerate(chart.bars):
        parts += _bar(chart, bar, _TOP + _ROW * number, limit)
    return "\n".join([*parts, "</svg>", ""])


def _limit(bars: Sequence[Bar]) -> float:
    """The end of the scale: the longest bar that is not cut."""
    values = [bar.value for bar in bars if bar.value is not None and bar.value.high > 0]
    ours = max(
        (bar.value.median for bar in bars if bar.ours and bar.value is not None), default=0.0
    )
    cut = _CUT * ours if ours > 0 else math.inf
    return max((each.high for each in values if each.median <= cut), default=1.0)


def _tick(limit: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are a few of them."""
    rough = max(limit, 1e-9) / _TICKS
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= rough)


def _grid(tick: float, limit: float, height: int) -> list[str]:
    bottom = height - _BOTTOM + 4
    digits = max(0, -math.floor(math.log10(tick)))
    parts = []
    for number in range(round(limit / tick) + 1):
        x = _LEFT + _SPAN * number * tick / limit
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP - 4}V{bottom}"/>')
        parts.append(_text(x, bottom + 17, f"{number * tick:,.{digits}f}", "quiet", "middle"))
    return parts


def _bar(chart: Chart, bar: Bar, top: float, limit: float) -> list[str]:
    middle = top + _ROW / 2
    weight = "strong" if bar.ours else ""
    parts = [_text(_LEFT - 10, middle + 4, bar.label, weight, "end")]
    if bar.value is None:
        return [*parts, _text(_LEFT + 8, middle + 4, bar.note, "quiet")]
    at = [_LEFT + _SPAN * min(max(each, 0.0), limit) / limit for each in _order(bar.value)]
    kind = "ours" if bar.ours else "bar"
    size = f'width="{at[1] - _LEFT:.1f}" height="{_BAR}"'
    parts.append(f'<rect class="{kind}" x="{_LEFT}" y="{middle - _BAR / 2}" {size} rx="2"/>')
    end = at[2]
    if bar.value.median > limit:
        parts.append(_gap(middle))
    else:
        parts.append(
            f'<path class="whisker" d="M{at[0]:.1f} {middle}H{at[2]:.1f}'
            f'M{at[0]:.1f} {middle - 4}v8M{at[2]:.1f} {middle - 4}v8"/>'
        )
    value = f"{bar.value.median:,.{chart.digits}f} {chart.unit}"
    return [*parts, _text(end + 8, middle + 4, value, weight)]


def _order(value: Figure) -> tuple[float, float, float]:
    return value.low, value.median, value.high


def _gap(middle: float) -> str:
    """The bar goes on beyond the scale."""
    x, half = WIDTH - _RIGHT - 30, _BAR / 2 + 1
    return f'<path class="gap" d="M{x} {middle + half}l6 {-2 * half}h6l-6 {2 * half}z"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    what = f' class="{kind}"' if kind else ""
    return f'<text{what} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
