"""Family 1: a cohort of four subjects, one file of one of them damaged.

The damaged subject is set aside or read right; the other three come out unchanged, always.
"""

import csv
import gzip
import math
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.fuzz import harness
from tests.fuzz.harness import Case, Ended, WrongValueError

SHAPE = (26, 24, 10)  # x, y, z: all different, so that exchanged axes are seen
AFFINE = np.array([[-9.0, 0, 0, 112], [0, 9.5, 0, -110], [0, 0, 12, -60], [0, 0, 0, 1]])
NAMES = ("case-a", "case-b", "case-c", "case-d")
ENDINGS = ("_t1", "_t1ce", "_t2", "_flair", "_seg")
LAYOUTS = ("brats .nii.gz", "brats .nii", "msd")

# What must become of the damaged subject.
SAME = "same"  # the change keeps the meaning: read, with the values of the undamaged one
ASIDE = "aside"  # it cannot be used
EITHER = "either"  # one of the two
ANY = "any"  # set aside, or read with whatever values: the file is a sound one with another content


def make_subject(number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """T1, T1ce, T2, FLAIR as int16, and BraTS's annotation, [x, y, z]: textured heads, no two alike."""
    rng = np.random.default_rng(100 + number)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    head = (x / 0.75) ** 2 + (y / 0.85) ** 2 + (z / 0.8) ** 2 < 1
    radius = np.sqrt((x - rng.uniform(-0.3, 0.3)) ** 2 + (y - 0.2) ** 2 + (z - rng.uniform(-0.1, 0.1)) ** 2)
    annotation = np.select([radius < 0.2, radius < 0.33, radius < 0.5], [1, 4, 2], 0).astype(np.uint8)
    images = []
    for level, gain in ((0.8, -0.3), (0.6, 0.4), (0.4, 0.5), (0.3, 0.6)):
        texture = rng.uniform(0.7, 1.3, SHAPE) * (1 + 0.3 * np.sin(3 * x + number) + 0.2 * y)
        images.append((1000 * head * (level * texture + gain * (annotation > 0))).clip(0, 4000).astype(np.int16))
    return images, annotation


def image_of(array: np.ndarray) -> nib.Nifti1Image:
    """NIfTI-1 with sform and qform set alike."""
    image = nib.Nifti1Image(array, AFFINE, dtype=array.dtype)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    return image


def save(array: np.ndarray, path: Path) -> None:
    content = image_of(array).to_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)


def write_cohort(folder: Path, layout: str) -> None:
    for number, name in enumerate(NAMES):
        images, annotation = make_subject(number)
        if layout == "msd":
            save(np.stack([images[i] for i in (3, 0, 1, 2)], -1), folder / "imagesTr" / f"{name}.nii.gz")
            save(np.array([0, 2, 1, 3, 3], np.uint8)[annotation], folder / "labelsTr" / f"{name}.nii.gz")
            continue
        for ending, array in zip(ENDINGS, (*images, annotation), strict=True):
            save(array, folder / name / f"{name}{ending}{layout.removeprefix('brats ')}")


@dataclass(frozen=True)
class Base:
    """Undamaged cohorts, and what comes of them."""

    folders: dict[str, Path]
    expected: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def call_for(data: Path) -> list[str]:
    keys = {"preset": "smoke", "data": str(data), "work_dir": "work", "workers": "1"}
    return ["prepare", *(word for key, value in keys.items() for word in (f"--{key}", value))]


def prepare(root: Path) -> Base:
    """Writes the undamaged cohorts below `root`, and reads each once."""
    folders, expected = {}, {}
    for number, layout in enumerate(LAYOUTS):
        folders[layout] = root / f"cohort{number}"
        write_cohort(folders[layout], layout)
        work = root / f"read{number}"
        work.mkdir()
        ended = harness.in_child(call_for(folders[layout]), work)
        assert ended.code == 0, ended.output
        expected[layout] = harness.by_subject(harness.only_folder(work / "work" / "prepare"))
        assert sorted(expected[layout]) == sorted(NAMES), (layout, sorted(expected[layout]))
    return Base(folders, expected)


