"""An array in a .npy, or in an .npz, a few rows at a time."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmark.data.foreign.facts import BATCH, UNREADABLE
from benchmark.errors import UserError


def stored_arrays(folder: Path) -> "dict[str, StoredArray]":
    """All arrays by name: that of the .npy, or of the member of an .npz; a lone member is called as its file."""
    found: dict[str, StoredArray] = {}
    for path in sorted(folder.glob("*.np[yz]")):
        members = {path.stem: None}
        if path.suffix == ".npz":
            try:
                members = {name.removesuffix(".npy"): name for name in zipfile.ZipFile(path).namelist()}
            except UNREADABLE as error:
                raise UserError(f"{path}: truncated or unreadable: {error}") from error
            if len(members) == 1:
                members = {path.stem: next(iter(members.values()))}
        for name, member in members.items():
            if name in found:
                raise UserError(f"{folder}: two arrays are called {name}: {found[name]} and {path.name}")
            found[name] = StoredArray(path, member)
    return found


class StoredArray:
    """An array in a file or in an .npz, read from its start, some rows at a time: memory never holds more."""

    def __init__(self, path: Path, member: str | None) -> None:
        self.path, self._member = path, member
        with self._open() as file:
            self.shape, fortran, self.dtype = _read_header(file)
        if fortran and len(self.shape) > 1:
            raise UserError(f"{path.parent}: {self} is in Fortran order: save np.ascontiguousarray of it")

    def __str__(self) -> str:
        return self.path.name + (f":{self._member}" if self._member else "")

    def batches(self) -> Iterator[np.ndarray]:
        """The array in pieces of up to BATCH rows. Raises UserError where the file ends before it."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self._open() as file:
            _read_header(file)
            for start in range(0, self.shape[0], BATCH):
                count = min(BATCH, self.shape[0] - start)
                content = file.read(count * row_bytes)
                if len(content) < count * row_bytes:
                    raise EOFError(f"it ends in row {start + len(content) // row_bytes} of {self.shape[0]}")
                yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            if self._member is None:
                with self.path.open("rb") as file:
                    yield file
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as file:
                    yield file
        except UNREADABLE as error:
            raise UserError(f"{self.path.parent}: {self} is truncated or unreadable: {error}") from error


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type; the values follow. Nothing is unpickled."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
