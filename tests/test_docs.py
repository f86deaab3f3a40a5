"""What the documentation shows is what happens: its console and Python blocks are run.

A console block is typed into a shell, line after `$ ` line, and must answer what stands there; the
Python blocks of a page are one program. All blocks of a page share one empty directory.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]

BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)")
MARK = "=== end of a command ==="
SECONDS = 60


def commands(block: str) -> list[tuple[str, str]]:
    """Return what is typed and what is answered, command by command."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.startswith("> "):
            found[-1] = (found[-1][0] + line[2:], "")
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def type_in(typed: list[str], directory: Path, path: str) -> list[str]:
    """Run commands in one shell; return what each answered."""
    script = "".join(f"{command}status=$?; echo '{MARK}'; (exit $status)\n" for command in typed)
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


@pytest.fixture
def path(kvs: Path) -> str:
    """A PATH on which `kvs` is this package."""
    return f"{kvs.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_what_happens(page: str, tmp_path: Path, path: str) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text())
    for _, block in (found for found in blocks if found[0] == "console"):
        shown = commands(block)
        answers = type_in([command for command, _ in shown], tmp_path, path)
        assert answers == [answer for _, answer in shown]
    program = "\n".join(block for kind, block in blocks if kind == "python")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, timeout=SECONDS, check=True)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in LINK.findall((ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


def test_blocks_are_found_and_a_wrong_answer_would_be_noticed(tmp_path: Path, path: str) -> None:
    kinds = [kind for kind, _ in BLOCK.findall((ROOT / "README.md").read_text())]
    assert kinds.count("console") >= 4
    assert kinds.count("python") >= 1
    assert commands("$ cat <<END\n> a\n> END\na\n$ true\n") == [
        ("cat <<END\na\nEND\n", "a\n"),
        ("true\n", ""),
    ]
    assert type_in(["echo one\n", "kvs lint none\n", "echo $?\n"], tmp_path, path) == [
        "one\n",
        "kvs lint: none: no such file or directory\n",
        "2\n",
    ]
