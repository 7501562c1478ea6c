"""One slice in a file: an 8-bit grey PNG or a 2-D NIfTI of uint8. Its size has to fit before anything is decoded."""

import gzip
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from PIL.PngImagePlugin import PngImageFile

from benchmark.data.cohorts import RejectedSubject
from benchmark.data.foreign.facts import decoding
from benchmark.data.tree import fault

MOST_BYTES = 64 << 20  # of a file, or unpacked: a slice of 1024 × 1024 pixels has 1 MiB

Header = tuple[tuple[int, int] | None, str]  # (H, W) where it is known, and what is wrong with the kind, if anything

_KINDS = {  # Pillow's name for how pixels are stored
    "1": "1-bit grey", "L;2": "2-bit grey", "L;4": "4-bit grey", "I;16B": "16-bit grey",
    "LA": "8-bit grey with alpha", "LA;16B": "16-bit grey with alpha",
    "RGB": "8-bit RGB", "RGB;16B": "16-bit RGB", "RGBA": "8-bit RGB with alpha", "RGBA;16B": "16-bit RGB with alpha",
}  # fmt: skip

_SIGNATURES = {  # of what has been met under the name .png; where it begins, what it is
    b"\xff\xd8\xff": "a JPEG", b"GIF8": "a GIF", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"BM": "a BMP",
    b"%!PS": "an EPS", b"\xc5\xd0\xd3\xc6": "an EPS", b"\0\0\1\0": "an ICO", b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000", b"8BPS": "a Photoshop file", b"%PDF": "a PDF", b"P5": "a PGM", b"P6": "a PPM",
    b"\x93NUMPY": "a .npy array", b"PK\3\4": "a zip file", b"\x1f\x8b": "a gzip file", b"\x89HDF": "an HDF5 file",
    b"<svg": "an SVG", b"<?xml": "an XML file", b"<!DO": "an HTML page", b"<htm": "an HTML page",
}  # fmt: skip


def png_header(path: Path, image_size: int) -> Header:
    """(H, W) and what is wrong with the kind of image. Only a slice of the wanted size is decoded, if it is no grey.

    Raises RejectedSubject for a damaged file, and for what is no file.
    """
    _refuse_fault(path)
    with decoding(path), path.open("rb") as file:
        start = file.read(132)
        if other := _other_kind(start):
            return None, f"is {other}, not a PNG; 8-bit grey PNG is needed"
        file.seek(0)
        image = PngImageFile(file)
        if not image.tile:
            raise EOFError("it has no pixels")
        size, stored = image.size[::-1], image.tile[0][3]
        if image.is_animated:
            return size, f"PNG with {image.n_frames} frames; one is needed"
        if stored == "L":
            return size, ""
        problem = f"{_KINDS.get(stored, 'palette')} PNG; 8-bit grey is needed"
        if size == (image_size, image_size) and stored != "I;16B":
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)
            if (red == green).all() and (red == blue).all():
                problem += ": it holds nothing but grey, so convert it"
        return size, problem


def png_pixels(path: Path, image_size: int) -> np.ndarray:
    """uint8 [H, W]. Raises RejectedSubject for a damaged file, for another size or kind, and for what is no file."""
    content = _content(path)
    with decoding(path):
        image = PngImageFile(BytesIO(content))
        if image.size != (image_size, image_size) or image.mode != "L":
            raise ValueError(f"{image.size[1]} × {image.size[0]} px, {image.mode}")
        image.verify()  # checksums, which decoding alone passes over
        return np.asarray(PngImageFile(BytesIO(content)))


def nifti_header(path: Path, image_size: int) -> Header:
    """(H, W) and what is wrong with the kind of image.

    Raises RejectedSubject for a damaged file, and for what is no file.
    """
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


def nifti_pixels(path: Path, image_size: int) -> np.ndarray:
    """uint8 [H, W], anterior to posterior and right to left, as the file's affine says.

    Raises RejectedSubject for a damaged file, for another size, and for what is no file.
    """
    image, to_lps = _nifti(path)
    with decoding(path):
        if image.shape[:2] != (image_size, image_size) or image.get_data_dtype() != np.uint8:
            raise ValueError(f"{image.get_data_dtype()} {image.shape}")
        voxels = np.asanyarray(image.dataobj).reshape(*image.shape[:2], 1)
    return apply_orientation(voxels, to_lps).T[0]


def _nifti(path: Path) -> tuple[nib.Nifti1Image, np.ndarray]:
    """The image, its voxels not yet read, and how its axes turn to LPS."""
    content = _content(path)
    with decoding(path):
        if content.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=BytesIO(content)) as file:  # to its end, where the checksum stands
                content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_BYTES >> 20} MiB: this is no slice")
        two = nib.Nifti2Header.may_contain_header(content[:540])
        image = (nib.Nifti2Image if two else nib.Nifti1Image).from_bytes(content)
        orientation = io_orientation(image.affine)
    if np.isnan(orientation).any():
        raise RejectedSubject(path, "its affine is singular: orientation is unknown")
    return image, ornt_transform(orientation, axcodes2ornt("LPS"))


def _content(path: Path) -> bytes:
    _refuse_fault(path)
    with decoding(path):
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"{size >> 20} MiB: this is no slice")
        return path.read_bytes()


def _refuse_fault(path: Path) -> None:
    """Raises RejectedSubject for what is no file (a pipe would never end), and for a pointer that stands for one."""
    if reason := "a folder stands where a file should be" if path.is_dir() else fault(path):
        raise RejectedSubject(path, reason)


def _other_kind(start: bytes) -> str | None:
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WEBP"
    if start[4:8] == b"ftyp":
        return "an AVIF or HEIC"
    if start[128:] == b"DICM":
        return "a DICOM file"
    return next((kind for signature, kind in _SIGNATURES.items() if start.startswith(signature)), None)
