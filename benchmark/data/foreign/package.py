"""A package that the stage release made, on its way into a SliceSet: taken as it is, once its checksums fit.

Nothing about it is guessed. `stand-in.json` declares format, size, number, coding and how slices lie.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from benchmark.data.annotation import CODES
from benchmark.data.cohorts import RejectedSubject
from benchmark.data.foreign.coding import TIMES_51, Coding, as_they_are, decoded
from benchmark.data.foreign.facts import BATCH, Part, Progress, parallel, refuse
from benchmark.data.foreign.slice_files import nifti_pixels, png_pixels
from benchmark.data.layouts import MODALITIES
from benchmark.data.set_files import open_array
from benchmark.data.slicing import Frame
from benchmark.data.tree import printable
from benchmark.errors import UserError

DECLARATION = "stand-in.json"
CHECKSUMS = "checksums.sha256"  # as `sha256sum -c` reads it
VERSION = 1
CHANNELS = (*MODALITIES, "SEG")
ENDINGS = {"png": "png", "nifti": "nii.gz"}
ORIENTATION = "rows run anterior to posterior, columns from the patient's right to left"
CODINGS = {"png": TIMES_51, "nifti": TIMES_51, "arrays": as_they_are("classes 0–3", {1: 1, 2: 2, 3: 3})}
VALUES = {"png": CODES, "nifti": CODES, "arrays": (0, 1, 2, 3)}  # of background, NCR, ED and ET
FORMAT_NAMES = {"png": "PNG slices", "nifti": "NIfTI slices", "arrays": "arrays"}
MOST_DECLARED = 1 << 20  # bytes of the declaration
MOST_SPACING = 1000.0  # mm
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def slice_file(channel: str, number: int, form: str) -> str:
    """'T1/000042.png': where a slice's channel lies in a package."""
    return f"{channel}/{number:06d}.{ENDINGS[form]}"


@dataclass(frozen=True)
class Declaration:
    """What a package says of its slices."""

    format: str  # png, nifti or arrays
    image_size: int  # px
    slices: int
    spacing: list[float]  # mm along z, y, x
    simulated: bool

    @property
    def field_of_view(self) -> int:
        """mm along both sides of a slice."""
        return round(self.image_size * self.spacing[1])

    def to_json(self) -> str:
        coding = {
            "annotation": "background 0, NCR 1, ED 2, ET 3"
            if self.format == "arrays"
            else "background 0, NCR 51, ED 102, ET 204",
            "orientation": ORIENTATION,
            "channels": list(CHANNELS),
        }
        return json.dumps({"stand_in_package": VERSION, **vars(self), **coding}, indent=1) + "\n"


def is_package(folder: Path) -> bool:
    """Whether the folder is such a package, perhaps a damaged one."""
    return os.path.isfile(folder / DECLARATION)


