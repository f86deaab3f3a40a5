"""Draw the figures whose content is in the code: state machines and layers."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from docs.figures.draw import Box, Figure, Point

from kvs.server import state

ROOT = Path(__file__).parent.parent.parent

WIDTH, HEIGHT, GAP = 190, 46, 62
"""Of a state, and the space between states, in pixels."""

MARGIN, LOOP = 40, 18
"""Distance of the first vertical line from the states, and width of a loop, in pixels."""

Transitions = Mapping[tuple[Enum, Enum], Any]


def state_tables() -> dict[str, Transitions]:
    """Return the transition tables of ``kvs.server.state`` by the name of their machine."""
    return {
        name.removesuffix("TRANSITIONS").strip("_").lower() or "session": table
        for name, table in vars(state).items()
        if name.endswith("TRANSITIONS")
    }


@dataclass(frozen=True)
class _Line:
    """Transitions that share a vertical line: all with one target and one label."""

    sources: list[Enum]
    target: Enum
    label: str
    side: str
    distance: int
    """From the states, in pixels."""


def states(name: str) -> str:
    """Return the diagram of one of the `state_tables`.

    States stand in a column in their order. A transition to the next state is an arrow between
    them. All other transitions are lines beside the states: on the right if they lead down, on the
    left if they lead up. A transition that leads nowhere is a loop at the upper left.
    """
    edges = _edges(state_tables()[name])
    order = {member: number for number, member in enumerate(type(next(iter(edges))[0]))}
    loops = {source: labels for (source, target), labels in edges.items() if source is target}
    lines = list(_lines(edges, order))
    space = {
        side: sum(_label_space(line.label) for line in lines if line.side == side) + MARGIN
        for side in "ew"
    }
    space["w"] = max(
        space["w"], *(LOOP + _label_space(", ".join(loop)) for loop in loops.values()), 0
    )
    straight = [", ".join(edges[edge]) for edge in edges if _leads_on(edge, order)]
    space["e"] = max(space["e"], *(_label_space(label) - WIDTH // 2 for label in straight), 0)
    x = space["w"]
    figure = Figure(
        x + WIDTH + space["e"],
        40 + len(order) * (HEIGHT + GAP) - GAP,
        f"States of a {name} at the server and the events between them",
    )
    boxes = {
        member: Box(x, 20 + number * (HEIGHT + GAP), WIDTH, HEIGHT)
        for member, number in order.items()
    }
    ports = _ports(lines, boxes)
    for draw in (_draw_line, _draw_label):
        for number, line in enumerate(lines):
            ends = [ports[number, end] for end in range(len(line.sources) + 1)]
            draw(figure, line, boxes[line.target], ends)
    for (source, target), labels in edges.items():
        if _leads_on((source, target), order):
            points = [boxes[source].port("s"), boxes[target].port("n")]
            figure.arrow(points, ", ".join(labels))
    for member, labels in loops.items():
        _draw_loop(figure, boxes[member], ", ".join(labels))
    for member, box in boxes.items():
        colour = "grey" if order[member] == len(order) - 1 else "green"
        figure.box(member.name, box, colour if order[member] else "blue", [_words(member)])
    return figure.svg()


def _words(member: Enum) -> str:
    return member.name.lower().replace("_", " ")


def _label_space(label: str) -> int:
    """Return about how many pixels a label needs, with its margins."""
    return 30 + 7 * len(label)


def _leads_on(edge: tuple[Enum, Enum], order: Mapping[Enum, int]) -> bool:
    return order[edge[1]] == order[edge[0]] + 1


def _edges(transitions: Transitions) -> dict[tuple[Enum, Enum], list[str]]:
    """Return the labels of the transitions between each two states."""
    edges: dict[tuple[Enum, Enum], list[str]] = {}
    for (source, event), result in transitions.items():
        target = result if isinstance(result, Enum) else result[0]
        edges.setdefault((source, target), []).append(_words(event))
    return edges


def _lines(
    edges: Mapping[tuple[Enum, Enum], list[str]], order: Mapping[Enum, int]
) -> Iterator[_Line]:
    """Yield the lines beside the states, on each side the shortest first."""
    shared: dict[tuple[Enum, str, str], list[Enum]] = {}
    for (source, target), labels in edges.items():
        if source is not target and not _leads_on((source, target), order):
            side = "e" if order[target] > order[source] else "w"
            shared.setdefault((target, ", ".join(labels), side), []).append(source)

    def length(sources: list[Enum], target: Enum) -> int:
        return max(abs(order[source] - order[target]) for source in sources)

    distance = {"e": MARGIN, "w": MARGIN}
    for (target, label, side), sources in sorted(
        shared.items(), key=lambda item: length(item[1], item[0][0])
    ):
        farthest = sorted(sources, key=lambda source: -abs(order[source] - order[target]))
        yield _Line(farthest, target, label, side, distance[side])
        distance[side] += _label_space(label)


def _ports(lines: list[_Line], boxes: Mapping[Enum, Box]) -> dict[tuple[int, int], Point]:
    """Return where the ends of the lines are: by line and number of the end, the target last."""
    ends: dict[tuple[Enum, str], list[tuple[int, int]]] = {}
    for number, line in enumerate(lines):
        for end, member in enumerate([*line.sources, line.target]):
            ends.setdefault((member, line.side), []).append((number, end))
    return {
        end: boxes[member].port(f"{side}{(place + 1) / (len(found) + 1 + (side == 'w')):.3f}")
        for (member, side), found in ends.items()
        for place, end in enumerate(found, start=int(side == "w"))
    }


def _draw_line(figure: Figure, line: _Line, box: Box, ports: list[Point]) -> None:
    """Draw a line whose ends are at `ports`, beside the column in which `box` is."""
    x = box.x + box.width + line.distance if line.side == "e" else box.x - line.distance
    *starts, end = ports
    for number, start in enumerate(starts):
        bend = (x, start[1])
        points = [start, bend] if number else [start, bend, (x, end[1]), end]
        figure.arrow(points, head=not number)


def _draw_label(figure: Figure, line: _Line, box: Box, ports: list[Point]) -> None:
    """Write the label of a line; all lines must have been drawn, as the label covers them."""
    *_, nearest, end = ports
    middle = (nearest[1] + end[1]) / 2 + 4
    if line.side == "e":
        figure.text(box.x + box.width + line.distance + 8, middle, "label", line.label)
    else:
        figure.text(box.x - line.distance - 8, middle, "label", line.label, "end")


def _draw_loop(figure: Figure, box: Box, label: str) -> None:
    """Draw an arrow from a state to itself, above the ends of all lines on the left."""
    x, y = box.x - LOOP, box.y - 9
    figure.arrow([(box.x + 18, box.y), (box.x + 18, y), (x, y), (x, box.y + 7), (box.x, box.y + 7)])
    figure.text(x - 6, y + 9, "label", label, "end")


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
