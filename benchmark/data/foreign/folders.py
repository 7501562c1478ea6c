"""Slices in a folder per channel."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.data.cohorts import MODALITIES, RejectedSubject, Rejection, shown
from benchmark.data.foreign.coding import Coding, decoded
from benchmark.data.foreign.facts import BATCH, NO_VALUES, SHOWN, Facts, Part, Progress, parallel, refuse
from benchmark.data.foreign.slice_files import nifti_header, nifti_pixels, png_header, png_pixels
from benchmark.data.slicing import Frame
from benchmark.data.tree import printable
from benchmark.errors import UserError

CHANNELS = (*MODALITIES, "SEG")
FOLDER_NAMES = {  # in lower case, without anything but letters and digits
    **dict.fromkeys(("t1", "t1n"), 0),
    **dict.fromkeys(("t1ce", "t1c", "t1gd"), 1),
    **dict.fromkeys(("t2", "t2w"), 2),
    **dict.fromkeys(("flair", "t2f"), 3),
    **dict.fromkeys(("seg", "labels", "annotation", "mask"), 4),
}
_SLICE = re.compile(r"(.+?)\.(png|nii|nii\.gz)", re.IGNORECASE | re.DOTALL)  # a name may hold a newline


class SliceFolders:
    """PNG or 2-D NIfTI slices of 8 bit, a folder per channel; files of one name, its channel apart, are one slice."""

    unit = "slice"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = channel_folders(folder)
        channels = [channel for channel, _ in found]
        problems = [f"no folder for {name}" for c, name in enumerate(CHANNELS) if c not in channels]
        problems += [
            f"several folders for {CHANNELS[c]}: {', '.join(path.name for channel, path in found if channel == c)}"
            for c, count in Counter(channels).items()
            if count > 1
        ]
        refuse(folder, problems)
        self._folders = tuple(path for _, path in found)
        self._names, self._files, nifti = self._pair()  # each slice's name, and its file in each folder
        self.count = len(self._names)
        self.format = "NIfTI slices" if nifti else "PNG slices"
        self._header, self._pixels = (nifti_header, nifti_pixels) if nifti else (png_header, png_pixels)

    @property
    def files(self) -> Iterator[Path]:
        """Every file of the set."""
        return (path for number in range(self.count) for path in self._paths(number))

    def inspect(self, image_size: int, workers: int) -> Iterator[Facts]:
        """Headers of all files, values of all annotations; what is damaged is left to `read`."""
        return parallel(lambda number: self._inspect(number, image_size), self.count, workers)

    def _inspect(self, number: int, image_size: int) -> Facts:
        sizes, problems, values = {}, [], NO_VALUES
        for channel, path in enumerate(self._paths(number)):
            file = shown(path, self.folder)
            try:
                size, problem = self._header(path, image_size)
                sizes |= {file: size} if size else {}
                problems += [f"{file}: {problem}"] if problem else []
                if channel == 4 and size == (image_size, image_size) and not problem:
                    values = np.bincount(self._pixels(path, image_size).ravel(), minlength=256)
            except RejectedSubject:
                pass  # `read` meets it again and sets the slice aside
        return Facts(file, sizes, problems, values)

    def read(
        self, frame: Frame, coding: Coding, scratch: Path, workers: int, progress: Progress
    ) -> Iterator[Part | Rejection]:
        """The slices, in the order of their names."""
        batch = []
        outcomes = parallel(lambda number: self._read(number, frame.image_size), self.count, workers)
        for number, outcome in enumerate(outcomes):
            progress(1)
            if isinstance(outcome, Rejection):
                yield outcome
            else:
                batch.append((self._names[number], outcome))
            if len(batch) == BATCH or (batch and number == self.count - 1):
                names, channels = zip(*batch, strict=True)
                channels = np.stack(channels)
                yield decoded(list(names), channels[:, :4], channels[:, 4], coding)
                batch = []

    def _read(self, number: int, image_size: int) -> np.ndarray | Rejection:
        """uint8 [5, H, W]"""
        paths, name = self._paths(number), self._names[number]
        try:
            channels = np.stack([self._pixels(path, image_size) for path in paths])
        except RejectedSubject as rejected:
            return Rejection(name, shown(rejected.file, self.folder), rejected.reason)
        if (empty := _empty_modality(channels)) is not None:
            return Rejection(name, shown(paths[empty], self.folder), f"{MODALITIES[empty]} is nowhere above zero")
        return channels

    def _paths(self, number: int) -> tuple[Path, ...]:
        return tuple(folder / file for folder, file in zip(self._folders, self._files[number], strict=True))

    def _pair(self) -> tuple[list[str], list[tuple[str, ...]], bool]:
        """Names, their files, and whether they are NIfTI; raises UserError with what does not pair up."""
        problems, by_stem, endings, others = [], [], set(), set()
        for path in self._folders:
            try:
                names = os.listdir(path)
            except OSError as error:
                raise UserError(f"{path}: the folder cannot be listed ({error.strerror})") from error
            matches = [_SLICE.fullmatch(name) for name in names]
            others |= {os.path.splitext(name)[1] for name, match in zip(names, matches, strict=True) if not match}
            files = sorted((match for match in matches if match and match[1][:2] != "._"), key=lambda match: match[0])
            endings |= {match[2].lower()[:3] for match in files}
            stems: dict[str, str] = {}
            for match in files:
                stem = printable(match[1])
                if stem in stems:
                    problems.append(f"{path.name}: {stems[stem]} and {match[0]} have one name")
                stems[stem] = match[0]
            by_stem.append(stems)
        if len(endings) != 1:
            found = f"; found {', '.join(sorted(others - {''})[:SHOWN])}" if others - {""} else ""
            none = f"no .png, .nii or .nii.gz in the channels' folders{found}"
            problems.append("PNG and NIfTI are mixed" if endings else none)
        refuse(self.folder, problems)

        if len({frozenset(stems) for stems in by_stem}) > 1:
            by_stem = [self._without_channel(channel, stems) for channel, stems in enumerate(by_stem)]
        names = sorted(set().union(*by_stem))
        for name in names:
            if missing := [path.name for path, stems in zip(self._folders, by_stem, strict=True) if name not in stems]:
                problems.append(f"{name}: no file in {', '.join(missing)}")
        refuse(self.folder, problems)
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


def channel_folders(folder: Path) -> list[tuple[int, Path]]:
    named = [(FOLDER_NAMES.get(re.sub(r"[^a-z0-9]", "", path.name.lower())), path) for path in _folders(folder)]
    return sorted((channel, path) for channel, path in named if channel is not None)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()] if os.path.isdir(folder) else []
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be listed ({error.strerror})") from error


def _empty_modality(channels: np.ndarray) -> int | None:
    empty = np.flatnonzero(~channels[:4].any((1, 2)))
    return int(empty[0]) if len(empty) else None
