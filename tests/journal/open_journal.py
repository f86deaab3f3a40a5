"""A journal in a new directory, with its writer thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from kvs.errors import JournalWriteError
from kvs.journal.directory import DataDirectory
from kvs.journal.queue import JournalQueue
from kvs.journal.writer import JournalWriter
from kvs.settings import DataSettings
from tests.journal.builders import STORE
from tests.journal.fake_storage import Step, Stepping


class Journal(NamedTuple):
    """A queue and the writer that empties it."""

    queue: JournalQueue
    writer: JournalWriter


@contextmanager
def open_journal(
    path: Path,
    step: Step = lambda _: None,
    settings: DataSettings | None = None,
    *,
    on_disk_full: Callable[[OSError], bool] = lambda _: False,
) -> Iterator[Journal]:
    """Yield a journal in the new directory `path`; close it at the end."""
    settings = settings or DataSettings()
    with DataDirectory.make(path) as directory:
        storage = Stepping(directory.descriptor, step)
        segment = directory.create_first_segment(storage, STORE)
        queue = JournalQueue(segment, 0, settings.segment_bytes)
        writer = JournalWriter(
            queue,
            storage,
            segment,
            0,
            settings,
            store_id=STORE,
            display_path=str(path),
            on_disk_full=on_disk_full,
        )
        with storage.closed_on_error(segment.file):
            writer.start()
        try:
            yield Journal(queue, writer)
        finally:
            with suppress(JournalWriteError):
                queue.close()


def write_line(number: int) -> bytes:
    """Return the line of a change."""
    return b"WRITE [(k,%d)]\n" % number


def append_and_wait(queue: JournalQueue, *numbers: int) -> None:
    """Append the lines of these changes; wait for the commit of each before the next."""
    for number in numbers:
        queue.append(write_line(number), 1)
        queue.wait(queue.appended_count)