@dataclass
class Victim:
    """The file to damage."""

    folder: Path  # the cohort's
    path: Path
    subject: str
    layout: str
    rng: np.random.Generator

    @property
    def is_annotation(self) -> bool:
        return self.path.parent.name == "labelsTr" or "_seg" in self.path.name

    @property
    def gzipped(self) -> bool:
        return self.path.suffix == ".gz"

    def content(self) -> bytearray:
        """The NIfTI file, unpacked."""
        raw = self.path.read_bytes()
        return bytearray(gzip.decompress(raw) if self.gzipped else raw)

    def write(self, content: bytes) -> None:
        self.path.write_bytes(gzip.compress(bytes(content), 1, mtime=0) if self.gzipped else bytes(content))

    def set(self, offset: int, code: str, *values: float) -> None:
        """Sets a header field."""
        content = self.content()
        struct.pack_into(f"<{code}", content, offset, *values)
        self.write(content)

    def voxels(self) -> np.ndarray:
        return np.asanyarray(nib.Nifti1Image.from_bytes(bytes(self.content())).dataobj)


def draw(base: Base, folder: Path, rng: np.random.Generator) -> Victim:
    """A copy of a cohort, and one of its files."""
    layout = LAYOUTS[rng.integers(len(LAYOUTS))]
    data = folder / "data"
    shutil.copytree(base.folders[layout], data)
    subject = NAMES[rng.integers(len(NAMES))]
    files = sorted(path for path in data.rglob("*.nii*") if path.name.startswith(subject))
    return Victim(data, files[rng.integers(len(files))], subject, layout, rng)


def make_case(base: Base, folder: Path, rng: np.random.Generator, mutator: Callable[[Victim], str]) -> Case:
    victim = draw(base, folder, rng)
    promise = mutator(victim)
    expected = base.expected[victim.layout]

    def holds(ended: Ended) -> str:
        if ended.code:
            raise WrongValueError(f"the whole cohort is refused: {harness.message(ended)[:400]}")
        out = harness.only_folder(folder / "work" / "prepare")
        found = harness.by_subject(out)
        for name in NAMES:
            if name != victim.subject and not (name in found and harness.same(found[name], expected[name])):
                raise WrongValueError(f"{name}, which was not damaged, is {'changed' if name in found else 'gone'}")
        with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
            reasons = {row["subject"]: row["reason"] for row in csv.DictReader(file)}
        if victim.subject not in found:
            if extra := set(found) - set(NAMES):
                raise WrongValueError(f"read as another subject, {extra}")
            if not reasons.get(victim.subject):
                raise WrongValueError(f"{victim.subject} is gone without a reason; set aside: {reasons}")
            if promise == SAME:
                raise WrongValueError(f"set aside, though it is sound: {reasons[victim.subject]}")
            return "set aside"
        if promise == ASIDE:
            raise WrongValueError(f"{victim.path.name} was read, though it cannot be used")
        equal = harness.same(found[victim.subject], expected[victim.subject])
        if promise in (SAME, EITHER) and not equal:
            raise WrongValueError(f"{victim.path.name} was read as something else than it holds")
        return "read right" if equal else "read"

    return Case(call_for(victim.folder), holds)


# --- mutators: each damages a file, and says what must become of its subject -----------------------------------------


def cut_off(v: Victim) -> str:
    content = v.path.read_bytes()
    v.path.write_bytes(content[: v.rng.integers(1, len(content))])
    return ASIDE


def cut_before_packing(v: Victim) -> str:
    content = v.content()
    v.write(content[: v.rng.integers(1, len(content))])
    return ASIDE


def cut_last_bytes(v: Victim) -> str:
    v.path.write_bytes(v.path.read_bytes()[: -int(v.rng.integers(1, 9))])
    return ASIDE


def emptied(v: Victim) -> str:
    v.path.write_bytes(b"")
    return ASIDE


def bits_flipped_in_file(v: Victim) -> str:
    content = bytearray(v.path.read_bytes())
    for _ in range(v.rng.integers(1, 5)):
        content[v.rng.integers(len(content))] ^= 1 << int(v.rng.integers(8))
    v.path.write_bytes(content)
    return EITHER if v.gzipped else ANY  # gzip's checksum sees it


