"""SliceSet: the one format for annotated slices, real and synthetic alike.

A folder holds `images.npy` uint8 [N, 4, H, W] (T1, T1ce, T2, FLAIR), `labels.npy` uint8 [N, H, W] (0–3 = background,
NCR, ED, ET), `index.parquet` (one row a slice: subject, seed, z, split, tumour_pixels, and patient where a person may
have several subjects, which are scans) and `meta.json`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.data.cohorts import MODALITIES
from benchmark.data.set_files import open_array, read_index, read_meta
from benchmark.errors import UserError

CLASSES = ("background", "NCR", "ED", "ET")
SPLITS = ("train", "validation", "test", "synthetic")
COLUMNS = ("subject", "seed", "z", "split", "tumour_pixels")


@dataclass(frozen=True)
class SliceSet:
    """An opened set: memory-mapped arrays, the index and the meta data (`kind`, `cohort`, `spacing`, …)."""

    folder: Path
    images: np.ndarray  # uint8 [N, 4, H, W]
    labels: np.ndarray  # uint8 [N, H, W]
    index: pd.DataFrame
    meta: dict

    @classmethod
    def open(cls, folder: Path | str) -> "SliceSet":
        """Opens a finished set; raises UserError, naming the file, where something is missing or does not fit."""
        folder = Path(folder)
        for name in ("meta.json", "images.npy", "labels.npy", "index.parquet"):
            if not (folder / name).is_file():
                remedy = (
                    "It was left unfinished: run the stage that writes it again."
                    if any(folder.glob("*.partial"))
                    else "Give a folder written by the stage prepare or sample."
                )
                raise UserError(f"{folder} is no complete slice set: {name} is missing. {remedy}")
        meta = read_meta(folder / "meta.json")
        images, labels = open_array(folder / "images.npy", 4), open_array(folder / "labels.npy", 3)
        if images.shape[1] != len(MODALITIES):
            raise UserError(f"{folder / 'images.npy'}: {images.shape[1]} channels, expected {', '.join(MODALITIES)}")
        if (len(images), *images.shape[2:]) != labels.shape:
            raise UserError(f"{folder}: images.npy {images.shape} and labels.npy {labels.shape} do not fit together")
        if images.shape[2:] != (meta["image_size"],) * 2:
            height, width = images.shape[2:]
            raise UserError(
                f"{folder}: images.npy has {height} × {width} px, but image_size in meta.json is {meta['image_size']}"
            )
        if len(images) == 0:
            raise UserError(f"{folder}: images.npy holds no slice")
        index = read_index(folder / "index.parquet", len(images), COLUMNS)
        if unknown := set(index["split"]) - set(SPLITS):
            raise UserError(f"{folder / 'index.parquet'}: unknown split {sorted(map(str, unknown))}; known: {SPLITS}")
        probed = np.unique(np.linspace(0, len(labels) - 1, 64).astype(int))  # reading all would cost minutes
        if (highest := int(labels[probed].max())) >= len(CLASSES):
            raise UserError(f"{folder / 'labels.npy'}: label {highest}; expected 0–3 = {', '.join(CLASSES)}")
        index["patient"] = _patients(index, folder / "index.parquet")
        return cls(folder, images, labels, index, meta)

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, split: str) -> np.ndarray:
        """Row numbers, ascending, of a split: train, validation, test or synthetic."""
        if split not in SPLITS:
            raise ValueError(f"unknown split '{split}'; known: {', '.join(SPLITS)}")
        return np.flatnonzero(self.index["split"] == split)


def _patients(index: pd.DataFrame, path: Path) -> pd.Series:
    """Whose scan each row's subject is: without such a column, every subject is a patient of its own."""
    if "patient" not in index.columns:
        return index["subject"]
    if index["patient"].isna().any():
        raise UserError(f"{path}: {int(index['patient'].isna().sum())} rows have no patient")
    whose = index.groupby("subject")["patient"].nunique()
    if (whose > 1).any():
        raise UserError(f"{path}: subject {whose.idxmax()} is a scan of {whose.max()} patients")
    return index["patient"]


