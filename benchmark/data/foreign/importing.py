"""A synthetic set that somebody sent → SliceSet: slices in a folder per channel, NIfTI volumes, or arrays.

What cannot be told, or holds for the set, is refused with its list before anything is written. A single file that is
damaged, or a slice in which a modality is empty, becomes a `Rejection`, and the others go on.
"""

import math
import os
import re
import shutil
import struct
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import repeat
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from PIL import Image

from benchmark.data import cohorts, preparation
from benchmark.data.cohorts import MODALITIES, RejectedSubject, Rejection, shown
from benchmark.data.labels import BRATS_CLASSES
from benchmark.data.nifti import UNREADABLE
from benchmark.data.slices import CODES, SliceWriter, from_network
from benchmark.data.slicing import BRAIN_SHARE, T1_THRESHOLD, enough_brain
from benchmark.errors import UserError

ACCEPTED = (
    "PNG or 2-D NIfTI slices of 8 bit in folders T1, T1ce, T2, FLAIR, SEG; NIfTI volumes in a cohort's layout; "
    "arrays images.npy + labels.npy, or one array [N, 5, H, W] (.npz as well)"
)
CHANNELS = (*MODALITIES, "SEG")
FOLDER_NAMES = {  # in lower case, without anything but letters and digits
    **dict.fromkeys(("t1", "t1n"), 0),
    **dict.fromkeys(("t1ce", "t1c", "t1gd"), 1),
    **dict.fromkeys(("t2", "t2w"), 2),
    **dict.fromkeys(("flair", "t2f"), 3),
    **dict.fromkeys(("seg", "labels", "annotation", "mask"), 4),
}

TIMES_51 = "BraTS values × 51, decoded by thresholds"
VALUES = "BraTS values"
OFF_CODE_LIMIT = 0.5  # share of annotated pixels that are no code: then it is another coding, not a generator's noise

SHOWN = 20  # problems in a refusal
BATCH = 64  # slices in memory at once

_UNREADABLE = (  # what Pillow, nibabel, zipfile and numpy raise for damaged files
    *UNREADABLE, ImageFileError, zipfile.BadZipFile, RuntimeError, struct.error, SyntaxError, TokenError,
    IndexError,
)  # fmt: skip

# Class and off-code flag of every 8-bit annotation value, read off the decoder that sampling uses.
_RAMP = (torch.arange(256) / 127.5 - 1).view(256, 1, 1, 1).expand(256, 5, 1, 1)
_CLASS_OF, _OFF_CODE = (table.flatten().numpy() for table in from_network(_RAMP)[1:])

Progress = Callable[[int], None]  # told how many slices (of volumes: subjects) more are done


@dataclass(frozen=True)
class Part:
    """Some slices on their way into the set."""

    subjects: list[str]  # where each came from: the file's stem, the volume's case, the array's row
    z: list[int]  # -1 where it is not known
    images: np.ndarray  # uint8 [B, 4, H, W]
    labels: np.ndarray  # uint8 [B, H, W], classes 0–3
    off_code: np.ndarray  # float32 [B]: share of pixels whose annotation was far from every code


# --- the whole way ---------------------------------------------------------------------------------------------------


def is_slice_set(folder: Path) -> bool:
    """Whether the folder is a SliceSet, if only an unfinished one, so that `SliceSet.open` has the word."""
    marks = ("index.parquet", "meta.json", "*.partial")
    return (folder / "images.npy").is_file() and any(next(folder.glob(mark), None) for mark in marks)


def recognised(folder: Path) -> bool:
    """Whether `find` knows a format for the folder; a look at names only, which does not grow with the set."""
    return _find_format(folder) is not None


def find(folder: Path) -> "Sent":
    """The set in a folder: its format, its files, how they pair up; nothing but names and array headers is read.

    Raises UserError, with the list, where no format is recognised, files do not pair up, or arrays do not fit together.
    """
    if is_slice_set(folder):
        raise UserError(f"{folder} is a SliceSet already: give it as it is wherever a synthetic set is wanted")
    found = _find_format(folder)
    if found is None:
        raise UserError(f"{folder}: no synthetic set was recognised. Known: {ACCEPTED}")
    return found(folder)