def bits_flipped_in_header(v: Victim) -> str:
    content = v.content()
    for _ in range(v.rng.integers(1, 5)):
        content[v.rng.integers(352)] ^= 1 << int(v.rng.integers(8))
    v.write(content)
    return ANY


def bytes_drawn_in_header(v: Victim) -> str:
    content = v.content()
    start = int(v.rng.integers(340))
    count = int(v.rng.integers(1, 13))
    content[start : start + count] = v.rng.bytes(count)
    v.write(content)
    return ANY


def header_drawn(v: Victim) -> str:
    content = v.content()
    content[4:344] = v.rng.bytes(340)
    v.write(content)
    return ASIDE


def block_zeroed(v: Victim) -> str:
    content = bytearray(v.path.read_bytes())
    start = int(v.rng.integers(len(content)))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    v.path.write_bytes(content)
    return EITHER if v.gzipped else ANY


def noise(v: Victim) -> str:
    v.path.write_bytes(v.rng.bytes(int(v.rng.integers(1, 20_000))))
    return ASIDE


def type_without_grey_values(v: Victim) -> str:
    code, bits = [(0, 0), (1, 1), (32, 64), (128, 24), (1536, 128), (1792, 128), (2048, 256), (2304, 32), (255, 0)][
        v.rng.integers(9)
    ]
    content = v.content()
    struct.pack_into("<hh", content, 70, code, bits)
    v.write(content + bytes(16 * math.prod(SHAPE)))  # enough bytes for any of them: the length does not tell
    return ASIDE


def type_unknown(v: Victim) -> str:
    v.set(70, "h", int(v.rng.choice([3, 5, 7, 100, 9999, -4, 32767])))
    return ASIDE


def type_larger(v: Victim) -> str:
    v.set(70, "hh", *[(8, 32), (16, 32), (64, 64), (1024, 64)][v.rng.integers(4)])
    return ASIDE


def stored_as_another_type(v: Victim) -> str:
    types = [np.float32, np.float64, np.int32, np.uint16, np.uint32, np.int64, np.uint64]
    v.write(image_of(v.voxels().astype(types[v.rng.integers(len(types))])).to_bytes())
    return SAME


def big_endian(v: Victim) -> str:
    image = image_of(v.voxels())
    header = image.header.as_byteswapped(">")
    v.write(nib.Nifti1Image(v.voxels(), None, header).to_bytes())
    return SAME


def header_alone_swapped(v: Victim) -> str:
    content = v.content()
    swapped = nib.Nifti1Header(bytes(content[:348])).as_byteswapped(">")
    content[:348] = swapped.binaryblock
    v.write(content)
    return SAME if v.is_annotation else ANY  # the annotation has one byte a voxel; the others hold other numbers now


def nifti_2(v: Victim) -> str:
    image = nib.Nifti2Image(v.voxels(), AFFINE)
    image.set_sform(AFFINE, 1)
    v.write(image.to_bytes())
    return SAME


def dimensions_wrong(v: Victim) -> str:
    place = int(v.rng.integers(1, 4))
    v.set(40 + 2 * place, "h", int(v.rng.choice([0, -1, -32768, 32767, 1, 2, 1000])))
    return ASIDE


def all_dimensions_huge(v: Victim) -> str:
    v.set(40, "8h", 7, *[32767] * 7)
    return ASIDE


def number_of_dimensions_wrong(v: Victim) -> str:
    v.set(40, "h", int(v.rng.choice([0, 1, 2, 8, 9, -1, 255, 32767])))
    return ASIDE


def trailing_dimensions_of_one(v: Victim) -> str:
    content = v.content()
    count = int(v.rng.integers(4, 8)) if v.layout != "msd" or v.is_annotation else int(v.rng.integers(5, 8))
    dims = list(struct.unpack_from("<8h", content, 40))
    held = dims[0]
    dims[0] = count
    dims[held + 1 : count + 1] = [1] * (count - held)
    struct.pack_into("<8h", content, 40, *dims)
    v.write(content)
    return EITHER


