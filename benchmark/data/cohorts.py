"""Cohorts of NIfTI subjects: finding them in the layouts that people have, and reading one into canonical 8 bit.

Nothing here trusts a file: what is wrong with a subject becomes a `Rejection` that a person can act on.
"""

import gzip
import json
import math
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from benchmark.errors import UserError

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
NCR, ED, ET = 1, 2, 3

# File name endings in the order of MODALITIES, then the annotation's.
BRATS_ENDINGS = {
    "brats2020": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
    "brats2021": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
    "brats2023": ("-t1n", "-t1c", "-t2w", "-t2f", "-seg"),
}
BRATS_CLASSES = {0: 0, 1: NCR, 2: ED, 3: ET, 4: ET}  # ET is 4 until BraTS 2021 and 3 from 2023 on
MSD_CLASSES = {0: 0, 1: ED, 2: NCR, 3: ET}
MSD_CHANNELS = (1, 2, 3, 0)  # stored as FLAIR, T1, T1ce, T2
LAYOUTS = (*BRATS_ENDINGS, "msd", "nnunet")

AFFINE_TOLERANCE = 1e-2  # mm: tools round the affine differently
VOXEL_SIZES = 0.05, 50.0  # mm: what is outside is a unit or a header gone wrong


UNREADABLE = (  # what Python, zlib and nibabel raise for damaged files; found by damaging them byte by byte
    OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error, WrapStructError, HeaderDataError,
)  # fmt: skip


class RejectedSubject(Exception):
    """Why a subject cannot be used: the `file` and the `reason`, in words for people."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(file, reason)  # exactly the arguments, so that it can cross processes
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class Rejection:
    """One row of rejected.csv: a subject that was set aside, the file at fault, and why."""

    subject: str
    file: str
    reason: str


@dataclass(frozen=True)
class Subject:
    """Where a subject's images and annotation lie, and how to understand them."""

    name: str
    images: tuple[Path, ...]  # T1, T1ce, T2, FLAIR; or one 4-D file with the channels below
    annotation: Path
    classes: dict[int, int]  # value in the annotation → class 0–3
    channels: tuple[int, ...] = ()  # where T1, T1ce, T2, FLAIR stand in a 4-D file

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, self.annotation)


@dataclass(frozen=True)
class Cohort:
    """A folder of subjects, in the order of their names, and what could not be one."""

    name: str
    layout: str
    folder: Path
    subjects: list[Subject]
    rejections: list[Rejection]


@dataclass(frozen=True)
class Volume:
    """One subject in LPS orientation: Z runs inferior to superior, H anterior to posterior, W right to left."""

    images: np.ndarray  # uint8 [4, Z, H, W]: each modality divided by its own maximum, times 255
    labels: np.ndarray  # uint8 [Z, H, W]: classes 0–3 = background, NCR, ED, ET
    spacing: tuple[float, float, float]  # mm along Z, H, W


# --- finding ---------------------------------------------------------------------------------------------------------


