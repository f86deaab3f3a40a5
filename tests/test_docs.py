"""Execute the code blocks of the documentation, and check its links and generated pages.

All blocks of a page share one empty directory and run in the order of the page:

- ``sh`` blocks are typed into one bash. A ``text`` block right behind one is its exact output on
  stdout and stderr; in it, ``...`` matches any part of a line. Without a ``text`` block the ``sh``
  block must print nothing.
- A block whose language is followed by a file name, as in ``c watch.c``, is written to that file.
- ``python`` blocks without a file name are one program for each page, run after the shell; a
  ``text`` block right behind one is the exact output of that block.
- Blocks in other languages, or in none, are not executed. Neither is a block that calls ``cc``
  where there is no C compiler.
"""

import collections.abc
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from docs import api, generate

import kvs
from kvs.journal.reserve import RESERVE

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "tests" / "README.md"]
)

BLOCK = re.compile(
    r"^```(?P<language>[a-z]+)(?: (?P<file>\S+))?\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
MARK = "=== end of a block ==="
SECONDS = 60


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    file: str | None
    code: str
    output: str


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page that have a language, each with its output."""
    return [
        Block(match["language"], match["file"], match["code"], match["output"] or "")
        for match in BLOCK.finditer(text)
        if match["language"] != "text"
    ]


def run_shell(scripts: list[str], directory: Path, path: str) -> list[str]:
    """Run scripts in one bash; return the output of each."""
    script = "".join(f"{script}\necho '{MARK}'\n" for script in scripts)
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as runtime:  # for clients' pipes
        done = subprocess.run(
            ["bash", "-c", f"exec 2>&1\n{script}"],
            cwd=directory,
            env={**os.environ, "PATH": path, "XDG_RUNTIME_DIR": runtime},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    return done.stdout.split(f"{MARK}\n")[:-1]


def run_python(programs: list[str], directory: Path) -> list[str]:
    """Run programs as one; return the output of each."""
    program = "\n".join(f"{program}\nprint({MARK!r}, flush=True)" for program in programs)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return done.stdout.split(f"{MARK}\n")[:-1]


def matches(expected: str, output: str) -> bool:
    """Return whether `output` is what a page shows; ``...`` matches any part of a line."""
    parts = map(re.escape, expected.split("..."))
    return re.fullmatch("[^\n]*".join(parts), output) is not None


def with_named_files(blocks: list[Block]) -> list[Block]:
    """Return the ``sh`` blocks, each preceded by the commands that write the named blocks."""
    scripts: list[Block] = []
    pending = ""
    for block in blocks:
        if block.file is not None:
            pending += f"cat > {block.file} <<'END OF FILE'\n{block.code}END OF FILE\n"
        elif block.language == "sh":
            scripts.append(Block("sh", None, pending + block.code, block.output))
            pending = ""
    return scripts


@pytest.fixture
def path(kvs: Path) -> str:
    """A PATH on which `kvs` is this package and `python3` is this interpreter."""
    python = kvs.parent / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    return f"{kvs.parent}:{os.environ['PATH']}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_print_what_the_page_shows(page: str, tmp_path: Path, path: str) -> None:
    blocks = blocks_of((ROOT / page).read_text())
    scripts = with_named_files(blocks)
    if shutil.which("cc") is None:
        scripts = [script for script in scripts if not re.search(r"^cc ", script.code, re.M)]
    if scripts:
        outputs = run_shell([script.code for script in scripts], tmp_path, path)
        for script, output in zip(scripts, outputs, strict=True):
            assert matches(script.output, output), (script.code, output)
    programs = [block for block in blocks if block.language == "python" and block.file is None]
    if programs:
        outputs = run_python([block.code for block in programs], tmp_path)
        for block, output in zip(programs, outputs, strict=True):
            assert matches(block.output, output), (block.code, output)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_existing_files_and_headings(page: str) -> None:
    text = FENCED.sub("", (ROOT / page).read_text())
    for target, anchor in LINK.findall(text):
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = HEADING.findall(FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    pending = [ROOT / "docs" / "README.md"]
    while pending:
        page = pending.pop().resolve()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            text = FENCED.sub("", page.read_text())
            pending += [page.parent / target for target, _ in LINK.findall(text) if target]
    assert {ROOT / page for page in PAGES if page.startswith("docs/")} <= reached


@pytest.mark.parametrize("file", sorted(generate.FILES))
def test_generated_file_is_current(file: str) -> None:
    assert (ROOT / file).read_text() == generate.FILES[file](), "run `python -m docs.generate`"


def test_library_page_explains_every_type_in_signatures() -> None:
    page = api.library_page()
    signatures = re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    signatures += re.findall(r"^\| `\w+: (.*?)` \|", page, re.MULTILINE)
    used = set(re.findall(r"\b[A-Z]\w+", "\n".join(signatures)))
    assert used >= {"Change", "Callable", "Word", "TornTail"}
    explained = {*kvs.__all__, *api.OTHER_CLASSES, *api.OTHER_VALUES}
    assert used <= explained | {*dir(collections.abc), "Any", "False", "None"}


def test_every_figure_is_generated() -> None:
    figures = {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/figures/*.svg")}
    assert figures == {file for file in generate.FILES if file.endswith(".svg")}


def test_readme_has_at_most_100_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def test_examples_have_no_prompts_and_no_busy_waits() -> None:
    for page in PAGES:
        for block in blocks_of((ROOT / page).read_text()):
            if block.language == "sh":
                assert not re.search(r"^[$>] ", block.code, re.MULTILINE), page
                assert "do :; done" not in block.code, page


def test_wrong_output_would_be_noticed(tmp_path: Path, path: str) -> None:
    page = "```sh\nprintf 'a 1 s\\n'\nfalse\n```\n\n```text\na ... s\n```\n\n```sh\ncat b\n```\n"
    (first, second) = blocks_of(page)
    assert (first.output, second.output) == ("a ... s\n", "")
    scripts = with_named_files([Block("text", "b", "bytes\n", ""), first, second])
    outputs = run_shell([script.code for script in scripts], tmp_path, path)
    assert outputs == ["a 1 s\n", "bytes\n"]
    assert matches(first.output, outputs[0])
    assert not matches(second.output, outputs[1])
    assert not matches("a ... s\n", "a 1\n2 s\n")
    assert run_python(["print(1)", "x = 2", "print(x)"], tmp_path) == ["1\n", "", "2\n"]


def test_worked_example_of_the_journal_is_read_as_the_page_says(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "reference" / "journal-format.md").read_text()
    (example,) = re.findall(r"^```journal\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    sizes = re.findall(r"^\| (\d+) \| (\d+) \| ", text, re.MULTILINE)
    lengths = [len(line) for line in example.splitlines(keepends=True)]
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    assert [(int(size), int(start)) for size, start in sizes] == [
        *zip(lengths, starts, strict=True)
    ]
    directory = tmp_path / "stock"
    directory.mkdir(mode=0o700)
    (directory / "0000000001.journal").write_text(example)
    with kvs.Store(directory) as store:
        assert (store.revision, store.items()) == (2, [(b"pump", b"14")])


PLACES = [ROOT, ROOT / "src" / "kvs", ROOT / "src" / "kvs" / "engine", ROOT / "tests"]
"""Directories to which the paths in pages are relative."""

SOURCE = re.compile(r"\w+\.(py|pyx|hpp|cpp|c)")
"""Name of a source file without a directory."""


@pytest.mark.parametrize("page", PAGES)
def test_page_names_existing_files_and_modules(page: str) -> None:
    text = FENCED.sub("", (ROOT / page).read_text())
    for name in re.findall(r"`(\w[\w./]*|\.\w+/[\w./]+)`", text):
        if name.startswith("kvs.") and name.encode() != RESERVE:
            assert pkgutil.resolve_name(name)
        elif "/" in name:
            assert any((at / end).exists() for at in PLACES for end in (name, f"{name}.py")), name
        elif SOURCE.fullmatch(name):
            assert any([*at.rglob(name)] for at in PLACES[1:]), name


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_page_names_existing_members_of_classes(page: str) -> None:
    source = "".join(path.read_text() for path in ROOT.glob("src/kvs/**/*.py"))
    text = FENCED.sub("", (ROOT / page).read_text())
    for owner, member in re.findall(r"`([A-Z][a-z]\w*)\.(\w+)`", text):
        assert re.search(rf"^class {owner}\b", source, re.MULTILINE), owner
        assert re.search(rf"\b{member}\b", source), f"{owner}.{member}"
