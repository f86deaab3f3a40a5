"""The bare disk, without kvs: append a line, sync it, repeat."""

import os
import time


def appends(directory: str, line: bytes, count: int) -> float:
    """Append and sync `line` `count` times in a new file of `directory`; return the seconds."""
    path = os.path.join(directory, "appended")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    try:
        start = time.perf_counter()
        for _ in range(count):
            os.write(file, line)
            os.fdatasync(file)
        return time.perf_counter() - start
    finally:
        os.close(file)
        os.unlink(path)
