"""Content hashes of files, computed once and remembered by size and time."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmark.errors import UserError


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hashes(files: Iterable[Path], memory: Path) -> dict[Path, str]:
    """sha256 of each file; the JSON file `memory` {path: [size, mtime_ns, sha256]} is read and brought up to date.

    Raises UserError for a file that cannot be read.
    """
    known = json.loads(memory.read_text()) if memory.is_file() else {}
    keys = {path: str(path.resolve()) for path in files}

    def hashed(path: Path) -> list:
        try:
            stat = path.stat()
            remembered = known.get(keys[path])
            if remembered and remembered[:2] == [stat.st_size, stat.st_mtime_ns]:
                return remembered
            return [stat.st_size, stat.st_mtime_ns, content_hash(path)]
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error

    with ThreadPoolExecutor() as pool:  # hashlib lets go of the interpreter's lock
        entries = dict(zip(keys, pool.map(hashed, keys), strict=True))
    now_known = known | {keys[path]: entry for path, entry in entries.items()}
    if now_known != known:
        memory.parent.mkdir(parents=True, exist_ok=True)
        partial = memory.with_suffix(".partial")
        partial.write_text(json.dumps(now_known))
        partial.replace(memory)
    return {path: entry[2] for path, entry in entries.items()}