class SliceWriter:
    """Writes a SliceSet slice batch by slice batch; memory does not grow with its length.

    with SliceWriter(folder, image_size, meta) as writer:
        writer.append(images, labels, subject=…, z=…, split=…)

    Until it is closed everything stands in `*.partial` files; final names appear at close, `meta.json` last, so a
    killed writer leaves nothing that opens. Leaving the block by an exception removes the partial files, unless
    `resume` is set. With `resume`, an append that has returned is durable, and a new writer with the same `meta` goes
    on after the last one: its `count` says how many rows stand. The same appends then give the same bytes.

    `meta` needs kind, cohort, simulated and spacing ({subject: [z, y, x] mm}); entries may be added until close.
    Raises UserError where `resume` meets a partial set that was begun with another `meta` or image size.
    """

    def __init__(self, folder: Path | str, image_size: int, meta: Mapping, *, resume: bool = False) -> None:
        self.folder, self.resume = Path(folder), resume
        self.meta = {**meta, "image_size": image_size}
        self.count = 0
        self._shapes = {"images.npy": (len(MODALITIES), image_size, image_size), "labels.npy": (image_size, image_size)}
        self._splits: Mapping[str, str] | None = None

        self.folder.mkdir(parents=True, exist_ok=True)
        if resume and self._final("meta.json").exists():
            raise ValueError(f"{self.folder} is a complete slice set already: nothing to resume")
        if not resume:
            self._discard()
        for name in self._shapes:  # killed while close() renamed
            if self._final(name).exists():
                self._final(name).replace(self._partial(name))

        self._journal = self._partial("index.jsonl").open("a+b")
        for name in self._shapes:
            self._partial(name).touch()
        self._arrays = {name: self._partial(name).open("r+b") for name in self._shapes}
        self._recover()

    def append(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        subject: str | Sequence[str],
        z: int | Sequence[int],
        split: str,
        seed: int | Sequence[int] = -1,
        **more: str | Sequence[str] | Sequence[float],
    ) -> None:
        """Adds images uint8 [B, 4, H, W] and labels uint8 [B, H, W]; subject, z and seed are one for all or one each.

        `more` are further columns of the index, such as patient, the same in every call.

        Raises ValueError for another dtype or shape, or a label above 3.
        """
        for name, array in (("images.npy", images), ("labels.npy", labels)):
            if array.dtype != np.uint8 or array.shape != (len(images), *self._shapes[name]):
                raise ValueError(f"{name}: got {array.dtype} {array.shape}, expected uint8 [B, {self._shapes[name]}]")
        if labels.size and labels.max() >= len(CLASSES):
            raise ValueError(f"labels.npy: label {labels.max()} above {len(CLASSES) - 1}")
        rows = {"subject": subject, "seed": seed, "z": z, "split": split, **more}
        rows["tumour_pixels"] = [np.count_nonzero(annotation) for annotation in labels]
        rows = pd.DataFrame(rows, index=range(len(images)))

        # The journal's line is what makes a batch count: it follows the pixels.
        for name, array in (("images.npy", images), ("labels.npy", labels)):
            self._arrays[name].write(np.ascontiguousarray(array).data)
            self._sync(self._arrays[name])
        self._journal.write(json.dumps(rows.to_dict("list")).encode() + b"\n")
        self._sync(self._journal)
        self.count += len(images)

    def assign_splits(self, split_of_subject: Mapping[str, str]) -> None:
        """Sets the split of every row by its subject at close, for writers that learn it after appending."""
        self._splits = split_of_subject

    def close(self) -> None:
        """Completes the set; raises ValueError when nothing was appended."""
        if self.count == 0:
            raise ValueError(f"{self.folder}: a slice set cannot be empty")
        for name, file in self._arrays.items():
            file.seek(0)
            file.write(_npy_header((self.count, *self._shapes[name])))
        index = pd.concat([pd.DataFrame(batch) for batch in self._batches()], ignore_index=True)
        if self._splits is not None:
            index["split"] = index["subject"].map(self._splits)
        if not index["split"].isin(SPLITS).all():
            raise ValueError(f"{self.folder}: rows without a known split: {sorted(set(index['split']) - set(SPLITS))}")
        index = index.astype({"seed": np.int64, "z": np.int64, "tumour_pixels": np.int64})
        pq.write_table(pa.Table.from_pandas(index, preserve_index=False), self._partial("index.parquet"))
        self._partial("meta.json").write_text(json.dumps(self.meta, indent=1) + "\n", encoding="utf-8")

        for file in (*self._arrays.values(), self._journal):
            file.close()
        names = ("images.npy", "labels.npy", "index.parquet", "meta.json")
        for name in names:
            with self._partial(name).open("rb+") as file:
                os.fsync(file.fileno())
        for name in names:
            self._partial(name).replace(self._final(name))
        self._partial("index.jsonl").unlink()

    def __enter__(self) -> "SliceWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if kind is None:
            self.close()
            return
        for file in (*self._arrays.values(), self._journal):
            file.close()
        if not self.resume:
            self._discard()

    def _final(self, name: str) -> Path:
        return self.folder / name

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}.partial"

    def _discard(self) -> None:
        self._final("meta.json").unlink(missing_ok=True)  # first: from here on the set is incomplete
        for name in ("images.npy", "labels.npy", "index.parquet", "index.jsonl", "meta.json"):
            self._final(name).unlink(missing_ok=True)
            self._partial(name).unlink(missing_ok=True)

    def _sync(self, file) -> None:
        file.flush()
        if self.resume:
            os.fsync(file.fileno())

    def _recover(self) -> None:
        """Goes back to the end of the last batch that is whole in all three files; begins them where there is none."""
        self._journal.seek(0)
        begun = self._journal.readline()
        if not begun.endswith(b"\n"):
            self._journal.truncate(0)
            self._journal.write(json.dumps(self.meta).encode() + b"\n")
        elif json.loads(begun) != json.loads(json.dumps(self.meta)):
            raise UserError(
                f"{self.folder} holds an unfinished set that was begun with other settings "
                f"({begun.decode().strip()}): delete the folder, or finish it with those"
            )
        else:
            whole = self._journal.tell()
            stored = min(
                (file.seek(0, os.SEEK_END) - len(_npy_header((0, *self._shapes[name])))) // np.prod(self._shapes[name])
                for name, file in self._arrays.items()
            )
            while (line := self._journal.readline()).endswith(b"\n"):
                count = self.count + len(json.loads(line)["z"])
                if count > stored:
                    break
                whole, self.count = whole + len(line), count
            self._journal.truncate(whole)
        self._sync(self._journal)
        for name, file in self._arrays.items():
            header = _npy_header((0, *self._shapes[name]))
            file.seek(0)
            file.write(header)
            file.truncate(len(header) + self.count * int(np.prod(self._shapes[name])))
            file.seek(0, os.SEEK_END)

    def _batches(self):
        self._journal.seek(0)
        next(self._journal)  # the settings it was begun with
        for line in self._journal:
            yield json.loads(line)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """The .npy header of a uint8 array; as long for any first dimension: numpy leaves room for it to grow."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()