def find(folder: Path | str, layout: str = "auto") -> Cohort:
    """The subjects in a folder; incomplete ones are listed as rejections.

    `layout` is "auto" or one of LAYOUTS. Raises UserError where the folder is none, no layout is recognised, several
    are, or an nnU-Net dataset.json cannot be understood.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder that holds the cohort's NIfTI files")
    if layout not in ("auto", *LAYOUTS):
        raise UserError(f"unknown layout '{layout}'; known: auto, {', '.join(LAYOUTS)}")
    files = sorted(nifti_files(folder))
    if layout == "auto":
        layout = _detect(folder, files)

    if layout in BRATS_ENDINGS:
        found = list(_find_brats(folder, files, BRATS_ENDINGS[layout]))
    else:
        root = _image_root(folder, files)
        found = list(_find_msd(folder, root) if layout == "msd" else _find_nnunet(folder, root))
    subjects = sorted((item for item in found if isinstance(item, Subject)), key=lambda subject: subject.name)
    rejections = sorted((item for item in found if isinstance(item, Rejection)), key=lambda item: item.subject)
    if not found:
        raise UserError(_nothing_found(folder, files, f"no subject in the layout {layout}"))
    return Cohort(_printable(folder.resolve().name), layout, folder, subjects, rejections)


def nifti_files(folder: Path) -> Iterator[Path]:
    """All .nii and .nii.gz below a folder, links followed once; macOS leaves `._` companions, which are no images."""
    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in names:
            if not name.startswith("._") and name.lower().endswith((".nii", ".nii.gz")):
                yield Path(parent, name)


def _detect(folder: Path, files: list[Path]) -> str:
    stems = [_stem(path).lower() for path in files if path.parent.name == "imagesTr"]
    if stems:
        return "nnunet" if any(re.fullmatch(r".+_\d{4}", stem) for stem in stems) else "msd"
    present = {
        layout: [path for path in files if _stem(path).lower().endswith(endings[:-1])]
        for layout, endings in BRATS_ENDINGS.items()
    }
    if present["brats2020"] and present["brats2023"]:
        raise UserError(
            f"{folder} holds two layouts: brats2020 (e.g. {present['brats2020'][0].name}) and brats2023 "
            f"(e.g. {present['brats2023'][0].name}). Give one cohort's folder, or name the layout"
        )
    if present["brats2023"]:
        return "brats2023"
    if present["brats2020"]:
        return "brats2021" if "brats2021" in present["brats2020"][0].name.lower() else "brats2020"
    raise UserError(_nothing_found(folder, files, "no known layout"))


def _nothing_found(folder: Path, files: list[Path], what: str) -> str:
    seen = f"{len(files)} NIfTI files, e.g. {shown(files[0], folder)}" if files else "no .nii or .nii.gz file at all"
    return (
        f"{folder}: {what} was recognised; there is {seen}. Looked for: *_t1 *_t1ce *_t2 *_flair *_seg (BraTS 2020, "
        "2021), *-t1n *-t1c *-t2w *-t2f *-seg (BraTS 2023 on), imagesTr/*.nii.gz with labelsTr (Medical Segmentation "
        "Decathlon Task01), imagesTr/*_0000.nii.gz … with labelsTr and dataset.json (nnU-Net)"
    )


def _find_brats(folder: Path, files: list[Path], endings: tuple[str, ...]) -> Iterator[Subject | Rejection]:
    by_folder: dict[Path, dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    oddities: dict[Path, Path] = {}
    for path in files:
        stem = _stem(path)
        # The longest ending that fits; "x_t1ce" does not end in "_t1".
        if ending := next((ending for ending in endings if stem.lower().endswith(ending)), None):
            by_folder[path.parent][stem[: -len(ending)]].setdefault(ending, path)
        elif stem.lower().endswith("_segm"):  # BraTS20_Training_355: W39_1998.09.19_Segm.nii
            oddities[path.parent] = path

    groups = []
    for parent, prefixes in by_folder.items():
        for prefix, group in prefixes.items():
            alone = len(prefixes) == 1  # a folder per subject, as BraTS comes; else the files' common prefix
            if alone and parent in oddities:
                group.setdefault(endings[-1], oddities[parent])
            groups.append((parent.resolve().name if alone else prefix, parent, prefix, group))
    names = [name for name, *_ in groups]
    for name, parent, prefix, group in groups:
        name = _printable(name if names.count(name) == 1 else f"{shown(parent, folder)}/{prefix}")
        missing = [i for i, ending in enumerate(endings) if ending not in group]
        if missing:
            what = ["no annotation" if i == 4 else f"{MODALITIES[i]} is missing" for i in missing]
            file = parent / f"{prefix}{endings[missing[0]]}.nii.gz"
            yield Rejection(name, shown(file, folder), ", ".join(what))
        else:
            *images, annotation = (group[ending] for ending in endings)
            yield Subject(name, tuple(images), annotation, BRATS_CLASSES)


def _image_root(folder: Path, files: list[Path]) -> Path:
    roots = sorted({path.parent.parent for path in files if path.parent.name == "imagesTr"})
    if not roots:
        raise UserError(_nothing_found(folder, files, "no folder imagesTr"))
    if len(roots) > 1:
        raise UserError(f"{folder} holds several data sets: give one of {', '.join(map(str, roots))}")
    return roots[0]


def _find_msd(folder: Path, root: Path) -> Iterator[Subject | Rejection]:
    images, annotations = _by_stem(root / "imagesTr"), _by_stem(root / "labelsTr")
    for stem in sorted(images.keys() | annotations.keys()):
        if stem not in annotations:
            yield Rejection(_printable(stem), f"labelsTr/{_printable(stem)}.nii.gz", "no annotation")
        elif stem not in images:
            yield Rejection(_printable(stem), f"imagesTr/{_printable(stem)}.nii.gz", "the image file is missing")
        else:
            yield Subject(_printable(stem), (images[stem],), annotations[stem], MSD_CLASSES, MSD_CHANNELS)


def _find_nnunet(folder: Path, root: Path) -> Iterator[Subject | Rejection]:
    channels, classes = _read_dataset_json(root / "dataset.json")
    images: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, path in _by_stem(root / "imagesTr").items():
        if match := re.fullmatch(r"(.+)_(\d{4})", stem):
            images[match[1]][int(match[2])] = path
    annotations = _by_stem(root / "labelsTr")
    for case in sorted(images.keys() | annotations.keys()):
        missing = [m for m, channel in enumerate(channels) if channel not in images[case]]
        if missing:
            file = f"imagesTr/{_printable(case)}_{channels[missing[0]]:04d}.nii.gz"
            yield Rejection(_printable(case), file, ", ".join(f"{MODALITIES[m]} is missing" for m in missing))
        elif case not in annotations:
            yield Rejection(_printable(case), f"labelsTr/{_printable(case)}.nii.gz", "no annotation")
        else:
            files = tuple(images[case][channel] for channel in channels)
            yield Subject(_printable(case), files, annotations[case], classes)


def _by_stem(folder: Path) -> dict[str, Path]:
    return {_stem(path): path for path in sorted(nifti_files(folder)) if path.parent == folder}


def _read_dataset_json(path: Path) -> tuple[tuple[int, ...], dict[int, int]]:
    """Channel numbers of T1, T1ce, T2, FLAIR, and value → class, from an nnU-Net dataset.json of version 1 or 2."""
    if not path.is_file():
        raise UserError(f"{path} is missing: nnU-Net's layout needs it to say what the channels and labels are")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        named = content.get("channel_names", content.get("modality"))
        channel_of = {_modality(name): int(number) for number, name in named.items()}
        labels = content["labels"]
        if all(key.isdigit() for key in labels):  # version 1: {"1": "edema"}
            labels = {name: int(value) for value, name in labels.items()}
        labels = {name: value if isinstance(value, list) else [int(value)] for name, value in labels.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} cannot be understood ({type(error).__name__}: {error}): nnU-Net's channel_names (or modality) and "
            "labels are needed"
        ) from error

    unknown = [str(name) for name in named.values() if _modality(name) is None]
    missing = [modality for modality in MODALITIES if modality not in channel_of]
    if missing:
        raise UserError(
            f"{path}: no channel is named as {', '.join(missing)}"
            + (f"; cannot understand {', '.join(map(repr, unknown))}" if unknown else "")
            + ". Known names are such as T1, T1ce (T1c, T1Gd), T2, FLAIR"
        )
    return tuple(channel_of[modality] for modality in MODALITIES), _label_classes(path, labels)


def _modality(name: str) -> str | None:
    name = re.sub(r"[^a-z0-9]", "", str(name).lower())
    known = {
        "FLAIR": r"(t2)?w?flair|t2f",
        "T2": r"t2(w|weighted)?",
        "T1ce": r"(ce|gd)t1w?|t1w?(ce|c|gd|kgd|gad|km|post|postcontrast|contrast|contrastenhanced|gadolinium)",
        "T1": r"t1(w|n|weighted|native|pre)?",
    }
    return next((modality for modality, pattern in known.items() if re.fullmatch(pattern, name)), None)


def _label_classes(path: Path, labels: dict[str, list[int]]) -> dict[int, int]:
    """Value → class from named labels; where names stand for several values they are BraTS's nested regions."""
    if any(len(values) > 1 for values in labels.values()):
        known = {"WT": r"whole|\bwt\b", "TC": r"core|\btc\b", "ET": r"enhanc|\bet\b"}
    else:
        known = {"NCR": r"necro|non.?enhanc|\bncr|\bnetc?\b", "ED": r"o?edema|\bed\b|snfh", "ET": r"enhanc|\bet\b"}
    known = {"background": r"background", "ignore": r"ignore", **known}

    meaning = {}
    for name, values in labels.items():
        plain = name.lower().replace("_", " ")
        part = next((part for part, pattern in known.items() if re.search(pattern, plain)), None)
        if part is None or part in meaning:
            raise UserError(
                f"{path}: cannot tell what the label {name!r} = {values} is; known are necrosis (NCR), edema (ED) and "
                "enhancing tumor (ET), or the regions whole tumor, tumor core and enhancing tumor"
            )
        meaning[part] = values
    meaning.pop("ignore", None)  # nnU-Net's "not annotated": such a value is refused when it is met
    background = dict.fromkeys(meaning.pop("background", [0]), 0)
    if missing := [part for part in known if part not in ("background", "ignore") and part not in meaning]:
        raise UserError(f"{path}: no label is named as {', '.join(missing)}; found {', '.join(map(repr, labels))}")
    if "WT" not in meaning:
        return background | {value: ("NCR", "ED", "ET").index(part) + 1 for part, (value,) in meaning.items()}
    classes = dict.fromkeys(meaning["WT"], ED) | dict.fromkeys(meaning["TC"], NCR) | dict.fromkeys(meaning["ET"], ET)
    return background | classes


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def shown(path: Path, folder: Path) -> str:
    """A path for people, relative to the cohort's folder."""
    return _printable(str(path.relative_to(folder)))


