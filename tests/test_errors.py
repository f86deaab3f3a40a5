"""Each error has a text of one line, and is the same when it is copied or pickled."""

import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from dataclasses import fields, is_dataclass
from multiprocessing import get_context

import pytest

from kvs import Store, errors
from tests.helpers import SECONDS


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.InvalidCommandError("j/a.job", "why", 7, 11), "j/a.job:7:11: why"),
        (errors.JobError("j/a.job", "why"), "j/a.job: why"),
        (errors.InvalidValueError(b"a\n", b"1", "is odd"), r"'a\n': the value '1' is odd"),
        (
            errors.InvalidValueError(b"k" * 1024, b"v" * 99_999, "is long"),
            f"'{'k' * 64}...': the value '{'v' * 24}...' is long",
        ),
        (errors.SnapshotError("a.bck", "why"), "a.bck: not written: why"),
        (errors.BackupError("a.job", "why", 3, 2), "a.job:3: backup 2 failed: why"),
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


CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.KvsError)
]
CLASSES.remove(errors.PathError)  # it has no fields of its own, and so no text


def with_fields(error_class: type[errors.KvsError]) -> errors.KvsError:
    """Return an error with a different value in each field, given by keyword."""
    if not is_dataclass(error_class):
        return error_class("why")
    return error_class(
        **{
            field.name: number if "int" in str(field.type) or field.type is float else field.name
            for number, field in enumerate(fields(error_class))
        }
    )


@pytest.mark.parametrize("error_class", CLASSES)
@pytest.mark.parametrize("remake", [copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_copied_or_pickled_error_is_the_same(
    error_class: type[errors.KvsError], remake: Callable[[errors.KvsError], errors.KvsError]
) -> None:
    error = with_fields(error_class)
    error.add_note("a note")
    remade = remake(error)
    assert type(remade) is error_class
    assert vars(remade) == vars(error)
    assert str(remade) == str(error)


def use_a_closed_store() -> None:
    store = Store()
    store.close()
    store.get("a")


def test_error_of_a_worker_process_reaches_the_parent() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as workers:
        raised = workers.submit(use_a_closed_store).exception(SECONDS)
    assert isinstance(raised, errors.StoreClosedError)
    assert str(raised) == "the store is closed"


GROUPS = {errors.StoreError, errors.JobError, errors.ServerError, errors.ClientError}
UNGROUPED = {
    errors.InvalidWordError,
    errors.DirectoryLockedError,
    errors.ThreadStartError,
    errors.InheritedByForkError,
}


@pytest.mark.parametrize("error_class", CLASSES)
def test_error_is_in_one_group_or_of_several_parts(error_class: type[errors.KvsError]) -> None:
    groups = {group for group in {*GROUPS, errors.KvsWarning} if issubclass(error_class, group)}
    assert len(groups) == (error_class not in {*UNGROUPED, errors.KvsError})
