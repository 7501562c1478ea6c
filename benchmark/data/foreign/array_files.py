"""An array in a .npy, or in an .npz, read a few rows at a time. Nothing is unpickled.

What a header promises is compared with the size of the file, or with what the .npz declares, before anything is read.
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmark.data.cohorts import RejectedSubject
from benchmark.data.foreign.facts import BATCH, decoding
from benchmark.data.tree import fault
from benchmark.errors import UserError

SMALL = 64 << 20  # bytes that may be unpacked whatever their ratio
MOST_RATIO = 200  # of unpacked to packed bytes: slices of a brain reach 2 to 10


def array_names(folder: Path) -> dict[str, tuple[Path, str | None]]:
    """File, and member of an .npz, of every array by its name: that of the .npy, or of the member.

    A single member is named after its file. Raises UserError for a damaged .npz, and where a name is there twice.
    """
    found: dict[str, tuple[Path, str | None]] = {}
    for path in sorted(folder.glob("*.np[yz]")):
        members = {path.stem: None}
        if path.suffix == ".npz":
            with _opened(path), zipfile.ZipFile(path) as archive:
                members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            if len(members) == 1:
                members = {path.stem: next(iter(members.values()))}
        for name, member in members.items():
            if name in found:
                raise UserError(f"{folder}: two arrays are called {name}: in {found[name][0].name} and {path.name}")
            found[name] = path, member
    return found


class StoredArray:
    """An array in a file or in an .npz, read from its start, some rows at a time: memory never holds more.

    Raises UserError where it is damaged, or the file is not as long as its header says.
    """

    def __init__(self, path: Path, member: str | None) -> None:
        self.path, self._member = path, member
        with self._open() as file:
            self.shape, fortran, self.dtype = _read_header(file)
            self._check_size(file.tell())
        if fortran and len(self.shape) > 1:
            raise UserError(f"{path.parent}: {self} is in Fortran order: save np.ascontiguousarray of it")

    @property
    def is_bomb(self) -> bool:
        """Whether it unpacks to far more than its size, as no images do."""
        if self._member is None:
            return False
        with zipfile.ZipFile(self.path) as archive:
            declared = archive.getinfo(self._member)
        return declared.file_size > max(SMALL, MOST_RATIO * declared.compress_size)

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

    def _check_size(self, start: int) -> None:
        if self.dtype.hasobject:  # pickled: it is refused by its type
            return
        if min(self.shape, default=0) < 0:
            raise ValueError(f"its shape is {self.shape}")
        held = self.path.stat().st_size
        if self._member is not None:
            with zipfile.ZipFile(self.path) as archive:
                held = archive.getinfo(self._member).file_size
        if held - start < (promised := math.prod(self.shape) * self.dtype.itemsize):
            raise EOFError(f"{held - start} of {promised} bytes of values are there")

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        with _opened(self.path, str(self)):
            if self._member is None:
                with self.path.open("rb") as file:
                    yield file
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as file:
                    yield file


@contextmanager
def _opened(path: Path, name: str | None = None) -> Iterator[None]:
    """Around the reading of an array file: what is wrong becomes a UserError."""
    try:
        if reason := "a folder stands where a file should be" if path.is_dir() else fault(path):
            raise RejectedSubject(path, reason)
        with decoding(path):
            yield
    except RejectedSubject as error:
        raise UserError(f"{path.parent}: {name or path.name}: {error.reason}") from error


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type; the values follow."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