class Package:
    """A package as a set that somebody sent."""

    unit = "slice"

    def __init__(self, folder: Path) -> None:
        self.folder, self.declared = folder, _declaration(folder / DECLARATION)
        self.count, self.format = self.declared.slices, f"package of {FORMAT_NAMES[self.declared.format]}"
        self._checksums = _checksums(folder)
        if self.declared.format != "arrays" and self.count > len(self._checksums):  # before anything of so many is done
            raise UserError(
                f"{folder}: {self.count} slices are declared, but {CHECKSUMS} lists {len(self._checksums)} files: "
                "get the package anew"
            )
        self.files = [folder / CHECKSUMS, *(folder / name for name in self._checksums)]

    def understand(self, image_size: int, progress: Progress) -> Coding:
        """The declared coding, once every file is the one that was released.

        Raises UserError, with the list, for files that differ, are missing or are extra, and for another size.
        """
        if self.declared.image_size != image_size:
            size = self.declared.image_size
            raise UserError(
                f"{self.folder}: slices of {size} × {size} px, but the cohort is prepared at {image_size} px: "
                f"give image_size={size}"
            )
        refuse(self.folder, chain(self._extra(), self._otherwise_declared(), self._differing()))
        progress(self.count)
        return CODINGS[self.declared.format]

    def read(self, frame: Frame, coding: Coding, scratch: Path, workers: int, progress: Progress) -> Iterator[Part]:
        """All slices, in their order, whatever they show."""
        read = self._arrays() if self.declared.format == "arrays" else self._slice(frame.image_size)
        for start in range(0, self.count, BATCH):
            rows = range(start, min(start + BATCH, self.count))
            channels = np.stack([*parallel(lambda i, first=start: read(first + i), len(rows), workers)])
            self._refuse_other_values(channels[:, 4])
            progress(len(rows))
            yield decoded([f"{row:06d}" for row in rows], channels[:, :4], channels[:, 4], coding)

    def _refuse_other_values(self, annotation: np.ndarray) -> None:
        """Annotation [B, H, W] that no release writes: decoding it by thresholds would guess what it means."""
        known = VALUES[self.declared.format]
        if (other := annotation[~np.isin(annotation, known)]).size:
            raise UserError(
                f"{self.folder}: an annotation holds {other[0]}, which is no class of a {self.format} "
                f"({', '.join(map(str, known))}): this is not as stage release wrote it, ask its sender"
            )

    def _slice(self, image_size: int) -> Callable[[int], np.ndarray]:
        pixels = {"png": png_pixels, "nifti": nifti_pixels}[self.declared.format]

        def read(number: int) -> np.ndarray:
            paths = [self.folder / slice_file(channel, number, self.declared.format) for channel in CHANNELS]
            try:
                return np.stack([pixels(path, image_size) for path in paths])
            except RejectedSubject as rejected:
                raise UserError(f"{rejected.file}: {rejected.reason}") from rejected

        return read

    def _arrays(self) -> Callable[[int], np.ndarray]:
        images, labels = open_array(self.folder / "images.npy", 4), open_array(self.folder / "labels.npy", 3)
        size = self.declared.image_size
        if images.shape != (self.count, 4, size, size) or labels.shape != (self.count, size, size):
            raise UserError(f"{self.folder}: images {images.shape} and labels {labels.shape}, declared {self.declared}")
        return lambda row: np.concatenate([images[row], labels[row][None]])

    def _otherwise_declared(self) -> Iterator[str]:
        """Slices that the package declares, but does not list, and the other way round."""
        form = self.declared.format
        if form == "arrays":
            declared = {"images.npy": None, "labels.npy": None}
        else:
            declared = {slice_file(channel, row, form): None for row in range(self.count) for channel in CHANNELS}
        yield from (f"{name}: declared, but not in {CHECKSUMS}" for name in declared if name not in self._checksums)
        listed = (name for name in self._checksums if name.split("/")[0] in CHANNELS and name not in declared)
        yield from (f"{printable(name)}: in {CHECKSUMS}, but not declared" for name in listed)

    def _extra(self) -> Iterator[str]:
        known = {*self._checksums, CHECKSUMS}
        for place, folders, names in sorted(os.walk(self.folder)):
            links = [name for name in folders if os.path.islink(os.path.join(place, name))]  # nothing walks into these
            for name in sorted([*names, *links]):
                relative = (Path(place) / name).relative_to(self.folder).as_posix()
                if relative not in known:
                    yield f"{printable(relative)}: extra, it is no file of this package"

    def _differing(self) -> Iterator[str]:
        for name, digest in self._checksums.items():
            path = self.folder / name
            if not os.path.isfile(path):
                yield f"{printable(name)}: missing"
                continue
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    yield f"{printable(name)}: differs from the file that was released"


def _declaration(path: Path) -> Declaration:
    try:
        if path.stat().st_size > MOST_DECLARED:
            raise ValueError(f"{path.stat().st_size >> 20} MiB")
        found = json.loads(path.read_bytes())
        if found["stand_in_package"] != VERSION:
            raise UserError(f"{path}: a package of version {found['stand_in_package']!s:.20}; {VERSION} is known")
        declared = Declaration(**{key: found[key] for key in Declaration.__dataclass_fields__})
        if not _makes_sense(declared):
            raise ValueError(f"{declared!s:.200}")
        return declared
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({str(error) or type(error).__name__}): get the package anew") from error


def _makes_sense(declared: Declaration) -> bool:
    """Whether every value is of its kind: JSON makes no difference between 1, 1.0 and true where Python compares."""
    spacing = declared.spacing
    return (
        declared.format in CODINGS
        and all(type(number) is int and number > 0 for number in (declared.image_size, declared.slices))
        and type(declared.simulated) is bool
        and isinstance(spacing, list)
        and len(spacing) == 3
        and all(type(mm) in (int, float) and 0 < mm <= MOST_SPACING for mm in spacing)
    )


def _checksums(folder: Path) -> dict[str, str]:
    """sha256 by file. Raises UserError for what is no such line, or points out of the package."""
    path, found = folder / CHECKSUMS, {}
    if not os.path.isfile(path):  # a pipe would be read for ever
        raise UserError(f"{path}: missing, or no file: get the package anew")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): get the package anew") from error
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if not match or match[2].startswith("/") or ".." in match[2].split("/"):
            raise UserError(f"{path}, line {number}: no 'SHA256  FILE' of this package: get the package anew")
        found[match[2]] = match[1]
    return found