def check(found: "Sent", image_size: int, workers: int, progress: Progress) -> str:
    """Looks at every file before anything is written; returns the annotation's coding, TIMES_51 or VALUES.

    Raises UserError, with the list, for files that are not 8-bit grey, sizes that differ or are not `image_size`,
    arrays out of range, and annotation values that are no class.
    """
    problems, sizes, values = [], _Sizes(), _Values()
    for facts in found.inspect(image_size, workers):
        problems += facts.problems
        sizes.add(facts.sizes)
        values.add(facts.where, facts.values)
        progress(1)
    problems = [*sizes.problems(image_size), *problems]
    coding, unknown = values.coding()
    _refuse(found.folder, [*problems, *unknown])
    return coding


def write(
    found: "Sent",
    coding: str,
    out: Path,
    meta: dict,
    *,
    image_size: int,
    workers: int,
    progress: Progress,
) -> list[Rejection]:
    """Writes the SliceSet and `out/rejected.csv`, and returns what was set aside; `coding` is what `check` returned.

    Raises UserError where nothing is left, or no slice has enough brain: `out` then has no set that opens.
    """
    rejections, brain = [], False
    with SliceWriter(out, image_size, {**meta, "format": found.format, "annotation": coding}) as writer:
        with closing(found.read(image_size, coding, out, workers, progress)) as parts:
            for part in parts:
                if isinstance(part, Rejection):
                    rejections.append(part)
                    continue
                brain = brain or enough_brain(part.images[:, 0], image_size**2).any()
                writer.append(
                    part.images,
                    part.labels,
                    subject=part.subjects,
                    z=part.z,
                    split="synthetic",
                    off_code=part.off_code.tolist(),
                )
        preparation.write_rejected(out / "rejected.csv", rejections)
        if writer.count == 0:
            reasons = Counter(rejection.reason for rejection in rejections).most_common(SHOWN)
            listed = "; ".join(f"{count} × {reason}" for reason, count in reasons)
            raise UserError(f"{found.folder}: nothing usable is left of {len(rejections)}. {listed}")
        if not brain:
            raise UserError(
                f"{found.folder}: no slice shows a brain: T1 is above {T1_THRESHOLD} of 255 in more than "
                f"{BRAIN_SHARE:.0%} of the pixels of none. Is the channel T1 the T1 image, in 8 bit?"
            )
    return rejections


def _find_format(folder: Path) -> type | None:
    if len({channel for channel, _ in _channel_folders(folder)}) >= 2:
        return SliceFolders
    if next(folder.glob("*.np[yz]"), None):
        return Arrays
    if next(cohorts.nifti_files(folder), None):
        return Volumes
    return None


def _channel_folders(folder: Path) -> list[tuple[int, Path]]:
    named = [(FOLDER_NAMES.get(re.sub(r"[^a-z0-9]", "", path.name.lower())), path) for path in _folders(folder)]
    return sorted((channel, path) for channel, path in named if channel is not None)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
        more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(f"{folder}: {len(problems)} problem(s), nothing was imported:{listed}{more}")


# --- what a look at every file finds ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """What was seen of one slice."""

    where: str  # the annotation's file
    sizes: dict[str, tuple[int, int]]  # (H, W) of each file that could be read
    problems: list[str]
    values: np.ndarray  # int [256]: pixels of each annotation value


_NO_VALUES = np.zeros(256, int)


