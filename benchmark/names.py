"""Names that people chose (cohorts, sets, subjects, studies) are data: what they are called where not all is allowed.

A name that is allowed stays; one that has to change gets a short hash of what it was, so two never become one.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterable

MLFLOW_MOST = 250  # characters of a key
FILE_MOST = 100  # what is put before and after has to fit into 255 bytes, too
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # no file's name on Windows


def _mark(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def for_mlflow(name: str) -> str:
    """A key of a metric, a parameter or a tag: letters, digits, `_ - . : /` and spaces, and no path that points up."""
    clean = re.sub(r"[^\w\-. :/]", "-", name).rstrip("\n")
    path = posixpath.normpath(clean)
    if path != clean or path.startswith(("/", "..")) or path == ".":
        clean = re.sub(r"^[.]+", "-", clean.replace("/", "-")) or "-"
    if clean == name and len(name) <= MLFLOW_MOST:
        return name
    return f"{clean[: MLFLOW_MOST - 9]} {_mark(name)}"


def for_model(name: str) -> str:
    """A logged model's name: what MLflow's pages call it."""
    return for_store(re.sub(r"[/:.%'\"]", "-", name), MLFLOW_MOST) or "-"


def for_store(text: str, most: int = 5000) -> str:
    """A value that every database and file format takes: no NUL, no lone surrogate (written \\udcff), not long."""
    text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[: most - 1]}…"


def for_file(name: str) -> str:
    """A file's or a folder's name that is one everywhere: Latin letters, digits, `_ - .` and spaces inside."""
    clean = re.sub(r"[^A-Za-z0-9_\-. ]+", "-", name).strip("-. ")
    if clean and clean == name and len(name) <= FILE_MOST and not _RESERVED.match(name):
        return name
    front = "_" if _RESERVED.match(clean) else ""
    return f"{front}{clean[: FILE_MOST - 10] or 'unnamed'}-{_mark(name)}"


def for_files(names: Iterable[str]) -> dict[str, str]:
    """`for_file` of each name, told apart where a file system takes capitals and small letters for the same."""
    found, taken = {}, set()
    for name in names:
        file = for_file(name)
        if file.lower() in taken:
            file = f"{file[: FILE_MOST - 9]}-{_mark(name)}"
        taken.add(file.lower())
        found[name] = file
    return found
