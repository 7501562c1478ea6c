"""One NIfTI file → its voxels, and where they lie in the scanner. Nothing here trusts a file."""

import gzip
import math
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from benchmark.data.cohorts import RejectedSubject
from benchmark.data.tree import fault

VOXEL_SIZES = 0.1, 50.0  # mm: what is outside is a unit or a header gone wrong
LONGEST = 1000.0  # mm along an axis; a scan of a head has 300
LARGEST = 2 << 30  # bytes of voxels; BraTS's four modalities as float64 take 0.3 GB
GZIP_BEST = 1032  # bytes from one
PACKED_PIECE, PIECE = 1 << 16, 1 << 18  # bytes of gzip, and from them, at a time: they stay in the cache
HEADER = 540  # bytes of NIfTI-2's header, the longer one

# Where two programs write one grid, they round. An origin differs by less than a hundredth of a voxel then. A rotation
# is stored as three numbers of a quaternion in single precision, and the fourth, computed from them, is 0 for BraTS's
# axes: there the rounding turns the grid by up to 1e-3 (radians), which moves its far corner by a third of a voxel.
ORIGIN_TOLERANCE, TURN_TOLERANCE = 0.01, 1e-3

UNREADABLE = (  # what Python, zlib and nibabel raise for damaged files; found by damaging them byte by byte
    OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error, WrapStructError, HeaderDataError,
    np.linalg.LinAlgError, KeyError,
)  # fmt: skip

OTHER_FORMATS = {  # how files start that are no NIfTI and yet were found under its name
    b"\x1f\x8b": "was compressed twice: decompress it once",
    b"PK\x03\x04": "is a zip archive: unpack it",
    b"<": "is a web page or XML: the download went wrong",
    b"\x93NUMPY": "is a NumPy array: save it as NIfTI",
    b"\x89PNG": "is a PNG image",
    b"\x89HDF": "is an HDF5 file: save it as NIfTI",
    b"NRRD": "is an NRRD file: save it as NIfTI",
}


@dataclass(frozen=True)
class Stored:
    """An image as its file has it: real voxels are voxels × slope + intercept."""

    voxels: np.ndarray  # [x, y, z] or [x, y, z, channel], in Fortran order
    affine: np.ndarray  # [4, 4]: voxel → mm, to the right, anterior, superior
    slope: float
    intercept: float


class Grid:
    """How to see a stored array as [Z, H, W] in LPS orientation, and where that lies in the scanner."""

    def __init__(self, stored: Stored) -> None:
        self.voxels = tuple(int(n) for n in stored.voxels.shape[:3])  # x, y, z as stored
        self.sizes = tuple(float(size) for size in voxel_sizes(stored.affine))  # mm
        self.axes = "".join(nib.aff2axcodes(stored.affine))
        self.lost = not stored.affine[:3, 3].any()  # an origin of exactly (0, 0, 0): hardly a scanner's
        self._to_lps = ornt_transform(io_orientation(stored.affine), axcodes2ornt("LPS"))
        self.affine = stored.affine @ inv_ornt_aff(self._to_lps, self.voxels)
        self.shape = tuple(int(n) for n in self.view(np.broadcast_to(False, self.voxels)).shape)
        self.spacing = tuple(float(size) for size in voxel_sizes(self.affine)[::-1])

    def view(self, array: np.ndarray) -> np.ndarray:
        """[x, y, z] as stored → [Z, H, W], without a copy."""
        return apply_orientation(array, self._to_lps).T

    def apart(self, other: "Grid") -> str:
        """How far another grid of the same shape lies from this one, in words; empty where that is rounding."""
        return _apart(self.affine, other.affine, self.shape[::-1])


def load(path: Path, channels: int | None = None) -> Stored:
    """A whole file of [x, y, z], or [x, y, z, channels], without conversion of its voxels.

    Raises RejectedSubject for what is no readable NIfTI file, has another shape, or does not say where it lies.
    """
    if why := fault(path):  # no pipe or device is opened
        raise RejectedSubject(path, why)
    try:
        content, header = _content(path)
        shape, dtype, offset = _layout(path, header)
        if len(content) - offset < (promised := math.prod(shape) * dtype.itemsize):
            raise EOFError(f"{max(len(content) - offset, 0)} of {promised} bytes of voxels are there")
        voxels = np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape, order="F")
        slope, intercept = header.get_slope_inter()
        wanted = (*shape[:3], channels) if channels else shape[:3]
        if len(wanted) < 3 or math.prod(wanted) != voxels.size:
            expected = f"4-D with {channels} channels" if channels else "3-D"
            raise RejectedSubject(path, f"shape {shape} is not {expected}")
        affine = _affine(path, header, wanted[:3])
    except UNREADABLE as error:
        raise RejectedSubject(path, f"truncated or unreadable: {error}") from error
    return Stored(voxels.reshape(wanted, order="F"), affine, 1.0 if slope is None else slope, intercept or 0.0)