def _printable(name: str) -> str:
    """A file name that is not UTF-8 reaches Python as lone surrogates, which no table or page can hold."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- reading ---------------------------------------------------------------------------------------------------------


def read(subject: Subject) -> Volume:
    """A subject's images and labels in LPS orientation, as 8 bit.

    Raises RejectedSubject for a damaged file, grids that disagree, NaN or infinite voxels, unknown label values, or a
    modality that is nowhere above zero.
    """
    stored = _load(subject.annotation)
    grid = _Grid(stored)
    labels = _to_classes(stored, grid, subject)

    images = np.zeros((len(MODALITIES), *grid.shape), np.uint8)
    for m, (path, stored) in enumerate(_modalities(subject)):
        other = _Grid(stored)
        if other.shape != grid.shape:
            raise RejectedSubject(path, f"shape {other.shape} differs from the annotation's {grid.shape} (z, y, x)")
        if not np.allclose(other.affine, grid.affine, rtol=0, atol=AFFINE_TOLERANCE):
            raise RejectedSubject(path, "affine differs from the annotation's: the two do not lie on the same grid")
        _to_8bit(path, stored, MODALITIES[m], other, out=images[m])
    return Volume(images, labels, grid.spacing)


@dataclass(frozen=True)
class _Stored:
    """An image as its file has it: real voxels are voxels × slope + intercept."""

    voxels: np.ndarray  # [x, y, z], in Fortran order
    affine: np.ndarray
    slope: float
    intercept: float


def _modalities(subject: Subject) -> Iterator[tuple[Path, _Stored]]:
    """T1, T1ce, T2 and FLAIR, one at a time."""
    if not subject.channels:
        for path in subject.images:
            yield path, _load(path)
        return
    (path,) = subject.images
    stored = _load(path, channels=len(subject.channels))
    for channel in subject.channels:
        yield path, replace(stored, voxels=stored.voxels[..., channel])


def _load(path: Path, channels: int | None = None) -> _Stored:
    """A whole file, without conversion or copy of its voxels."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = _gunzip(content)
        kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(content[:540]) else nib.Nifti1Header
        header = kind.from_fileobj(BytesIO(content))
        affine, (slope, intercept) = header.get_best_affine(), header.get_slope_inter()
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
        if min(shape, default=0) < 1:
            raise ValueError(f"its shape is {shape}")
        if dtype.kind not in "iuf":
            raise RejectedSubject(path, f"voxels of type {dtype} are no grey values")
        if (promised := math.prod(shape) * dtype.itemsize) > len(content) - offset:
            raise EOFError(f"{len(content) - offset} of {promised} bytes of voxels are there")
        voxels = np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape, order="F")
    except UNREADABLE as error:
        raise RejectedSubject(path, f"truncated or unreadable: {error}") from error

    shape = (*voxels.shape[:3], channels) if channels else voxels.shape[:3]
    if len(shape) < 3 or math.prod(shape) != voxels.size:
        expected = f"4-D with {channels} channels" if channels else "3-D"
        raise RejectedSubject(path, f"shape {voxels.shape} is not {expected}")
    if not np.isfinite(affine).all() or np.isnan(io_orientation(affine)).any():
        raise RejectedSubject(path, "its affine is singular: orientation and voxel size are unknown")
    sizes = voxel_sizes(affine)
    if sizes.min() < VOXEL_SIZES[0] or sizes.max() > VOXEL_SIZES[1]:
        raise RejectedSubject(path, f"voxels of {' × '.join(f'{size:g}' for size in sizes)} mm are not plausible")
    return _Stored(voxels.reshape(shape, order="F"), affine, 1.0 if slope is None else slope, intercept or 0.0)


