"""One slice in a file: an 8-bit grey PNG or a 2-D NIfTI of uint8."""

import struct
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from PIL import Image

from benchmark.data.cohorts import RejectedSubject
from benchmark.data.foreign.facts import UNREADABLE

_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def png_header(path: Path) -> tuple[tuple[int, int], str]:
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


def png_pixels(path: Path) -> np.ndarray:
    """uint8 [H, W]"""
    try:
        content = path.read_bytes()
        Image.open(BytesIO(content)).verify()  # checksums, which decoding alone passes over
        return np.asarray(Image.open(BytesIO(content)))
    except UNREADABLE as error:
        raise RejectedSubject(path, f"truncated or unreadable: {error}") from error


def nifti_header(path: Path) -> tuple[tuple[int, int] | None, str]:
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


def nifti_pixels(path: Path) -> np.ndarray:
    """uint8 [H, W], anterior to posterior and right to left, as the file's affine says."""
    image, to_lps = _nifti(path)
    try:
        voxels = np.asanyarray(image.dataobj).reshape(*image.shape[:2], 1)
    except UNREADABLE as error:
        raise RejectedSubject(path, f"truncated or unreadable: {error}") from error
    return apply_orientation(voxels, to_lps).T[0]


def _nifti(path: Path) -> tuple[nib.Nifti1Image, np.ndarray]:
    """The image, its voxels not yet read, and how its axes turn to LPS."""
    try:
        image = nib.load(path)
        orientation = io_orientation(image.affine)
    except UNREADABLE as error:
        raise RejectedSubject(path, f"truncated or unreadable: {error}") from error
    if np.isnan(orientation).any():
        raise RejectedSubject(path, "its affine is singular: orientation is unknown")
    return image, ornt_transform(orientation, axcodes2ornt("LPS"))
