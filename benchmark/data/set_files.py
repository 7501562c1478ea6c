"""The files of a SliceSet, each checked as it is read: what is wrong becomes a sentence that names the file."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmark.errors import UserError

META = {"kind": str, "cohort": str, "image_size": int}  # what every set says of itself
MOST_META = 64 << 20  # bytes; that of 100,000 subjects has 8 MiB


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Around a reader: on damaged bytes json, numpy and pyarrow raise exceptions of many kinds."""
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{path} is damaged ({words}): run the stage that writes it again") from error


def read_meta(path: Path) -> dict:
    """meta.json. Raises UserError where it is none, or lacks what every set says of itself."""
    with _damaged(path):
        if path.stat().st_size > MOST_META:
            raise ValueError(f"{path.stat().st_size >> 20} MiB")
        meta = json.loads(path.read_bytes().decode("utf-8"))
        if not isinstance(meta, dict):
            raise ValueError(f"it holds a {type(meta).__name__}, not an object of keys and values")
    for key, kind in META.items():
        if key not in meta:
            raise UserError(f"{path}: the key {key} is missing. Known: {', '.join(META)}")
        if not isinstance(meta[key], kind) or isinstance(meta[key], bool):
            raise UserError(f"{path}: {key} is {meta[key]!s:.100}, which is no {kind.__name__}")
    return meta


def open_array(path: Path, dimensions: int) -> np.ndarray:
    """A uint8 array through a memory map. Raises UserError where it is none, or is not as long as its header says."""
    with _damaged(path):
        with path.open("rb") as file:  # numpy would open a zip file or a pickle under this name, too
            np.lib.format.read_magic(file)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.uint8 or array.ndim != dimensions:
        raise UserError(f"{path}: {array.dtype} {array.shape}, expected uint8 with {dimensions} dimensions")
    if not array.flags.c_contiguous:
        raise UserError(f"{path} is in Fortran order: save np.ascontiguousarray of it")
    return array


def read_index(path: Path, rows: int, columns: Sequence[str]) -> pd.DataFrame:
    """index.parquet, whose columns hold text (subject, split) and whole numbers (the others of `columns`).

    Raises UserError where it cannot be read, has another number of rows, or a column is missing or holds other things.
    """
    with _damaged(path):
        found = pq.read_metadata(path).num_rows
    if found != rows:  # before anything is unpacked
        raise UserError(f"{path.parent}: index.parquet has {found} rows for {rows} slices in images.npy")
    with _damaged(path):
        index = pd.read_parquet(path)
    if missing := [column for column in columns if column not in index.columns]:
        raise UserError(f"{path}: column(s) {', '.join(missing)} missing")
    for column in columns:
        text = column in ("subject", "split")
        if text and not index[column].map(lambda value: isinstance(value, str)).all():
            raise UserError(f"{path}: the column {column} holds values that are no text")
        if not text and not pd.api.types.is_integer_dtype(index[column].dtype):
            raise UserError(f"{path}: the column {column} is {index[column].dtype}, not whole numbers")
    return index