def _content(path: Path) -> tuple[bytes | memoryview, nib.Nifti1Header]:
    """The bytes of a file, unpacked as far as its header says and no further, and the header."""
    if (size := path.stat().st_size) > LARGEST:
        raise RejectedSubject(path, f"a file of {size / 2**30:.3g} GiB is not plausible")
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content, _header(path, content)
    header = _header(path, gzip.GzipFile(fileobj=BytesIO(content)).read(HEADER))
    shape, dtype, offset = _layout(path, header)
    promised = offset + math.prod(shape) * dtype.itemsize
    if promised > GZIP_BEST * len(content):  # unpacking takes the memory before it knows
        raise EOFError(f"{len(content)} bytes of gzip cannot hold the {promised} that the header promises")
    whole = _gunzip(content, promised + 1)
    if len(whole) > promised:
        raise RejectedSubject(path, f"unpacks to more than the {promised} bytes that its header promises")
    return whole, header


def _gunzip(content: bytes, most: int) -> bytes | memoryview:
    """What `GzipFile(content).read(most)` gives, in half the time.

    In one call, zlib would gather as many bytes again as it gives: new memory costs as much as unpacking to it.
    """
    unpacker = zlib.decompressobj(wbits=31)  # 31: gzip's header and checksum
    room, filled, rest = memoryview(np.empty(most, np.uint8)), 0, memoryview(content)
    while rest and filled < most and not unpacker.eof:
        packed, rest = rest[:PACKED_PIECE], rest[PACKED_PIECE:]
        while packed and filled < most and not unpacker.eof:
            piece = unpacker.decompress(packed, min(PIECE, most - filled))
            room[filled : filled + len(piece)] = piece
            filled, packed = filled + len(piece), unpacker.unconsumed_tail
    if rest or unpacker.unused_data or not unpacker.eof:  # several members, padding after them, cut short, too long
        return gzip.GzipFile(fileobj=BytesIO(content)).read(most)
    return room[:filled]


def _header(path: Path, content: bytes) -> nib.Nifti1Header:
    for start, what in OTHER_FORMATS.items():
        if content.startswith(start):
            raise RejectedSubject(path, f"no NIfTI file: it {what}")
    if content[128:132] == b"DICM":
        raise RejectedSubject(path, "no NIfTI file: it is DICOM: convert it, for example with dcm2niix")
    kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(content[:HEADER]) else nib.Nifti1Header
    size = kind.template_dtype.itemsize
    if len(content) < size:
        raise EOFError(f"{len(content)} of {size} bytes of the header are there")
    return kind(content[:size])  # nibabel's reading from a file would follow the extensions' lengths, whatever they say


def _layout(path: Path, header: nib.Nifti1Header) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and place of the voxels in the file."""
    shape, dtype = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
    offset = int(header.get_data_offset())
    if min(shape, default=0) < 1 or offset < 0:
        raise ValueError(f"its shape is {shape}, its voxels begin at byte {offset}")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise RejectedSubject(path, f"voxels of type {dtype} are no grey values")
    if offset + (promised := math.prod(shape) * dtype.itemsize) > LARGEST:
        raise RejectedSubject(path, f"shape {shape}: {promised / 2**30:.3g} GiB of voxels are not plausible")
    return shape, dtype, offset


def _affine(path: Path, header: nib.Nifti1Header, shape: tuple[int, ...]) -> np.ndarray:
    """Where the voxels lie: sform, else qform, which must not contradict each other."""
    has_sform, has_qform = header["sform_code"] > 0, header["qform_code"] > 0
    if not (has_sform or has_qform):
        raise RejectedSubject(
            path,
            "neither its qform nor its sform is set, so left cannot be told from right: set the one that is right, "
            "for example by copying the header of the file it was made from",
        )
    affine = header.get_sform() if has_sform else header.get_qform()
    if not np.isfinite(affine).all() or np.isnan(io_orientation(affine)).any():
        raise RejectedSubject(path, "its affine is singular: orientation and voxel size are unknown")
    sizes = voxel_sizes(affine)
    if sizes.min() < VOXEL_SIZES[0] or sizes.max() > VOXEL_SIZES[1]:
        raise RejectedSubject(path, f"voxels of {_by(sizes)} mm are not plausible")
    if (lengths := sizes * shape).max() > LONGEST:
        raise RejectedSubject(path, f"a volume of {_by(lengths)} mm is not plausible")
    if has_sform and has_qform and (far := _apart(affine, header.get_qform(), shape)):
        raise RejectedSubject(
            path,
            f"its qform and its sform disagree ({far}): programs that follow the one see another image than programs "
            "that follow the other. Write the right one to both",
        )
    return affine


def _apart(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> str:
    """How far apart two affines put the corners of a volume of `shape`, in words; empty where that is rounding."""
    corners = np.stack(np.meshgrid(*((0, n - 1) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    places, others = apply_affine(affine, corners), apply_affine(other, corners)
    distances = np.linalg.norm(places - others, axis=1)
    reach = np.linalg.norm(places - places[0], axis=1)
    if (distances <= ORIGIN_TOLERANCE * voxel_sizes(affine).min() + TURN_TOLERANCE * reach).all():
        return ""
    if np.allclose(affine[:3, :3], other[:3, :3], rtol=0, atol=TURN_TOLERANCE * voxel_sizes(affine).min()):
        return f"the one lies {distances[0]:.3g} mm from the other"
    return f"corners up to {distances.max():.3g} mm apart, axes that differ in direction or voxel size"


def _by(lengths: np.ndarray) -> str:
    return " × ".join(f"{length:g}" for length in lengths)