def axes_exchanged(v: Victim) -> str:
    content = v.content()
    dims = list(struct.unpack_from("<8h", content, 40))
    first, second = v.rng.choice([1, 2, 3], 2, replace=False)
    dims[first], dims[second] = dims[second], dims[first]
    struct.pack_into("<8h", content, 40, *dims)
    v.write(content)
    return ASIDE


def one_volume_more(v: Victim) -> str:
    v.write(image_of(np.stack([v.voxels()] * 2, -1)).to_bytes())
    return ASIDE


def other_channels(v: Victim) -> str:
    array = v.voxels()
    if array.ndim == 3:
        v.write(image_of(array[:, :, :-1]).to_bytes())
    else:
        v.write(image_of(array[..., : int(v.rng.integers(1, 4))]).to_bytes())
    return ASIDE


def slope_without_effect(v: Victim) -> str:
    v.set(112, "ff", float(v.rng.choice([0, np.nan])), float(v.rng.choice([0, np.nan])))
    return SAME


def slope_infinite(v: Victim) -> str:
    v.set(112, "ff", float(v.rng.choice([np.inf, -np.inf])), 0)
    return EITHER


def intercept_not_finite(v: Victim) -> str:
    v.set(112, "ff", 1, float(v.rng.choice([np.inf, -np.inf, np.nan])))
    return EITHER


def slope_of_an_image(v: Victim) -> str:
    v.set(112, "ff", float(v.rng.choice([2, 0.5, 1000])), 0)
    return ASIDE if v.is_annotation else SAME  # a modality is divided by its own maximum; a label is not


def slope_tiny_or_huge(v: Victim) -> str:
    v.set(112, "ff", float(v.rng.choice([1e-38, 1e-45, 3e38])), 0)
    return ASIDE if v.is_annotation else EITHER


def slope_negative(v: Victim) -> str:
    v.set(112, "ff", -1, 0)
    return ASIDE


def intercept_added(v: Victim) -> str:
    v.set(112, "ff", 1, float(v.rng.choice([-1e6, -50.0, 7.0, 1e6])))
    return ASIDE if v.is_annotation else ANY


def no_orientation(v: Victim) -> str:
    v.set(252, "hh", 0, 0)
    return ASIDE  # the others of the subject say where they lie, and this one lies elsewhere


def only_one_orientation(v: Victim) -> str:
    v.set(252, "hh", *[(1, 0), (0, 1), (0, 2), (2, 0), (4, 0), (0, 4)][v.rng.integers(6)])
    return SAME


def orientation_code_unknown(v: Victim) -> str:
    v.set(252, "hh", int(v.rng.choice([6, -1, 255, 32767])), int(v.rng.choice([1, 7, -5, 1000])))
    return EITHER


def qform_mirrored(v: Victim) -> str:
    image = image_of(v.voxels())
    image.set_qform(np.diag([-1.0, 1, 1, 1]) @ AFFINE, 1)
    v.write(image.to_bytes())
    return ASIDE


def qform_moved(v: Victim) -> str:
    v.set(268 + 4 * int(v.rng.integers(3)), "f", float(v.rng.choice([500.0, -77.0])))
    return ASIDE


def sform_not_finite(v: Victim) -> str:
    v.set(280 + 4 * int(v.rng.integers(12)), "f", float(v.rng.choice([np.nan, np.inf, -np.inf, 1e30])))
    return ASIDE


def sform_singular(v: Victim) -> str:
    v.set(280 + 16 * int(v.rng.integers(3)), "4f", 0, 0, 0, 0)
    return ASIDE


def sform_moved(v: Victim) -> str:
    place = 292 + 16 * int(v.rng.integers(3))
    (before,) = struct.unpack_from("<f", v.content(), place)
    v.set(place, "f", before + float(v.rng.choice([-30.0, 4.0, 100.0])))
    return ASIDE


def origin_rounded(v: Victim) -> str:
    content = v.content()
    for place, other in ((292, 268), (308, 272), (324, 276)):
        step = float(v.rng.uniform(-0.02, 0.02))
        for offset in (place, other):
            (before,) = struct.unpack_from("<f", content, offset)
            struct.pack_into("<f", content, offset, before + step)
    v.write(content)
    return SAME


