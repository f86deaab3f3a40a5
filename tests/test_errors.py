"""Each error has a text of one line."""

import pytest

from kvs import errors


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.InvalidCommandError("j/a.job", 7, 11, "why"), "j/a.job:7:11: why"),
        (errors.JobError("j/a.job", "why"), "j/a.job: why"),
        (errors.SnapshotError("a.bck", "why"), "a.bck: not written: why"),
        (errors.BackupError("a.job", 3, 2, "why"), "a.job:3: backup 2 failed: why"),
        (errors.BackupReadError("a.bck", "why"), "a.bck: cannot read the backup: why"),
        (errors.BackupFormatError("a.bck", 4, "why"), "a.bck:4: why; nothing was restored"),
        (errors.JobsDirectoryError("j", "why"), "j: why"),
        (
            errors.DirectoryLockedError("j", 12),
            "j: in use by process 12; wait until it ends, or stop it",
        ),
        (
            errors.DirectoryLockedError("j", None),
            "j: in use by another process; wait until it ends, or stop it",
        ),
    ],
)
def test_each_error_is_one_line(error: errors.KvsError, text: str) -> None:
    assert str(error) == text
    assert hash(error) is not None
