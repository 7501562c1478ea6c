"""The NIfTI files below a folder, and what keeps a file from being read. No pipe, socket or device is ever opened."""

import errno
import os
import re
import stat
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from benchmark.errors import UserError

MOST_ENTRIES = 500_000  # files and folders; the largest public collections have some 20,000
NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
IGNORED = {"__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
SMALL = 1024  # bytes: what is smaller may be a pointer that stands for a file
NOT_FETCHED = "its content was not fetched: run `git annex get` or `datalad get`"


@dataclass
class Tree:
    """What lies below a folder, hidden files and folders apart."""

    folder: Path
    files: dict[Path, Path] = field(default_factory=dict)  # the path that has the name → the file to read
    folders: dict[Path, list[Path]] = field(default_factory=lambda: defaultdict(list))  # folder → such paths in it
    hollow: dict[Path, str] = field(default_factory=dict)  # folders, and links to none, that hold no NIfTI file → why
    closed: dict[Path, str] = field(default_factory=dict)  # folders that cannot be listed → why


def walk(folder: Path) -> Tree:
    """The tree below a folder. Links are followed, each folder is visited once: first where it really lies.

    A folder named as a file, with one NIfTI file in it, stands for that file, as in a mirror of BraTS 2021.
    Raises UserError for the root of the file system, and for more than MOST_ENTRIES.
    """
    too_many = f"{folder} is too much to search for a cohort: give the folder that holds its subjects"
    if folder.resolve() == Path(folder.resolve().anchor):
        raise UserError(too_many)
    tree, seen, visited, entries_left = Tree(folder), set(), [], MOST_ENTRIES
    queue, links = deque([folder]), deque()
    while queue or links:
        parent = (queue or links).popleft()
        try:
            facts = parent.stat()
            # Some network drives number nothing.
            place = (facts.st_dev, facts.st_ino) if facts.st_ino else os.path.realpath(parent)
            if place in seen:
                continue
            seen.add(place)
            with os.scandir(parent) as listing:
                entries = sorted(islice(listing, entries_left + 1), key=lambda entry: entry.name)
        except OSError as error:
            tree.closed[parent] = f"the folder cannot be listed ({error.strerror})"
            continue
        visited.append(parent)
        entries_left -= len(entries)
        if entries_left < 0:
            raise UserError(f"{too_many}; there are more than {MOST_ENTRIES:,} files and folders")
        for entry in entries:
            if entry.name.startswith(".") or entry.name in IGNORED:  # ._ and .DS_Store of macOS, .git of DataLad
                continue
            path, named = parent / entry.name, NIFTI.search(entry.name) is not None
            if _is_folder(entry):
                inside = list(_files_in(path)) if named else []
                if named:
                    tree.folders[parent].append(path)
                    tree.files[path] = inside[0] if len(inside) == 1 else path
                if len(inside) != 1:
                    (links if entry.is_symlink() else queue).append(path)
            elif named:
                tree.folders[parent].append(path)
                tree.files[path] = path
            elif entry.is_symlink() and not os.path.exists(path):
                tree.hollow[path] = fault(path) or "it changed while the folder was listed"

    filled = above(tree.folders, folder)
    tree.hollow |= {path: "there is no NIfTI file in the folder" for path in visited if path not in filled}
    return tree


def above(folders: Iterable[Path], root: Path) -> set[Path]:
    """The folders, and all that they lie in, as far up as the root."""
    found = {root}
    for folder in folders:
        while folder not in found:
            found.add(folder)
            folder = folder.parent
    return found


def fault(path: Path) -> str | None:
    """Why a path cannot be a NIfTI file, in words for people; None where nothing speaks against it.

    Only a regular file is opened, and only a small one, which may be a pointer of Git LFS or git-annex.
    """
    try:
        facts = path.stat()
    except OSError as error:
        return _out_of_reach(path, error)
    if stat.S_ISDIR(facts.st_mode):
        count = len(list(_files_in(path)))
        return f"a folder stands where a file should be, with {count or 'no'} NIfTI files in it: it must hold one"
    if not stat.S_ISREG(facts.st_mode):
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        return f"{kinds.get(stat.S_IFMT(facts.st_mode), 'a device')} stands where a file should be"
    if not os.access(path, os.R_OK):
        return "cannot be read (Permission denied)"
    if facts.st_size == 0:
        return "the file is empty (0 bytes)"
    return _placeholder(path) if facts.st_size < SMALL else None


def stem(path: Path) -> str:
    """The name without .nii or .nii.gz, in any case."""
    name = path.name
    return name[: NIFTI.search(name).start()]


def shown(path: Path, folder: Path) -> str:
    """A path for people, relative to the folder where it lies below it."""
    try:
        return printable(str(path.relative_to(folder)))
    except ValueError:
        return printable(str(path))


def printable(name: str) -> str:
    """A file name that is not UTF-8 reaches Python as lone surrogates, which no table or page can hold."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that goes in circles
        return False


def _files_in(folder: Path) -> Iterator[Path]:
    """NIfTI files directly in a folder."""
    try:
        with os.scandir(folder) as listing:
            for entry in islice(listing, MOST_ENTRIES):
                if NIFTI.search(entry.name) and not entry.name.startswith(".") and not _is_folder(entry):
                    yield folder / entry.name
    except OSError:
        return  # `fault` and `walk` say what is wrong with it


def _placeholder(path: Path) -> str | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file itself: run `git lfs pull`"
    return f"a git-annex pointer; {NOT_FETCHED}" if content.startswith(b"/annex/objects/") else None


def _out_of_reach(path: Path, error: OSError) -> str:
    """Why a path that is listed cannot be followed."""
    if error.errno == errno.ELOOP:
        return "a link that goes in circles"
    if error.errno == errno.ENOENT:
        try:
            target = printable(os.readlink(path))
        except OSError:  # no link, or gone in between, as in /proc
            return "it went away while the folder was listed"
        return f"a link that leads nowhere: {target}" + (f"; {NOT_FETCHED}" if "annex/objects/" in target else "")
    return f"cannot be read ({error.strerror})"