def quaternion_drawn(v: Victim) -> str:
    v.set(256, "3f", *(float(value) for value in v.rng.choice([np.nan, np.inf, 2.0, -5.0, 1e30, 0.3], 3)))
    return EITHER


def voxel_size_wrong(v: Victim) -> str:
    v.set(76 + 4 * int(v.rng.integers(4)), "f", float(v.rng.choice([0, -1, np.nan, np.inf, 1e30, 1e-30])))
    return EITHER


def units_other(v: Victim) -> str:
    v.set(123, "B", int(v.rng.choice([0, 1, 3, 255, 7])))
    return EITHER  # metres and micrometres beside millimetres of the others may be refused


def voxel_offset_wrong(v: Victim) -> str:
    v.set(108, "f", float(v.rng.choice([np.nan, np.inf, -np.inf, -352, 1e30, 360, 400, 1e9, 2**31, 3e9])))
    return ASIDE


def voxel_offset_zero(v: Victim) -> str:
    v.set(108, "f", 0)
    return EITHER


def voxel_offset_in_header(v: Victim) -> str:
    v.set(108, "f", float(v.rng.choice([1, 16, 100, 340, 348])))
    return ASIDE


def extension(v: Victim) -> str:
    content = v.content()
    text = bytes(v.rng.integers(32, 127, 8 + 16 * int(v.rng.integers(1, 60)), dtype=np.uint8))
    added = struct.pack("<ii", len(text) + 8, int(v.rng.choice([0, 6, 2, 44]))) + text
    struct.pack_into("<f", content, 108, 352 + len(added))
    v.write(content[:348] + b"\1\0\0\0" + added + content[352:])
    return SAME


def extension_lying(v: Victim) -> str:
    content = v.content()
    size = int(v.rng.choice([0, -16, 7, 8, 2**31 - 1, -(2**31), 10**6]))
    struct.pack_into("<f", content, 108, 384)
    v.write(content[:348] + b"\1\0\0\0" + struct.pack("<ii", size, 6) + bytes(24) + content[352:])
    return EITHER


def extension_flag_alone(v: Victim) -> str:
    content = v.content()
    content[348:352] = b"\1\2\3\4"
    v.write(content)
    return EITHER


def magic_wrong(v: Victim) -> str:
    content = v.content()
    magics = [b"ni1\0", b"n+2\0", b"\0\0\0\0", b"abcd", b"n+1 ", b"\xff\xff\xff\xff"]
    content[344:348] = magics[v.rng.integers(len(magics))]
    v.write(content)
    return EITHER


def header_size_wrong(v: Victim) -> str:
    v.set(0, "i", int(v.rng.choice([0, -1, 347, 540, 1543569408, 2**31 - 1])))
    return EITHER


def not_a_number_voxels(v: Victim) -> str:
    array = v.voxels().astype(np.float32)
    array.flat[v.rng.integers(0, array.size, 3)] = [np.nan, np.inf, -np.inf][v.rng.integers(3)]
    v.write(image_of(array).to_bytes())
    return ASIDE


def nothing_in_it(v: Victim) -> str:
    if v.is_annotation:
        v.write(image_of(np.full_like(v.voxels(), 9)).to_bytes())
    else:
        v.write(image_of(np.zeros_like(v.voxels())).to_bytes())
    return ASIDE


def all_below_zero(v: Victim) -> str:
    v.write(image_of(-1 - v.voxels().astype(np.int16)).to_bytes())
    return ASIDE


def centred_on_zero(v: Victim) -> str:
    array = v.voxels().astype(np.float32)
    spread = (array - array.mean()) / array.std() if v.rng.integers(2) else array / array.max() * 2 - 1
    v.write(image_of(spread.astype(np.float32)).to_bytes())
    return ASIDE


def annotation_with_an_unknown_value(v: Victim) -> str:
    v.path = _annotation(v)
    array = v.voxels().astype(np.float32)
    array[13, 12, 5] = float(v.rng.choice([5, 7, 255, 256, 1000, -1, 2.5, 3.4e38]))
    v.write(image_of(array).to_bytes())
    return ASIDE


