"""Tests mirror the modules: each module of the package has a test file of its name."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "kvs"
TESTS = Path(__file__).parent

EXCEPTIONS = {
    "_version.py": "one constant, which test_usage.py compares with the output of --version",
    "server/context.py": "a record of a server's parts, without behaviour",
}
"""Modules without a test file of their own, and the reason."""


def namesake(module: str) -> str:
    """Return the path of the test file of a module, both relative."""
    parent, stem = Path(module).parent, Path(module).stem
    return str(parent / f"test_{stem.strip('_')}.py")


def modules() -> set[str]:
    """Return the paths of all modules that are no ``__init__.py``."""
    paths = (str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
    return {path for path in paths if Path(path).name != "__init__.py"}


def test_every_module_has_a_test_file_of_its_name() -> None:
    assert len(modules()) > 50
    missing = {module for module in modules() if not (TESTS / namesake(module)).is_file()}
    assert missing == EXCEPTIONS.keys()
