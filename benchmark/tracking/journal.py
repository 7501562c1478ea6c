"""A run's journal: what it has to tell the tracking store, kept on disk until the store has it.

One JSON line for each entry, [kind, content], only ever appended; a small file beside it says how far delivery got.
Whoever has a journal open holds the kernel's lock on it, so nobody else delivers what a live run still writes.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SUFFIX = ".jsonl"


class Journal:
    """The journal of one run, open and locked; a line that a kill cut short is dropped, it was never acknowledged.

    `delivered` counts the bytes that the store has; `lost` lists what can never be delivered, with the reason.

    Raises FileNotFoundError where there is none and `create` is not set, BlockingIOError where another process, or
    another part of this one, has it open.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._progress = path.with_suffix(".progress")
        self._file = path.open("a+b" if create else "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise BlockingIOError(f"{path}: its run is still going") from error
        if os.fstat(self._file.fileno()).st_nlink == 0:
            self._file.close()
            raise FileNotFoundError(f"{path}: its run delivered and removed it a moment ago")
        self._file.truncate(path.read_bytes().rfind(b"\n") + 1)
        progress = json.loads(self._progress.read_text()) if self._progress.is_file() else {}
        self.delivered: int = progress.get("delivered", 0)
        self.lost: list[str] = progress.get("lost", [])

    @property
    def run_id(self) -> str:
        return self.path.stem

    @property
    def ended(self) -> bool:
        """Whether the run said how it ended; one that was killed did not."""
        lines = self.path.read_bytes().splitlines()
        return bool(lines) and json.loads(lines[-1])[0] == "end"

    def append(self, kind: str, *contents: Any) -> None:
        """One entry for each content, in one write: all of it, or nothing where the disk is full and OSError raised."""
        lines = b"".join(json.dumps([kind, content]).encode() + b"\n" for content in contents)
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError:
            self._file.truncate(end)
            raise

    def batches(self, limits: Mapping[str, int]) -> Iterator[tuple[str, list[Any], int]]:
        """What is not delivered yet, in order: (kind, contents, where they end); limits[kind] at a time, else one."""
        end, batch, batch_kind = self.delivered, [], None
        with self.path.open("rb") as file:
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    break
                kind, content = json.loads(line)
                if batch and (kind != batch_kind or len(batch) == limits.get(kind, 1)):
                    yield batch_kind, batch, end
                    batch = []
                batch_kind = kind
                batch.append(content)
                end += len(line)
        if batch:
            yield batch_kind, batch, end

    def mark_delivered(self, end: int) -> None:
        """The store has everything before `end`, or it is in `lost`. A kill before this line repeats one batch."""
        self.delivered = end
        partial = self._progress.with_suffix(".partial")
        partial.write_text(json.dumps({"delivered": end, "lost": self.lost}))
        partial.replace(self._progress)

    def remove(self) -> None:
        """The store has everything."""
        self.path.unlink()
        self._progress.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of the lock."""
        self._file.close()