def annotation_nearly_whole(v: Victim) -> str:
    v.path = _annotation(v)
    array = v.voxels().astype(np.float64)
    v.write(image_of(array + v.rng.uniform(-1e-7, 1e-7, array.shape) * (array > 0)).to_bytes())
    return SAME


def annotation_of_another_grid(v: Victim) -> str:
    v.path = _annotation(v)
    v.write(image_of(v.voxels()[:, :-1]).to_bytes())
    return ASIDE


def _annotation(v: Victim) -> Path:
    return next(
        path
        for path in v.folder.rglob("*.nii*")
        if path.name.startswith(v.subject) and (path.parent.name == "labelsTr" or "_seg" in path.name)
    )


def packed_in_pieces(v: Victim) -> str:
    content = bytes(v.content())
    cut = int(v.rng.integers(len(content)))
    v.path.write_bytes(gzip.compress(content[:cut], 1) + gzip.compress(content[cut:], 6))
    return SAME if v.gzipped else EITHER


def packed_twice(v: Victim) -> str:
    v.path.write_bytes(gzip.compress(gzip.compress(bytes(v.content()))))
    return ASIDE


def not_packed_under_gz(v: Victim) -> str:
    v.path.write_bytes(v.content())
    return EITHER


def zeros_after_gzip(v: Victim) -> str:
    v.path.write_bytes(gzip.compress(bytes(v.content())) + bytes(int(v.rng.integers(1, 2000))))
    return EITHER


def garbage_after_gzip(v: Victim) -> str:
    v.path.write_bytes(gzip.compress(bytes(v.content())) + v.rng.bytes(int(v.rng.integers(1, 2000))))
    return EITHER


def gzip_checksum_wrong(v: Victim) -> str:
    packed = bytearray(gzip.compress(bytes(v.content())))
    packed[-8 + int(v.rng.integers(4))] ^= 0x10
    v.path.write_bytes(packed)
    return ASIDE


def gzip_length_lies(v: Victim) -> str:
    packed = bytearray(gzip.compress(bytes(v.content())))
    packed[-4:] = struct.pack("<I", int(v.rng.choice([0, 1, 2**31, 2**32 - 1, 10**9])))
    v.path.write_bytes(packed)
    return ASIDE


def gzip_header_drawn(v: Victim) -> str:
    packed = bytearray(gzip.compress(bytes(v.content())))
    packed[2:10] = v.rng.bytes(8)
    v.path.write_bytes(packed)
    return EITHER


def gzip_bomb(v: Victim) -> str:
    """The volume, and 2 GiB of zeros after it: 2 MiB packed."""
    packer = zlib.compressobj(9, wbits=31)
    packed = packer.compress(bytes(v.content()))
    chunk = bytes(1 << 24)
    for _ in range(64):
        packed += packer.compress(chunk)
    v.path.write_bytes(packed + packer.flush())
    return EITHER


def replaced_by_a_folder(v: Victim) -> str:
    v.path.unlink()
    v.path.mkdir()
    if v.rng.integers(2):
        (v.path / "something.txt").write_text("nothing")
    return ASIDE


def file_in_a_folder_of_its_name(v: Victim) -> str:
    content = v.path.read_bytes()
    v.path.unlink()
    v.path.mkdir()
    (v.path / v.path.name).write_bytes(content)
    return EITHER


def replaced_by_a_fifo(v: Victim) -> str:
    v.path.unlink()
    os.mkfifo(v.path)
    return ASIDE


def replaced_by_a_socket(v: Victim) -> str:
    v.path.unlink()
    here = Path.cwd()
    os.chdir(v.path.parent)  # a socket's name holds no more than 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(v.path.name)
    finally:
        os.chdir(here)
    return ASIDE


def link_to_a_device(v: Victim) -> str:
    v.path.unlink()
    v.path.symlink_to(["/dev/zero", "/dev/null", "/dev/urandom", "/dev/full"][v.rng.integers(4)])
    return ASIDE


def link_broken_or_in_a_circle(v: Victim) -> str:
    v.path.unlink()
    v.path.symlink_to(["gone/for/good.nii.gz", v.path.name, "/proc/self/mem", ".."][v.rng.integers(4)])
    return ASIDE