class _Sizes:
    """The sizes that occur, with files as examples."""

    def __init__(self) -> None:
        self.count: Counter[tuple[int, int]] = Counter()
        self.files: dict[tuple[int, int], list[str]] = defaultdict(list)

    def add(self, sizes: dict[str, tuple[int, int]]) -> None:
        for file, size in sizes.items():
            self.count[size] += 1
            if len(self.files[size]) < 3:
                self.files[size].append(file)

    def problems(self, image_size: int) -> list[str]:
        if self.count.keys() <= {(image_size, image_size)}:
            return []
        (height, width), _ = self.count.most_common(1)[0]
        if height != width or height % 8 or not 16 <= height <= 1024:
            remedy = "no image_size fits: it must be square, 16 to 1024 px, and a multiple of 8"
        else:
            remedy = f"give image_size={height}" if height != image_size else "all must be of that size"
        if len(self.count) == 1:
            return [f"slices of {height} × {width} px, but the cohort is prepared at {image_size} px: {remedy}"]
        listed = "; ".join(
            f"{size[0]} × {size[1]} px: {count} files, e.g. {', '.join(self.files[size])}"
            for size, count in self.count.most_common(SHOWN)
        )
        return [f"sizes differ, and the cohort is prepared at {image_size} px: {remedy}. {listed}"]


class _Values:
    """The values that occur in the annotations: pixels of each, and a file that holds it."""

    def __init__(self) -> None:
        self.pixels = np.zeros(256, int)
        self.first: dict[int, str] = {}

    def add(self, where: str, pixels: np.ndarray) -> None:
        self.pixels += pixels
        for value in np.flatnonzero(pixels).tolist():
            self.first.setdefault(value, where)

    def coding(self) -> tuple[str, list[str]]:
        """How the values are to be understood, and what cannot be.

        Values × 51 have pixels above the first threshold; where none lies above it, these are the values themselves.
        """
        present = self.first.keys()
        if not any(_CLASS_OF[value] for value in present):
            unknown = [f"{self._shown(value)} is no class" for value in sorted(present - BRATS_CLASSES.keys())]
            if {3, 4} <= present:
                unknown.append(f"{self._shown(3)} and {self._shown(4)} are both there, but only one of them can be ET")
            known = f"known are {', '.join(map(str, BRATS_CLASSES))}, or × 51: {', '.join(map(str, CODES))}"
            return VALUES, [f"{problem}; {known}" for problem in unknown]

        if present <= {*BRATS_CLASSES, *CODES} and (small := present & BRATS_CLASSES.keys() - {0}):
            both = f"{self._shown(min(small))} and {self._shown(max(present))}"
            return TIMES_51, [f"both codings are there, BRATS values as they are and × 51: {both}"]
        annotated = self.pixels * (_CLASS_OF > 0)
        off_code = (annotated * _OFF_CODE).astype(int)
        if (share := off_code.sum() / annotated.sum()) > OFF_CODE_LIMIT:
            commonest = ", ".join(self._shown(value) for value in np.argsort(-off_code, kind="stable")[:3].tolist())
            return TIMES_51, [
                f"{share:.0%} of the annotated pixels are far from every code ({', '.join(map(str, CODES))}): this is "
                f"no annotation × 51. Most often: {commonest}"
            ]
        return TIMES_51, []

    def _shown(self, value: int) -> str:
        return f"annotation value {value} ({self.pixels[value]} pixels, first in {self.first.get(value, 'none')})"


# --- slices in a folder per channel ----------------------------------------------------------------------------------


