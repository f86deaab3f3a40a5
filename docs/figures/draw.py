"""Draw a figure: a text that places boxes, arrows and rows of cells in, an SVG out.

A source has one item a line. ``|`` separates the item's arguments from its texts; all numbers are
pixels. Blank lines and lines that begin with ``#`` are ignored.

- ``size WIDTH HEIGHT | title``: the first line; the title is for screen readers.
- ``panel X Y W H COLOUR | title``: the background of several boxes.
- ``box NAME X Y W H COLOUR | line | line...``: a box; its first line is larger.
- ``arrow FROM [X,Y...] TO [dashed] [plain] | label``: a line through points. A point is ``X,Y`` or
  ``NAME.SIDE``: a side (n, e, s, w) of a box, and a place on that side from 0 to 1, such as
  ``s0.25``. With ``plain`` it has no head.
- ``cells X Y H | W COLOUR line/line | ...``: a row of adjacent boxes.
- ``text X Y STYLE | words``: STYLE is title, label, note or mono.
"""

from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

COLOURS = {
    "blue": ("#e3edff", "#4f7fd9"),
    "green": ("#e2f5e9", "#3a9a63"),
    "amber": ("#fff2d2", "#c98a12"),
    "red": ("#fde6e3", "#cf4b44"),
    "violet": ("#efe7fd", "#8259c9"),
    "grey": ("#f3f5f8", "#94a0b2"),
    "white": ("#ffffff", "#94a0b2"),
}
"""Fill and outline."""

SANS = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

STYLE = f"""\
text {{ font-family: {SANS}; fill: #1d2633 }}
.title {{ font-size: 15px; font-weight: 600 }}
.head {{ font-size: 14px; font-weight: 600 }}
.line {{ font-size: 12px; fill: #4a5567 }}
.label {{ font-size: 12px; fill: #3d4858; paint-order: stroke; stroke: #fff; stroke-width: 5px; \
stroke-linejoin: round }}
.note {{ font-size: 12px; fill: #5b6677; font-style: italic }}
.mono {{ font-size: 12px; font-family: {MONO} }}
.arrow {{ fill: none; stroke: #5b6677; stroke-width: 1.6 }}
.dashed {{ stroke-dasharray: 5 4 }}"""

MARKER = (
    '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0.8 L10 5 L0 9.2 L2.4 5 z" fill="#5b6677"/></marker>'
)

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle that arrows can refer to."""

    x: float
    y: float
    width: float
    height: float

    def port(self, side: str) -> Point:
        """Return a point on the outline: a side (n, e, s, w), and a place on it from 0 to 1."""
        place = float(side[1:] or 0.5)
        along_x, along_y = self.x + place * self.width, self.y + place * self.height
        return {
            "n": (along_x, self.y),
            "s": (along_x, self.y + self.height),
            "w": (self.x, along_y),
            "e": (self.x + self.width, along_y),
        }[side[0]]


@dataclass
class Figure:
    """The elements of a figure, in the order in which they are painted."""

    width: int
    height: int
    title: str
    elements: list[str] = field(default_factory=list)
    boxes: dict[str, Box] = field(default_factory=dict)

    def text(self, x: float, y: float, style: str, words: str, anchor: str = "start") -> None:
        """Add one line of text; `y` is its baseline."""
        self.elements.append(
            f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}" '
            f'xml:space="preserve">{escape(words)}</text>'
        )

    def rectangle(self, box: Box, colour: str, radius: float, width: float = 1.3) -> None:
        """Add a rectangle with rounded corners."""
        fill, outline = COLOURS[colour]
        self.elements.append(
            f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" '
            f'rx="{radius:g}" fill="{fill}" stroke="{outline}" stroke-width="{width:g}"/>'
        )

    def panel(self, box: Box, colour: str, title: str) -> None:
        """Add the background of several boxes, with a title at its upper left."""
        self.rectangle(box, colour, 10, 1)
        self.text(box.x + 14, box.y + 23, "title", title)

    def box(self, name: str, box: Box, colour: str, lines: list[str]) -> None:
        """Add a box with centred lines."""
        self.boxes[name] = box
        self.rectangle(box, colour, 7)
        self._centred(box, lines)

    def _centred(self, box: Box, lines: list[str]) -> None:
        middle = box.x + box.width / 2
        top = box.y + box.height / 2 - 8.5 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            self.text(middle, top + 17 * number, "line" if number else "head", line, "middle")

    def arrow(self, points: list[Point], label: str = "", *, dashed: bool = False,
              head: bool = True) -> None:  # fmt: skip
        """Add a line through `points`, with its label on the longest segment."""
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        style = "arrow dashed" if dashed else "arrow"
        end = ' marker-end="url(#head)"' if head else ""
        self.elements.append(f'<path class="{style}" d="M{path}"{end}/>')
        if not label:
            return
        segments = pairwise(points)
        (x1, y1), (x2, y2) = max(
            segments, key=lambda ends: abs(ends[0][0] - ends[1][0]) + abs(ends[0][1] - ends[1][1])
        )
        middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
        if abs(y1 - y2) > abs(x1 - x2):
            self.text(middle_x + 8, middle_y + 4, "label", label)
        else:
            self.text(middle_x, middle_y - 7, "label", label, "middle")

    def cells(self, x: float, y: float, height: float, cells: list[str]) -> None:
        """Add a row of adjacent boxes, each given as ``WIDTH COLOUR line/line``."""
        for cell in cells:
            width, colour, words = cell.split(" ", 2)
            box = Box(x, y, float(width), height)
            self.rectangle(box, colour, 0)
            self._centred(box, words.split("/"))
            x += box.width

    def svg(self) -> str:
        """Return the figure as an SVG document."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" '
                f'height="{self.height}" viewBox="0 0 {self.width} {self.height}" role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<style>\n{STYLE}\n</style>",
                f"<defs>{MARKER}</defs>",
                f'<rect width="{self.width}" height="{self.height}" rx="12" fill="#ffffff"/>',
                *self.elements,
                "</svg>\n",
            ]
        )


def draw(source: str) -> str:
    """Return the SVG of a figure's source."""
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    head, title = _split(lines[0])
    figure = Figure(int(head[1]), int(head[2]), title[0])
    for line in lines[1:]:
        _add(figure, *_split(line))
    return figure.svg()


def _split(line: str) -> tuple[list[str], list[str]]:
    arguments, *texts = line.split(" | ")
    return arguments.split(), [text.strip() for text in texts]


def _add(figure: Figure, arguments: list[str], texts: list[str]) -> None:
    match arguments:
        case ["panel", *place, colour]:
            figure.panel(Box(*map(float, place)), colour, texts[0])
        case ["box", name, *place, colour]:
            figure.box(name, Box(*map(float, place)), colour, texts)
        case ["arrow", *ends]:
            options = {"dashed", "plain"}.intersection(ends)
            points = [_point(figure, end) for end in ends if end not in options]
            figure.arrow(
                points, *texts[:1], dashed="dashed" in options, head="plain" not in options
            )
        case ["cells", x, y, height]:
            figure.cells(float(x), float(y), float(height), texts)
        case ["text", x, y, style]:
            figure.text(float(x), float(y), style, texts[0])
        case _:
            raise ValueError(f"not an item of a figure: {' '.join(arguments)}")


def _point(figure: Figure, end: str) -> Point:
    if "," in end:
        x, y = map(float, end.split(","))
        return x, y
    name, side = end.split(".", 1)
    return figure.boxes[name].port(side)
