"""Flame graphs: each function as wide as its share of time, above the one that called it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

from bench.speed.stacks import Frame, Stacks

_LEAST = 0.003
"""Share of the time below which a function isn't drawn."""
_WIDTH, _ROW, _LETTER = 1200.0, 17, 6.1
_OURS, _OTHERS, _THREAD = "#74a9b8", "#e2c08d", "#d5d9de"


@dataclass
class _Call:
    """A function with one path to it."""

    frame: Frame
    seconds: float = 0.0
    calls: dict[Frame, _Call] = field(default_factory=dict)


@dataclass(frozen=True)
class _Box:
    frame: Frame
    start: float
    seconds: float
    depth: int


def flame_graph(stacks: Stacks, title: str) -> str:
    """The whole as an SVG; pointing at a function tells its file and share."""
    root = _Call(Frame(title, ""))
    for stack, seconds in stacks.seconds.items():
        call = root
        call.seconds += seconds
        for frame in stack:
            call = call.calls.setdefault(frame, _Call(frame))
            call.seconds += seconds
    boxes = list(_boxes(root, 0, 0, _LEAST * root.seconds))
    height = _ROW * (1 + max(box.depth for box in boxes))
    drawn = "".join(_drawn(box, root.seconds, height) for box in boxes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="flame" '
        f'viewBox="0 0 {_WIDTH:.0f} {height}" '
        'font-family="ui-monospace,Menlo,Consolas,monospace" font-size="10">'
        "<style>.flame rect{stroke:#fff;stroke-width:.6}.flame text{pointer-events:none}</style>"
        f"{drawn}</svg>\n"
    )


def _boxes(call: _Call, start: float, depth: int, least: float) -> Iterator[_Box]:
    """A call and those that it makes, from the largest to the smallest that is drawn."""
    yield _Box(call.frame, start, call.seconds, depth)
    for inner in sorted(call.calls.values(), key=lambda each: -each.seconds):
        if inner.seconds < least:
            break
        yield from _boxes(inner, start, depth + 1, least)
        start += inner.seconds


def _drawn(box: _Box, total: float, height: int) -> str:
    left, width = _WIDTH * box.start / total, _WIDTH * box.seconds / total
    top = height - _ROW * (box.depth + 1)
    frame = box.frame
    colour = _OURS if frame.ours else _OTHERS if frame.where else _THREAD
    place = f" ({frame.where})" if frame.where else ""
    told = escape(f"{frame.name}{place}: {box.seconds / total:.1%}")
    letters = int((width - 6) / _LETTER)
    text = ""
    if letters > 2:
        name = frame.name if len(frame.name) <= letters else f"{frame.name[: letters - 1]}…"
        text = f'<text x="{left + 3:.1f}" y="{top + 12}">{escape(name)}</text>'
    return (
        f'<g><title>{told}</title><rect x="{left:.1f}" y="{top}" width="{width:.1f}" '
        f'height="{_ROW}" fill="{colour}"/>{text}</g>'
    )