def link_to_the_file(v: Victim) -> str:
    away = v.folder.parent / f"away{''.join(v.path.suffixes[-2:])}"
    v.path.rename(away)
    v.path.symlink_to(away)
    return SAME


def folder_loop(v: Victim) -> str:
    (v.path.parent / "loop").symlink_to(v.path.parent)
    (v.path.parent / "up").symlink_to(v.folder)
    return EITHER


def two_files_for_one(v: Victim) -> str:
    if v.gzipped:
        v.path.with_suffix("").write_bytes(v.content())
    else:
        v.path.with_name(f"{v.path.name}.gz").write_bytes(gzip.compress(bytes(v.content())))
    return ASIDE


def gone(v: Victim) -> str:
    v.path.unlink()
    return ASIDE


def pointer_of_git_lfs(v: Victim) -> str:
    v.path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234567\n")
    return ASIDE


def another_format(v: Victim) -> str:
    starts = [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"PK\3\4", bytes(128) + b"DICM", b"\x89HDF\r\n\x1a\n", b"<html>404</html>",
        b"NRRD0004\n", b"\x93NUMPY\1\0", b"%PDF-1.4", b"\xfd7zXZ\0", b"BZh9", b"\x28\xb5\x2f\xfd",
    ]  # fmt: skip
    v.path.write_bytes(starts[v.rng.integers(len(starts))] + v.rng.bytes(2000))
    return ASIDE


def copy_of_another_subject(v: Victim) -> str:
    other = max(set(NAMES) - {v.subject}) if v.subject != NAMES[-1] else NAMES[0]
    first, second = sorted((v.subject, other))  # the later one of two is the copy
    for path in sorted(v.folder.rglob("*.nii*")):
        if path.name.startswith(second):
            shutil.copyfile(str(path).replace(second, first), path)
    v.subject = second
    return ASIDE


def companions_of_other_systems(v: Victim) -> str:
    (v.path.parent / f"._{v.path.name}").write_bytes(v.rng.bytes(100))
    (v.path.parent / ".DS_Store").write_bytes(v.rng.bytes(100))
    (v.path.parent / "Thumbs.db").write_bytes(v.rng.bytes(100))
    return SAME


MUTATORS: tuple[Callable[[Victim], str], ...] = (
    cut_off, cut_before_packing, cut_last_bytes, emptied, bits_flipped_in_file, bits_flipped_in_header,
    bytes_drawn_in_header, header_drawn, block_zeroed, noise, type_without_grey_values, type_unknown, type_larger,
    stored_as_another_type, big_endian, header_alone_swapped, nifti_2, dimensions_wrong, all_dimensions_huge,
    number_of_dimensions_wrong, trailing_dimensions_of_one, axes_exchanged, one_volume_more, other_channels,
    slope_without_effect, slope_infinite, intercept_not_finite, slope_of_an_image, slope_tiny_or_huge, slope_negative,
    intercept_added, no_orientation, only_one_orientation, orientation_code_unknown, qform_mirrored, qform_moved,
    sform_not_finite, sform_singular, sform_moved, origin_rounded, quaternion_drawn, voxel_size_wrong, units_other,
    voxel_offset_wrong, voxel_offset_zero, voxel_offset_in_header, extension, extension_lying, extension_flag_alone,
    magic_wrong, header_size_wrong, not_a_number_voxels, nothing_in_it, all_below_zero, centred_on_zero,
    annotation_with_an_unknown_value, annotation_nearly_whole, annotation_of_another_grid, packed_in_pieces,
    packed_twice, not_packed_under_gz, zeros_after_gzip, garbage_after_gzip, gzip_checksum_wrong, gzip_length_lies,
    gzip_header_drawn, gzip_bomb, replaced_by_a_folder, file_in_a_folder_of_its_name, replaced_by_a_fifo,
    replaced_by_a_socket, link_to_a_device, link_broken_or_in_a_circle, link_to_the_file, folder_loop,
    two_files_for_one, gone, pointer_of_git_lfs, another_format, copy_of_another_subject, companions_of_other_systems,
)  # fmt: skip
