"""Write the generated pages and figures of the documentation: ``python -m docs.generate``.

``tests/test_docs.py`` fails if a committed file differs from what this module generates.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from docs import api, command_line
from docs.figures import from_code
from docs.figures.draw import draw

ROOT = Path(__file__).parent.parent


def _draw(source: Path) -> str:
    return draw(source.read_text())


FILES: dict[str, Callable[[], str]] = {
    "docs/figures/layers.svg": from_code.layers,
    "docs/reference/command-line.md": command_line.page,
    "docs/reference/errors.md": api.errors_page,
    "docs/reference/library.md": api.library_page,
    **{
        f"docs/figures/{name}-states.svg": partial(from_code.states, name)
        for name in from_code.state_tables()
    },
    **{
        f"docs/figures/{source.stem}.svg": partial(_draw, source)
        for source in (ROOT / "docs" / "figures").glob("*.txt")
    },
}
"""Every generated file, by its path from the root of the tree."""


def main() -> None:
    """Write the files that are not current, and print their names."""
    for name, generate in sorted(FILES.items()):
        path, text = ROOT / name, generate()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(name)


if __name__ == "__main__":
    main()
