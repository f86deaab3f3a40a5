"""The compiled engine: built where there is a C++ compiler, left out, and said so, elsewhere."""

import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ENGINE = Path("src/kvs/engine")


class BuildIfPossible(build_ext):
    """Build extensions; one that cannot be built is told of in a line."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension, if that is possible."""
        try:
            super().build_extension(ext)
        except Exception as error:  # noqa: BLE001  (compilers fail in many ways)
            print(
                f"kvs: no compiled engine, the one in Python does its work: {error}",
                file=sys.stderr,
            )


setup(
    ext_modules=cythonize(
        Extension(
            "kvs.engine._compiled",
            [str(ENGINE / "_compiled.pyx"), str(ENGINE / "native/long_line.cpp")],
            depends=[str(path) for path in sorted(ENGINE.glob("native/*.hpp"))],
            include_dirs=[str(ENGINE)],
            extra_compile_args=["-std=c++17", "-O3"],
            language="c++",
            optional=True,
        ),
        build_dir="build/cython",
    ),
    cmdclass={"build_ext": BuildIfPossible},
)