def _gunzip(content: bytes) -> bytes:
    """What gzip.decompress gives, faster: the file's last four bytes say how much memory to take."""
    size = int.from_bytes(content[-4:], "little")
    whole = zlib.decompress(content, wbits=31, bufsize=size)  # wbits 31: gzip's header and checksum
    return whole if len(whole) == size else gzip.decompress(content)  # several members, or padding after the last


class _Grid:
    """How to see a stored array as [Z, H, W] in LPS orientation, and where that lies in the scanner."""

    def __init__(self, stored: _Stored) -> None:
        self._to_lps = ornt_transform(io_orientation(stored.affine), axcodes2ornt("LPS"))
        self.affine = stored.affine @ inv_ornt_aff(self._to_lps, stored.voxels.shape)
        self.shape = self.view(stored.voxels).shape
        self.spacing = tuple(float(size) for size in voxel_sizes(self.affine)[::-1])

    def view(self, array: np.ndarray) -> np.ndarray:
        """[x, y, z] as stored → [Z, H, W], without a copy."""
        return apply_orientation(array, self._to_lps).T


def _to_8bit(path: Path, stored: _Stored, modality: str, grid: _Grid, out: np.ndarray) -> None:
    """round(255 × value / maximum), negative values at 0 (PROTOCOL, section 1), into `out`, zeros [Z, H, W].

    A positive slope cancels when there is no intercept; and 255 × a 16-bit integer is exact in float32, whose division
    is then accurate enough to round as exact arithmetic would.
    """
    voxels, slope, intercept = stored.voxels, stored.slope, stored.intercept
    extremes = np.array([voxels.min(), voxels.max()], np.float64)  # NaN if any voxel is
    if not np.isfinite(extremes).all():
        count = np.count_nonzero(~np.isfinite(voxels))
        raise RejectedSubject(path, f"{count} voxels of {modality} are NaN or infinite")
    if slope > 0 and intercept == 0:
        slope = 1.0
    maximum = (extremes * slope + intercept).max()
    if not maximum > 0:
        raise RejectedSubject(path, f"{modality} is nowhere above zero: there is no brain in it")

    scaled = slope != 1 or intercept != 0
    precision = np.float64 if scaled or voxels.dtype.itemsize > 2 else np.float32
    maximum = precision(maximum)
    for source, target in zip(grid.view(voxels), out, strict=True):  # slice by slice, to stay in the cache
        if scaled:
            source = np.multiply(source, slope, dtype=np.float64) + intercept
        if source.max() <= 0:
            continue
        values = np.multiply(source, 255, dtype=precision)
        values /= maximum
        np.rint(values, out=values)
        target[...] = np.maximum(values, 0, out=values)