class SliceFolders:
    """PNG or 2-D NIfTI slices of 8 bit, a folder per channel; files of one name, its channel apart, are one slice."""

    unit = "slice"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = _channel_folders(folder)
        channels = [channel for channel, _ in found]
        problems = [f"no folder for {name}" for c, name in enumerate(CHANNELS) if c not in channels]
        problems += [
            f"several folders for {CHANNELS[c]}: {', '.join(path.name for channel, path in found if channel == c)}"
            for c, count in Counter(channels).items()
            if count > 1
        ]
        _refuse(folder, problems)
        self._folders = tuple(path for _, path in found)
        self._names, self._files, nifti = self._pair()  # each slice's name, and its file in each folder
        self.count = len(self._names)
        self.format = "NIfTI slices" if nifti else "PNG slices"
        self._header, self._pixels = (_nifti_header, _nifti_pixels) if nifti else (_png_header, _png_pixels)

    @property
    def files(self) -> Iterator[Path]:
        """Every file of the set."""
        return (path for number in range(self.count) for path in self._paths(number))

    def inspect(self, image_size: int, workers: int) -> Iterator[_Facts]:
        """Headers of all files, values of all annotations; what is damaged is left to `read`."""
        return _parallel(lambda number: self._inspect(number, image_size), self.count, workers)

    def _inspect(self, number: int, image_size: int) -> _Facts:
        sizes, problems, values = {}, [], _NO_VALUES
        for channel, path in enumerate(self._paths(number)):
            file = shown(path, self.folder)
            try:
                size, problem = self._header(path)
                sizes |= {file: size} if size else {}
                problems += [f"{file}: {problem}"] if problem else []
                if channel == 4 and size == (image_size, image_size) and not problem:
                    values = np.bincount(self._pixels(path).ravel(), minlength=256)
            except RejectedSubject:
                pass  # `read` meets it again and sets the slice aside
        return _Facts(file, sizes, problems, values)

    def read(
        self, image_size: int, coding: str, scratch: Path, workers: int, progress: Progress
    ) -> Iterator[Part | Rejection]:
        """The slices, in the order of their names."""
        batch = []
        for number, outcome in enumerate(_parallel(self._read, self.count, workers)):
            progress(1)
            if isinstance(outcome, Rejection):
                yield outcome
            else:
                batch.append((self._names[number], outcome))
            if len(batch) == BATCH or (batch and number == self.count - 1):
                names, channels = zip(*batch, strict=True)
                channels = np.stack(channels)
                yield _part(list(names), channels[:, :4], channels[:, 4], coding)
                batch = []

    def _read(self, number: int) -> np.ndarray | Rejection:
        """uint8 [5, H, W]"""
        paths, name = self._paths(number), self._names[number]
        try:
            channels = np.stack([self._pixels(path) for path in paths])
        except RejectedSubject as rejected:
            return Rejection(name, shown(rejected.file, self.folder), rejected.reason)
        if (empty := _empty_modality(channels)) is not None:
            return Rejection(name, shown(paths[empty], self.folder), f"{MODALITIES[empty]} is nowhere above zero")
        return channels

    def _paths(self, number: int) -> tuple[Path, ...]:
        return tuple(folder / file for folder, file in zip(self._folders, self._files[number], strict=True))

    def _pair(self) -> tuple[list[str], list[tuple[str, ...]], bool]:
        """Names, their files, and whether they are NIfTI; raises UserError with what does not pair up."""
        problems, by_stem, endings = [], [], set()
        for path in self._folders:
            matches = [re.fullmatch(r"(.+?)\.(png|nii|nii\.gz)", entry.name, re.I) for entry in os.scandir(path)]
            files = sorted((match for match in matches if match and match[1][:2] != "._"), key=lambda match: match[0])
            endings |= {match[2].lower()[:3] for match in files}
            stems: dict[str, str] = {}
            for match in files:
                stem = shown(Path(match[1]), Path())
                if stem in stems:
                    problems.append(f"{path.name}: {stems[stem]} and {match[0]} have one name")
                stems[stem] = match[0]
            by_stem.append(stems)
        if len(endings) != 1:
            problems.append(
                "PNG and NIfTI are mixed" if endings else "no .png, .nii or .nii.gz in the channels' folders"
            )
        _refuse(self.folder, problems)

        if len({frozenset(stems) for stems in by_stem}) > 1:
            by_stem = [self._without_channel(channel, stems) for channel, stems in enumerate(by_stem)]
        names = sorted(set().union(*by_stem))
        for name in names:
            if missing := [path.name for path, stems in zip(self._folders, by_stem, strict=True) if name not in stems]:
                problems.append(f"{name}: no file in {', '.join(missing)}")
        _refuse(self.folder, problems)
        return names, [tuple(stems[name] for stems in by_stem) for name in names], endings == {"nii"}

    def _without_channel(self, channel: int, stems: dict[str, str]) -> dict[str, str]:
        """img_0001_t1 → img_0001, t1-0001 → 0001, in the folder of T1."""
        known = "|".join(name for name, number in FOLDER_NAMES.items() if number == channel)
        plain = re.compile(rf"^({known})[_-](?=.)|(?<=.)[_-]({known})$", re.I)
        without: dict[str, str] = {}
        for stem, file in stems.items():
            first = without.setdefault(plain.sub("", stem, count=1), file)
            if first != file:
                raise UserError(f"{self._folders[channel]}: {first} and {file} differ by the channel's name alone")
        return without


