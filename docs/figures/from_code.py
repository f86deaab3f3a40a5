"""Draw the figures whose content is in the code: session states and layers."""

import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from docs.figures.draw import Box, Figure

from kvs.server.state import TRANSITIONS

ROOT = Path(__file__).parent.parent.parent

WIDTH, HEIGHT, GAP, LANE = 190, 46, 62, 104
"""Of a state, between states, and between the vertical lines beside them, in pixels."""


def _words(name: Enum) -> str:
    return name.name.lower().replace("_", " ")


def _edges(transitions: Mapping[Any, Any]) -> dict[tuple[Enum, Enum], list[str]]:
    """Return the labels of the transitions between each two states."""
    edges: dict[tuple[Enum, Enum], list[str]] = {}
    for (state, event), result in transitions.items():
        target = result if isinstance(result, Enum) else result[0]
        edges.setdefault((state, target), []).append(_words(event))
    return edges


def session_states() -> str:
    """Return the diagram of ``kvs.server.state.TRANSITIONS``.

    States stand in a column in their order. A transition to the next state is an arrow between
    them. Other transitions share a vertical line for each target and label: on the right if they
    lead down, on the left if they lead up.
    """
    edges = _edges(TRANSITIONS)
    states = list(type(next(iter(edges))[0]))
    order = {state: number for number, state in enumerate(states)}
    lines: dict[tuple[bool, Enum, str], list[Enum]] = {}
    for (source, target), labels in edges.items():
        if order[target] != order[source] + 1:
            down = order[target] > order[source]
            lines.setdefault((down, target, ", ".join(labels)), []).append(source)
    right = sum(down for down, _, _ in lines)
    left = len(lines) - right
    x = 40 + LANE * left
    figure = Figure(
        x + WIDTH + LANE * right + 40,
        40 + len(states) * (HEIGHT + GAP) - GAP,
        "States of a session at the server and the events between them",
    )
    boxes = {state: Box(x, 20 + order[state] * (HEIGHT + GAP), WIDTH, HEIGHT) for state in states}
    lanes = {True: 0, False: 0}
    for (down, target, label), sources in sorted(lines.items(), key=lambda line: len(line[1])):
        lanes[down] += 1
        side = "e" if down else "w"
        lane = x + WIDTH + LANE * lanes[down] - 60 if down else x - LANE * lanes[down] + 60
        end = boxes[target].port(f"{side}{0.5 + 0.2 * (lanes[down] - 1):g}")
        for number, source in enumerate(sources):
            start = boxes[source].port(f"{side}{0.5 - 0.14 * lanes[down]:g}")
            bend = (lane, start[1])
            points = [start, bend] if number else [start, bend, (lane, end[1]), end]
            figure.arrow(points, head=not number)
        middle = (boxes[sources[-1]].y + end[1]) / 2 + HEIGHT / 2
        figure.text(lane + (8 if down else -8), middle, "label", label, "start" if down else "end")
    for (source, target), labels in edges.items():
        if order[target] == order[source] + 1:
            points = [boxes[source].port("s"), boxes[target].port("n")]
            figure.arrow(points, ", ".join(labels))
    for state in states:
        figure.box(state.name, boxes[state], _colour(state, states), [_words(state)])
    return figure.svg()


def _colour(state: Enum, states: list[Enum]) -> str:
    if state is states[-1]:
        return "grey"
    return "blue" if state is states[0] else "green"


def layers() -> str:
    """Return the layers of the import contract in pyproject.toml, highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (rows,) = (
        contract["layers"]
        for contract in contracts["contracts"]
        if contract["containers"] == ["kvs"]
    )
    width, height, gap = 760, 40, 12
    figure = Figure(
        width + 60, 68 + len(rows) * (height + gap), "Packages of kvs; imports run downward only"
    )
    figure.text(30, 32, "title", "src/kvs: imports run downward only")
    colours = ("violet", "blue", "green", "amber", "grey")
    for number, row in enumerate(rows):
        names = [name.strip() for name in row.replace(":", "|").split("|")]
        each = (width - gap * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            box = Box(30 + place * (each + gap), 48 + number * (height + gap), each, height)
            colour = colours[number * len(colours) // len(rows)]
            figure.box(name, box, colour, [name])
    return figure.svg()