def _to_classes(stored: _Stored, grid: _Grid, subject: Subject) -> np.ndarray:
    """The annotation as classes 0–3, uint8 [Z, H, W]."""
    values = stored.voxels
    if stored.slope != 1 or stored.intercept != 0:
        values = np.multiply(values, stored.slope, dtype=np.float64) + stored.intercept
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255:
        values = values.astype(np.uint8, copy=False)
    else:
        whole = np.nan_to_num(values).round().clip(0, 255).astype(np.uint8)
        # Scaled files hold 3.9999998 for 4. NaN compares as false, so it is caught here as well.
        if not (fits := np.abs(values - whole) < 1e-3).all():
            raise _unknown_labels(subject, values[~fits])
        values = whole

    present = [value for value in range(int(values.max()) + 1) if (values == value).any()]
    if unknown := set(present) - subject.classes.keys():
        raise _unknown_labels(subject, np.array(sorted(unknown)))
    if subject.classes == BRATS_CLASSES and {3, 4} <= set(present):
        raise RejectedSubject(
            subject.annotation, "labels 3 and 4 are both there: one is ET, but 4 may be a resection cavity (BraTS 2024)"
        )
    table = np.array([subject.classes.get(value, 0) for value in range(256)], np.uint8)
    classes = np.zeros(grid.shape, np.uint8)
    for source, target in zip(grid.view(values), classes, strict=True):
        if source.any():
            target[...] = table[source]
    return classes


def _unknown_labels(subject: Subject, values: np.ndarray) -> RejectedSubject:
    shown = ", ".join(f"{value:g}" for value in np.unique(values)[:5])
    known = ", ".join(map(str, subject.classes))
    return RejectedSubject(subject.annotation, f"unknown label value {shown}; known are {known}")
