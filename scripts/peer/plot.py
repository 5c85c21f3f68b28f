"""Plots as SVG text, readable on light and dark pages: bars of ratios, and rates over depth. Takes plain numbers, returns text;
needs nothing but the standard library.
"""

import math
from xml.sax.saxutils import escape

_STYLE = """<style>
  .page { fill: #ffffff } text { fill: #1f2328; font: 12px sans-serif } .title { font-size: 14px; font-weight: bold }
  .axis { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #d0d7de; stroke-width: 1 }
  .a { fill: #0969da; stroke: #0969da } .b { fill: #bc4c00; stroke: #bc4c00 } .c { fill: #57606a; stroke: #57606a }
  .bar { fill: #54aeff; stroke: none } .spread { stroke: #0a3069; stroke-width: 2 } .mark { stroke: #bc4c00; stroke-width: 2 }
  .line { fill: none; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .axis { stroke: #6e7681 } .grid { stroke: #30363d }
    .a { fill: #58a6ff; stroke: #58a6ff } .b { fill: #f0883e; stroke: #f0883e } .c { fill: #8b949e; stroke: #8b949e }
    .bar { fill: #1f6feb } .spread { stroke: #cae8ff } .mark { stroke: #f0883e } .line { fill: none }
  }
</style>"""


def _page(width, height, title, body):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    parts = [head, f"<title>{escape(title)}</title>", _STYLE, f'<rect class="page" width="{width}" height="{height}"/>']
    return "\n".join([*parts, f'<text class="title" x="16" y="24">{escape(title)}</text>', *body, "</svg>"]) + "\n"


def _line(kind, x1, y1, x2, y2):
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x, y, words, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def ratio_bars(title, rows):
    """Horizontal bars on a logarithmic axis. `rows`: (label, median, least, greatest, target or None)."""
    left, right, top, step = 280, 620, 56, 26
    values = [v for row in rows for v in row[1:] if v]
    low = min(0.5, *(2.0 ** math.floor(math.log2(v)) for v in values))
    high = max(4.0, *(2.0 ** math.ceil(math.log2(v * 1.05)) for v in values))

    def x(value):
        return left + (right - left) * math.log(value / low) / math.log(high / low)

    bottom = top + step * len(rows)
    body = []
    tick = low
    while tick <= high * 1.001:
        body += [_line("axis" if tick == 1 else "grid", x(tick), top - 6, x(tick), bottom), _text(x(tick), top - 12, f"{tick:g}×", "middle")]
        tick *= 2
    for i, (label, median, least, greatest, target) in enumerate(rows):
        y = top + step * i + 4
        start, end = sorted((x(1), x(median)))
        body.append(_text(left - 8, y + 13, label, "end"))
        body.append(f'<rect class="bar" x="{start:.1f}" y="{y:.1f}" width="{max(1, end - start):.1f}" height="18"/>')
        body.append(_line("spread", x(least), y + 9, x(greatest), y + 9))
        if target:
            body.append(_line("mark", x(target), y - 2, x(target), y + 20))
        body.append(_text(right + 10, y + 13, f"{median:.1f}× ({least:.1f}–{greatest:.1f})"))
    body.append(_text(left, bottom + 22, "bar: median; line: least to greatest; upright mark: target"))
    return _page(760, bottom + 36, title, body)


def rates_over_depth(title, series):
    """Lines on a logarithmic axis of tokens per second. `series`: (name, class a, b or c, [(depth, rate), …])."""
    left, right, top, bottom = 70, 560, 48, 330
    points = [p for _, _, line in series for p in line]
    deepest = max(max(d for d, _ in points), 1)
    low = 10 ** math.floor(math.log10(min(r for _, r in points)))
    high = 10 ** math.ceil(math.log10(max(r for _, r in points) * 1.01))

    def place(depth, rate):
        across = left + 10 + (right - left - 20) * depth / deepest
        return across, bottom - (bottom - top) * math.log(rate / low) / math.log(high / low)

    body = [_line("axis", left, bottom, right, bottom), _line("axis", left, top, left, bottom)]
    for decade in range(round(math.log10(low)), round(math.log10(high)) + 1):
        for part in (1, 2, 5):
            rate = part * 10.0**decade
            if rate <= high:
                _, y = place(0, rate)
                body += [_line("grid", left, y, right, y), _text(left - 8, y + 4, f"{rate:g}", "end")]
    for depth in sorted({d for d, _ in points}):
        across, _ = place(depth, low)
        body.append(_text(across, bottom + 18, str(depth), "middle"))
    body.append(_text((left + right) / 2, bottom + 38, "tokens cached before", "middle"))
    for name, kind, line in series:
        spots = [place(*p) for p in sorted(line)]
        path = " ".join(f"{'M' if i == 0 else 'L'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(spots))
        # The class colours the line; a line has no inside.
        body.append(f'<path class="{kind} line" style="fill:none" d="{path}"/>')
        body += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in spots]
        body.append(_text(spots[-1][0] + 16, spots[-1][1] + 4, name))
    return _page(720, bottom + 52, title, body)
