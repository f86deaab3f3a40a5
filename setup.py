"""Build the compiled engine where there is a C++ compiler; install without it elsewhere."""

import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ENGINE = Path("src/kvs/engine")


class BuildIfPossible(build_ext):
    """Build extensions; report in one line an extension that cannot be built, and leave it out."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension, or remove every file of it that an earlier or failed build left.

        An editable install copies what was built into the source tree. `optional` lets that step
        continue without the file; it is set here because `cythonize` does not pass it on.
        """
        ext.optional = True
        try:
            super().build_extension(ext)
        except Exception as error:  # noqa: BLE001  (compilers fail in many ways)
            built = Path(self.get_ext_fullpath(ext.name))
            for path in (built, ENGINE / built.name):
                path.unlink(missing_ok=True)
            print(f"kvs: no compiled engine, using the Python engine: {error}", file=sys.stderr)


setup(
    ext_modules=cythonize(
        Extension(
            "kvs.engine._compiled",
            [str(ENGINE / "_compiled.pyx"), *map(str, sorted(ENGINE.glob("native/*.cpp")))],
            depends=[str(path) for path in sorted(ENGINE.glob("native/*.hpp"))],
            include_dirs=[str(ENGINE)],
            # The interpreter's own flags contain -DNDEBUG, so the engine's assertions are off.
            # Hidden: a call from one file to another then needs no jump through a table.
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden"],
            language="c++",
        ),
        build_dir="build/cython",
    ),
    cmdclass={"build_ext": BuildIfPossible},
)
