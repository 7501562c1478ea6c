"""Files that several processes share: content hashes, atomic writes, locks. Nothing else does these."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmark.errors import UserError

log = logging.getLogger(__name__)


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that whoever reads it, at any time, and after a crash too, finds the old content or the new.

    The file beside it carries the process's number: two processes never write into one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what no code can put right
_NOT_PERMITTED = (errno.EACCES, errno.EPERM)


def disk_fault(error: BaseException | None) -> str | None:
    """'FILE: No space left on device' and the like where a disk, or a permission, is behind an error; else None.

    Libraries wrap what the system said, some as text only, so the whole chain of causes is read.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (*_DISK_FAULTS, *_NOT_PERMITTED):
            return f"{error.filename}: {os.strerror(error.errno)}" if error.filename else os.strerror(error.errno)
        if found := re.search("|".join(map(os.strerror, _DISK_FAULTS)), str(error)):
            return found[0]
        if re.search(r"\d+ requested and \d+ written", str(error)):  # as numpy says it
            return os.strerror(errno.ENOSPC)
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def locked(path: Path, waiting_for: str | None = None) -> Iterator[None]:
    """Holds the lock file `path`, alone among all processes; the kernel lets go of it when its holder dies.

    Where another process holds it, this one waits, and says so if told what it is `waiting_for`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting_for:
                log.warning("another process works on %s: waiting for it", waiting_for)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def content_hashes(files: Iterable[Path], memory: Path) -> dict[Path, str]:
    """sha256 of each file; the JSON file `memory` {path: [identity, sha256]} is read and brought up to date.

    A file is hashed anew where its size, its place on the disk, its time of modification or of change differs: an
    edit that sets the old time of modification again is seen, too. Processes that remember at once lose nothing.
    Raises UserError for a file that cannot be read.
    """
    known = _remembered(memory)
    keys = {path: os.path.abspath(path) for path in files}  # not resolved: that looks at every folder above, each time
    entries = {path: (_identity(path), known.get(key)) for path, key in keys.items()}
    entries = {path: old if old and old[0] == new else [new, None] for path, (new, old) in entries.items()}
    fresh = [path for path, (_, digest) in entries.items() if digest is None]
    if fresh:
        with ThreadPoolExecutor() as pool:  # hashlib lets go of the interpreter's lock
            for path, digest in zip(fresh, pool.map(_hashed, fresh), strict=True):
                entries[path] = [entries[path][0], digest]
    learned = {keys[path]: entry for path, entry in entries.items()}
    if not learned.items() <= known.items():
        with locked(memory.with_suffix(".lock")):
            write_atomically(memory, json.dumps(_remembered(memory) | learned))
    return {path: entry[1] for path, entry in entries.items()}


def _identity(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _hashed(path: Path) -> str:
    try:
        return content_hash(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _remembered(memory: Path) -> dict[str, list]:
    """What the memory holds; nothing where it is damaged, or of an earlier form: then files are hashed once more."""
    try:
        known = json.loads(memory.read_bytes())
        return {path: [list(identity), str(digest)] for path, (identity, digest) in known.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}
