"""What several processes share on disk, and what a disk says when it can take no more."""

import errno
import os

import pytest

from benchmark.files import disk_fault


def _wrapped(error, text="unexpected pos 64 vs 0"):
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError(text) from cause
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "work/x"), "work/x: No space left on device"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "work"), "work: Permission denied"),
        (_wrapped(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.pt")), "a.pt: No space left on device"),
        (ValueError("I/O error: No space left on device (os error 28)"), "No space left on device"),  # as Rust says it
        (OSError("204800 requested and 135040 written"), "No space left on device"),  # as numpy says it
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "work/x"), None),
        (_wrapped(ValueError("space")), None),
    ],
)
def test_a_full_or_read_only_disk_is_told_from_other_errors_however_it_is_wrapped(error, told):
    assert disk_fault(error) == told
