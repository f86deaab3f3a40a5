"""The Python baseline: baseline.py DIR runs the jobs of DIR with the least Python that is correct.

One thread, one pattern, one dict, one lock; WRITE, READ and DELETE only, no WAIT, no BACKUP, no
progress, and no diagnostics for invalid lines. NAME.job gives NAME.baseline. Prints the seconds of
its loop, files included. A figure to compare kvs with, not a design.
"""

import os
import re
import sys
import time
from itertools import repeat
from threading import Lock

_WORD = rb"[^ ,()\[\]\n]{1,40}"
_PAIR = re.compile(rb"\((%b),(%b)\)" % (_WORD, _WORD))
_LINE = re.compile(
    rb"(?:WRITE \[((?:\(%b,%b\))+)\]|READ \[(%b(?:,%b)*)\]|DELETE \[(%b(?:,%b)*)\]|[^\n]*)\n"
    % ((_WORD,) * 6)
)
"""Group 1 holds the pairs of a WRITE, 2 the keys of a READ, 3 those of a DELETE."""


def execute(script: bytes, table: dict[bytes, bytes], lock: Lock) -> bytes:
    """Execute the lines of `script` on `table`; return their output."""
    output: list[bytes] = []
    for match in _LINE.finditer(script):
        kind = match.lastindex
        if kind == 1:
            pairs = _PAIR.findall(match[1])
            with lock:
                table.update(pairs)
        elif kind == 2:
            keys = match[2].split(b",")
            keys.sort()
            with lock:
                values = list(map(table.get, keys, repeat(b"KVSERROR")))
            items = map(b",".join, zip(keys, values))  # noqa: B905  (strict= takes time)
            output.append(b"[(" + b")(".join(items) + b")]\n")
        elif kind == 3:
            keys = match[3].split(b",")
            keys.sort()
            with lock:
                missing = [key for key in keys if table.pop(key, None) is None]
            if missing:
                output.append(b"[(" + b",KVSMISSING)(".join(missing) + b",KVSMISSING)]\n")
    return b"".join(output)


def main(directory: str) -> None:
    """Run every job of `directory`, in order of name, and print the seconds."""
    table: dict[bytes, bytes] = {}
    lock = Lock()
    start = time.perf_counter()
    for name in sorted(os.listdir(directory)):
        stem, extension = os.path.splitext(os.path.join(directory, name))
        if extension == ".job":
            with open(stem + ".job", "rb") as job:
                output = execute(job.read(), table, lock)
            with open(stem + ".baseline", "wb") as file:
                file.write(output)
    print(f"{time.perf_counter() - start:.6f}")


if __name__ == "__main__":
    main(sys.argv[1])