def _parallel(work: Callable[[int], object], count: int, workers: int) -> Iterator:
    """work(0), work(1), … in order, by threads: decoding lets go of the interpreter's lock."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, count, BATCH):
            yield from pool.map(work, range(start, min(start + BATCH, count)))


def _empty_modality(channels: np.ndarray) -> int | None:
    empty = np.flatnonzero(~channels[:4].any((1, 2)))
    return int(empty[0]) if len(empty) else None


def _part(subjects: list[str], images: np.ndarray, annotation: np.ndarray, coding: str) -> Part:
    """Slices with their annotation, uint8 [B, H, W], decoded."""
    if coding == TIMES_51:
        labels, off_code = _CLASS_OF[annotation], _OFF_CODE[annotation].mean((1, 2))
    else:
        labels, off_code = _BRATS_CLASS_OF[annotation], np.zeros(len(annotation), np.float32)
    return Part(subjects, [-1] * len(subjects), images, labels, off_code)


_BRATS_CLASS_OF = np.array([BRATS_CLASSES.get(value, 0) for value in range(256)], np.uint8)


_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def _png_header(path: Path) -> tuple[tuple[int, int], str]:
    """(H, W), and what is wrong with the kind of image, if anything. Pillow does not tell 2 bits from 8."""
    try:
        with path.open("rb") as file:
            header = file.read(26)
    except OSError as error:
        raise RejectedSubject(path, f"unreadable: {error.strerror}") from error
    if len(header) < 26 or not header.startswith(b"\x89PNG\r\n\x1a\n") or header[12:16] != b"IHDR":
        raise RejectedSubject(path, "truncated, or no PNG")
    width, height, depth, colour = struct.unpack(">IIBB", header[16:])
    fits = (depth, colour) == (8, 0)
    kind = f"{depth}-bit {_PNG_COLOURS.get(colour, 'unknown')}"
    return (height, width), "" if fits else f"{kind} PNG; 8-bit grey is needed"


def _png_pixels(path: Path) -> np.ndarray:
    """uint8 [H, W]"""
    try:
        content = path.read_bytes()
        Image.open(BytesIO(content)).verify()  # checksums, which decoding alone passes over
        return np.asarray(Image.open(BytesIO(content)))
    except _UNREADABLE as error:
        raise RejectedSubject(path, f"truncated or unreadable: {error}") from error


def _nifti_header(path: Path) -> tuple[tuple[int, int] | None, str]:
    """(H, W), and what is wrong with the kind of image, if anything."""
    image, to_lps = _nifti(path)
    if len(image.shape) < 2 or np.prod(image.shape[2:]) != 1:
        return None, f"shape {image.shape} is not one slice; volumes are imported in a cohort's layout"
    if to_lps[2, 0] != 2:
        return None, "its slice is not axial"
    columns, rows = image.shape[:2] if to_lps[0, 0] == 0 else image.shape[1::-1]
    stored = image.dataobj
    if image.get_data_dtype() != np.uint8 or stored.slope != 1 or stored.inter != 0:
        scaled = " with slope and intercept" if stored.slope != 1 or stored.inter != 0 else ""
        return (rows, columns), f"values are {image.get_data_dtype()}{scaled}; 8 bit (uint8) as they are is needed"
    return (rows, columns), ""


def _nifti_pixels(path: Path) -> np.ndarray:
    """uint8 [H, W], anterior to posterior and right to left, as the file's affine says."""
    image, to_lps = _nifti(path)
    try:
        voxels = np.asanyarray(image.dataobj).reshape(*image.shape[:2], 1)
    except _UNREADABLE as error:
        raise RejectedSubject(path, f"truncated or unreadable: {error}") from error
    return apply_orientation(voxels, to_lps).T[0]


