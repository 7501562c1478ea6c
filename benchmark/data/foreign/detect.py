"""Which format a set has."""

import os
from pathlib import Path

from benchmark.data import cohorts
from benchmark.data.foreign.arrays import Arrays
from benchmark.data.foreign.folders import SliceFolders, channel_folders
from benchmark.data.foreign.package import Package, is_package
from benchmark.data.foreign.volumes import Volumes
from benchmark.data.tree import printable
from benchmark.errors import UserError

ACCEPTED = (
    "a package that release made; PNG or 2-D NIfTI slices of 8 bit in folders T1, T1ce, T2, FLAIR, SEG; NIfTI volumes "
    "in a cohort's layout; "
    "arrays images.npy + labels.npy, or one array [N, 5, H, W] (.npz as well)"
)

Sent = Package | SliceFolders | Arrays | Volumes


def is_slice_set(folder: Path) -> bool:
    """Whether the folder is a SliceSet, perhaps an unfinished one: `SliceSet.open` then says what is missing.

    A package of arrays is none: its checksums are looked at first."""
    if is_package(folder):
        return False
    beside = ("index.parquet", "meta.json", "*.partial")
    return os.path.isfile(folder / "images.npy") and any(next(folder.glob(name), None) for name in beside)


def set_name(folder: Path) -> str:
    """The set's name in tables: its folder's."""
    return printable(folder.name)


def recognised(folder: Path) -> bool:
    """Whether `find` knows a format for the folder, by names only."""
    return _format_of(folder) is not None


def find(folder: Path) -> Sent:
    """The set in a folder: its format, its files, how they pair up; nothing but names and array headers is read.

    Raises UserError, with the list, where no format is recognised, files do not pair up, or arrays do not fit together.
    """
    if not os.path.isdir(folder):
        raise UserError(f"'{printable(str(folder))}' is not a folder: give that of a set. Known: {ACCEPTED}")
    if is_slice_set(folder):
        raise UserError(f"{folder} is a SliceSet already: give it as it is wherever a synthetic set is wanted")
    found = _format_of(folder)
    if found is None:
        raise UserError(f"{folder}: no synthetic set was recognised. Known: {ACCEPTED}")
    return found(folder)


def _format_of(folder: Path) -> type | None:
    if not os.path.isdir(folder):  # also where the name is too long for one, or the folder may not be listed
        return None
    if is_package(folder):
        return Package
    if len({channel for channel, _ in channel_folders(folder)}) >= 2:
        return SliceFolders
    if next(folder.glob("*.np[yz]"), None):
        return Arrays
    if next(cohorts.nifti_files(folder), None):
        return Volumes
    return None