def _nifti(path: Path) -> tuple[nib.Nifti1Image, np.ndarray]:
    """The image, its voxels not yet read, and how its axes turn to LPS."""
    try:
        image = nib.load(path)
        orientation = io_orientation(image.affine)
    except _UNREADABLE as error:
        raise RejectedSubject(path, f"truncated or unreadable: {error}") from error
    if np.isnan(orientation).any():
        raise RejectedSubject(path, "its affine is singular: orientation is unknown")
    return image, ornt_transform(orientation, axcodes2ornt("LPS"))


# --- arrays ----------------------------------------------------------------------------------------------------------


class Arrays:
    """images [N, 4, H, W] (or [N, H, W, 4]) with labels [N, H, W], or one array whose fifth channel is the annotation.

    Images are uint8, or float in 0 … 1, which is multiplied by 255; labels are whole numbers.
    """

    unit = "slice"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        arrays = _arrays(folder)
        if {"images", "labels"} <= arrays.keys():
            self._images, self._labels = arrays["images"], arrays["labels"]
        elif len(arrays) == 1:
            (self._images,), self._labels = arrays.values(), None
        else:
            found = ", ".join(map(str, arrays.values()))
            raise UserError(f"{folder}: the arrays images and labels, or one alone, are needed; found {found}")
        self._refuse_headers()
        self.files = sorted({array.path for array in (self._images, self._labels) if array})
        self.format = "arrays of float × 255" if self._images.dtype.kind == "f" else "arrays"
        self.count = self._images.shape[0]

    def _refuse_headers(self) -> None:
        images, labels, problems = self._images, self._labels, []
        channels = 4 if labels else 5
        self._channels_last = images.shape[3:] == (channels,)
        self._size = images.shape[1:3] if self._channels_last else images.shape[2:]
        if len(images.shape) != 4 or (images.shape[1] == channels) == self._channels_last:
            what = "beside labels" if labels else "with the annotation last"
            problems.append(
                f"{images}: shape {images.shape}; [N, {channels}, H, W] or channels last, {what}, is needed"
            )
        elif labels and labels.shape != (images.shape[0], *self._size):
            problems.append(f"{labels}: shape {labels.shape} does not fit that of {images}, {images.shape}")
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            problems.append(f"{images}: values are {images.dtype}; uint8, or float in 0 … 1, is needed")
        if labels and labels.dtype.kind not in "iu":
            problems.append(f"{labels}: values are {labels.dtype}; whole numbers are needed")
        _refuse(self.folder, problems)

    def inspect(self, image_size: int, workers: int) -> Iterator[_Facts]:
        """All values, slice by slice; nothing but the size where that does not fit."""
        images, labels = self._images, self._labels or self._images
        if self._size != (image_size, image_size):
            yield _Facts(str(images), {str(images): self._size}, [], _NO_VALUES)
            return
        row = 0
        for batch in self._batches():
            for pixels, annotation in zip(*batch, strict=True):
                problems, values = [], _NO_VALUES
                if not (pixels.min() >= 0 and pixels.max() <= (255 if images.dtype == np.uint8 else 1)):  # so is NaN
                    remedy = "floats must lie in 0 … 1, and 0 … 255 be saved as uint8"
                    problems.append(f"{images}, slice {row}: values {pixels.min():g} … {pixels.max():g}; {remedy}")
                elif not (annotation.min() >= 0 and annotation.max() <= 255):
                    span = f"{annotation.min()} … {annotation.max()}"
                    problems.append(f"{labels}, slice {row}: values {span}; 8 bit is needed")
                else:
                    values = np.bincount(_to_8bit(annotation).ravel(), minlength=256)
                yield _Facts(f"{labels}, slice {row}", {}, problems, values)
                row += 1

    def read(
        self, image_size: int, coding: str, scratch: Path, workers: int, progress: Progress
    ) -> Iterator[Part | Rejection]:
        """The slices in their order, named by the set and their row."""
        row = 0
        for pixels, annotation in self._batches():
            images, annotation = _to_8bit(pixels[:, :4]), _to_8bit(annotation)
            rows = np.arange(row, row + len(images))
            full = images.any((2, 3))
            for missing, number in zip(full[~full.all(1)], rows[~full.all(1)], strict=True):
                reason = f"{MODALITIES[missing.argmin()]} is nowhere above zero"
                yield Rejection(f"{self._images} {number}", str(self._images), reason)
            if full.all(1).any():
                keep = full.all(1)
                yield _part([f"{self._images} {n}" for n in rows[keep]], images[keep], annotation[keep], coding)
            progress(len(images))
            row += len(images)

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(images, annotation) as they are stored, but channels first, a few slices at a time."""
        labels = self._labels.batches() if self._labels else repeat(None)
        for pixels, annotation in zip(self._images.batches(), labels, strict=False):
            if self._channels_last:
                pixels = np.moveaxis(pixels, 3, 1)
            yield pixels, pixels[:, 4] if annotation is None else annotation


def _to_8bit(values: np.ndarray) -> np.ndarray:
    return np.rint(255 * values).astype(np.uint8) if values.dtype.kind == "f" else values.astype(np.uint8, copy=False)


def _arrays(folder: Path) -> "dict[str, _Array]":
    """All arrays by name: that of the .npy, or of the member of an .npz; a lone member is called as its file."""
    found: dict[str, _Array] = {}
    for path in sorted(folder.glob("*.np[yz]")):
        members = {path.stem: None}
        if path.suffix == ".npz":
            try:
                members = {name.removesuffix(".npy"): name for name in zipfile.ZipFile(path).namelist()}
            except _UNREADABLE as error:
                raise UserError(f"{path}: truncated or unreadable: {error}") from error
            if len(members) == 1:
                members = {path.stem: next(iter(members.values()))}
        for name, member in members.items():
            if name in found:
                raise UserError(f"{folder}: two arrays are called {name}: {found[name]} and {path.name}")
            found[name] = _Array(path, member)
    return found


class _Array:
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
        except _UNREADABLE as error:
            raise UserError(f"{self.path.parent}: {self} is truncated or unreadable: {error}") from error


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type; the values follow. Nothing is unpickled."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


# --- volumes ---------------------------------------------------------------------------------------------------------


class Volumes:
    """NIfTI volumes as cohorts have them: every axial slice with enough brain, as those of training subjects."""

    format, unit = "NIfTI volumes", "volume"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cohort = cohorts.find(folder)
        self.files = sorted([*cohorts.nifti_files(folder), *folder.rglob("dataset.json")])
        self.count = len(self._cohort.subjects)

    def inspect(self, image_size: int, workers: int) -> Iterator[_Facts]:
        """Nothing: volumes are resized, and `read` sets aside those that cannot be used, one by one."""
        return (_Facts(subject.name, {}, [], _NO_VALUES) for subject in self._cohort.subjects)

    def read(
        self, image_size: int, coding: str, scratch: Path, workers: int, progress: Progress
    ) -> Iterator[Part | Rejection]:
        """The slices of each volume, in the order of the volumes' names."""
        yield from self._cohort.rejections
        subjects = self._cohort.subjects
        with (
            preparation.scratch_folder(scratch / "subjects.partial") as folder,
            closing(
                preparation.slice_all(self._cohort, subjects, [False] * self.count, folder / "all", image_size, workers)
            ) as sliced,
        ):
            for subject, files, result in sliced:
                if not isinstance(result, Rejection):
                    result = preparation.useless(self._cohort, subject, result, {}) or result  # copies stay: they count
                if isinstance(result, Rejection):
                    yield result
                else:
                    images, labels = (
                        np.load(files / name, allow_pickle=False) for name in ("images.npy", "labels.npy")
                    )
                    count = len(images)
                    yield Part([subject.name] * count, result.z.tolist(), images, labels, np.zeros(count, np.float32))
                shutil.rmtree(files)
                progress(1)


Sent = SliceFolders | Arrays | Volumes
