"""Family 2: a synthetic set that somebody sent, damaged: PNG folders, arrays, NIfTI volumes, SliceSets.

It is refused as a whole with one message, or its damaged slices are set aside and the others come out unchanged.
"""

import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.data.slices import SliceSet
from tests.fuzz import cohorts, harness
from tests.fuzz.cohorts import ANY, ASIDE, EITHER, SAME
from tests.fuzz.harness import Case, Ended, WrongValueError

COUNT = 12
CODES = np.array([0, 51, 102, 204], np.uint8)
FOLDERS = ("T1", "T1ce", "T2", "FLAIR", "SEG")
NOT_TAKEN = "not taken"  # the slice is set aside, or the set refused
REFUSED = "refused"  # the set is refused


@dataclass(frozen=True)
class Base:
    """A prepared cohort, and an undamaged set of its slices in every form."""

    cohort: Path
    work: Path
    folders: dict[str, Path]
    images: np.ndarray  # [N, 4, H, W]
    labels: np.ndarray  # [N, H, W]
    volumes: dict[str, tuple[np.ndarray, np.ndarray]]


def prepare(root: Path) -> Base:
    cohort, work = root / "cohort", root / "prepared"
    cohorts.write_cohort(cohort, "brats .nii.gz")
    work.mkdir()
    ended = harness.in_child(cohorts.call_for(cohort), work)
    assert ended.code == 0, ended.output
    slices = harness.only_folder(work / "work" / "prepare")
    opened = SliceSet.open(slices)
    rows = np.linspace(0, len(opened) - 1, COUNT).astype(int)
    images, labels = np.array(opened.images[rows]), np.array(opened.labels[rows])
    assert images.any((2, 3)).all()
    folders = {name: root / name for name in ("png", "npy", "npz", "volumes", "slices")}
    for channel, name in enumerate(FOLDERS):
        (folders["png"] / name).mkdir(parents=True)
        for number in range(COUNT):
            pixels = images[number, channel] if channel < 4 else CODES[labels[number]]
            Image.fromarray(pixels).save(folders["png"] / name / f"{number:04d}.png")
    for name in ("npy", "npz"):
        folders[name].mkdir()
    np.save(folders["npy"] / "images.npy", images)
    np.save(folders["npy"] / "labels.npy", CODES[labels])
    np.savez_compressed(folders["npz"] / "sent.npz", np.concatenate([images, CODES[labels][:, None]], 1))
    cohorts.write_cohort(folders["volumes"], "brats .nii.gz")
    shutil.copytree(slices, folders["slices"])
    return Base(cohort, work / "work", folders, images, labels, harness.by_subject(slices))


@dataclass
class Sent:
    """The set to damage."""

    base: Base
    folder: Path
    rng: np.random.Generator
    number: int = 0  # the slice to damage
    subject: str = ""  # or the volume

    def pick(self, options: list):
        return options[self.rng.integers(len(options))]

    @property
    def png(self) -> Path:
        """A file of the slice to damage."""
        return self.folder / FOLDERS[self.rng.integers(5)] / f"{self.number:04d}.png"


def make_case(base: Base, folder: Path, rng: np.random.Generator, mutator: Callable[[Sent], str]) -> Case:
    form = FORM_OF[mutator]
    data = folder / "sent"
    shutil.copytree(base.folders[form], data)
    sent = Sent(base, data, rng, int(rng.integers(COUNT)))
    promise = mutator(sent)
    keys = {"preset": "smoke", "data": str(base.cohort), "workers": "1", "work_dir": "work"}
    keys["synthetic"] = str(sent.folder)
    shutil.copytree(base.work, folder / "work")
    if form == "slices":
        stage = "train_segmenter" if rng.integers(3) else "audit"
        keys |= {"train_on": "synthetic", "train_segmenter.images": "16"} if stage == "train_segmenter" else {}
        holds = {SAME: harness.taken, REFUSED: harness.refused}.get(promise, harness.anything)
    else:
        stage, holds = "import_samples", _imported(sent, folder, form, promise)
    return Case([stage, *(word for key, value in keys.items() for word in (f"--{key}", value))], holds)


def _imported(sent: Sent, folder: Path, form: str, promise: str) -> Callable[[Ended], str]:
    """What must hold of an import."""

    def holds(ended: Ended) -> str:
        if ended.code:
            if promise in (SAME, ASIDE):
                raise WrongValueError(f"the whole set is refused: {harness.message(ended)[:300]}")
            return "refused"
        if promise == REFUSED:
            raise WrongValueError("taken, though it must be refused")
        out = harness.only_folder(folder / "work" / "import_samples")
        if form == "volumes":
            found, expected, damaged = harness.by_subject(out), sent.base.volumes, sent.subject
        else:
            found, expected, damaged = _by_number(out), _expected(sent.base), sent.number
        for name, arrays in expected.items():
            if name != damaged and promise != ANY and not (name in found and harness.same(found[name], arrays)):
                raise WrongValueError(f"slice {name}, which was not damaged, is changed or gone")
        if damaged not in found:
            if promise == SAME:
                raise WrongValueError("set aside, though it is sound")
            return "set aside"
        if promise in (ASIDE, NOT_TAKEN):
            raise WrongValueError("read, though it cannot be used")
        equal = harness.same(found[damaged], expected[damaged])
        if not equal and promise in (SAME, EITHER):
            raise WrongValueError("read as something else than it holds")
        return "read right" if equal else "read"

    return holds


def _by_number(folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Slices by their number, which ends a file's stem ('0004') and an array's row ('images.npy 4')."""
    slices = SliceSet.open(folder)
    digits = slices.index["subject"].str.extract(r"(\d+)$")[0].fillna("-1").astype(int)
    return {number: (np.array(slices.images[row]), np.array(slices.labels[row])) for row, number in enumerate(digits)}


def _expected(base: Base) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    return {number: (base.images[number], base.labels[number]) for number in range(COUNT)}


# --- PNG slices ------------------------------------------------------------------------------------------------------


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, depth: int, colour: int, packed: bytes, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + before + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def png_cut(s: Sent) -> str:
    path = s.png
    content = path.read_bytes()
    path.write_bytes(content[: s.rng.integers(0, len(content))])
    return EITHER  # without its last chunk all pixels are there


def png_bits_flipped(s: Sent) -> str:
    path = s.png
    content = bytearray(path.read_bytes())
    for _ in range(s.rng.integers(1, 5)):
        content[s.rng.integers(len(content))] ^= 1 << int(s.rng.integers(8))
    path.write_bytes(content)
    return EITHER


def png_noise(s: Sent) -> str:
    s.png.write_bytes(s.rng.bytes(int(s.rng.integers(0, 3000))))
    return NOT_TAKEN


def png_noise_after_signature(s: Sent) -> str:
    s.png.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + s.rng.bytes(int(s.rng.integers(0, 3000))))
    return NOT_TAKEN


def png_is_another_format(s: Sent) -> str:
    path, content = s.png, BytesIO()
    image = Image.open(path).copy()
    image.save(content, s.pick(["JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM", "TGA", "EPS", "JPEG2000", "PDF"]))
    path.write_bytes(content.getvalue())
    return NOT_TAKEN


def png_of_another_kind(s: Sent) -> str:
    path = s.png
    image = Image.open(path).copy()
    kind = s.pick(["RGB", "RGBA", "P", "1", "LA", "I;16"])
    (Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if kind == "I;16" else image.convert(kind)).save(path)
    return NOT_TAKEN


def png_of_few_bits(s: Sent) -> str:
    depth = s.pick([1, 2, 4])
    rows = b"".join(b"\0" + s.rng.bytes(16 * depth // 8) for _ in range(16))
    s.png.write_bytes(_png(16, 16, depth, 0, zlib.compress(rows)))
    return NOT_TAKEN


def png_size_lies(s: Sent) -> str:
    width, height = s.pick([(60000, 60000), (2**31 - 1, 2**31 - 1), (0, 16), (16, 0), (16, 2**31), (1 << 20, 16)])
    s.png.write_bytes(_png(width, height, 8, 0, zlib.compress(bytes(17 * 16))))
    return NOT_TAKEN


def png_bomb(s: Sent) -> str:
    """The right size, and 500 MB of zeros behind its pixels."""
    packer = zlib.compressobj(9)
    packed = packer.compress(bytes(17 * 16))
    for _ in range(60):
        packed += packer.compress(bytes(1 << 23))
    s.png.write_bytes(_png(16, 16, 8, 0, packed + packer.flush()))
    return ANY


def png_text_bomb(s: Sent) -> str:
    text = zlib.compress(bytes(200 << 20), 9)
    before = _chunk(s.pick([b"zTXt", b"iCCP"]), b"a\0\0" + text) if s.rng.integers(2) else (
        _chunk(b"iTXt", b"a\0\1\0\0\0" + text)
    )  # fmt: skip
    path = s.png
    pixels = np.asarray(Image.open(path))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    path.write_bytes(_png(16, 16, 8, 0, zlib.compress(rows), before))
    return EITHER


def png_with_many_chunks(s: Sent) -> str:
    path = s.png
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(Image.open(path)))
    texts = b"".join(_chunk(b"tEXt", f"key{i}\0value".encode()) for i in range(int(s.rng.integers(1, 20000))))
    path.write_bytes(_png(16, 16, 8, 0, zlib.compress(rows), texts))
    return EITHER


def png_method_unknown(s: Sent) -> str:
    path = s.png
    content = bytearray(path.read_bytes())
    content[int(s.rng.integers(26, 29))] = int(s.rng.integers(2, 256))
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return EITHER  # no such compression, filter or interlacing exists; the pixels may be told all the same


def png_of_another_size(s: Sent) -> str:
    Image.fromarray(np.full(s.pick([(16, 17), (8, 8), (32, 32), (1, 1), (24, 16)]), 90, np.uint8)).save(s.png)
    return NOT_TAKEN


def png_gone(s: Sent) -> str:
    s.png.unlink()
    return NOT_TAKEN


def png_replaced_by_something_else(s: Sent) -> str:
    path = s.png
    path.unlink()
    match s.rng.integers(6):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(s.pick(["/dev/zero", "/dev/null", "/dev/urandom"]))
        case 3:
            path.symlink_to(path.name)
        case 4:
            path.symlink_to("gone.png")
        case _:
            path.symlink_to("..")
    return NOT_TAKEN


def png_linked(s: Sent) -> str:
    path = s.png
    away = s.folder.parent / "away.png"
    path.rename(away)
    path.symlink_to(away)
    return SAME


def png_modality_empty(s: Sent) -> str:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(s.folder / s.pick(list(FOLDERS[:4])) / f"{s.number:04d}.png")
    return ASIDE


def png_all_without_brain(s: Sent) -> str:
    for path in (s.folder / "T1").iterdir():
        Image.fromarray(np.full((16, 16), 1, np.uint8)).save(path)
    return REFUSED


def png_annotation_of_no_class(s: Sent) -> str:
    Image.fromarray(np.full((16, 16), s.pick([77, 128, 255, 153, 5]), np.uint8)).save(
        s.folder / "SEG" / f"{s.number:04d}.png"
    )
    return ANY


def png_annotation_as_brats_values(s: Sent) -> str:
    for number in range(COUNT):
        values = np.array([0, 1, 2, 4], np.uint8)[s.base.labels[number]]
        Image.fromarray(values).save(s.folder / "SEG" / f"{number:04d}.png")
    return SAME


def png_names_are_odd(s: Sent) -> str:
    name = s.pick(ODD_NAMES)
    for channel in FOLDERS:
        (s.folder / channel / f"{s.number:04d}.png").rename(s.folder / channel / f"{name}{s.number:04d}.png")
    return SAME


def png_folders_in_another_case(s: Sent) -> str:
    for channel, other in zip(FOLDERS, s.pick([("t1", "t1c", "t2", "flair", "seg"), ("T1n", "T1Gd", "T2w", "T2f", "mask")])):  # noqa: B905,E501
        (s.folder / channel).rename(s.folder / f"{other} ")
        (s.folder / f"{other} ").rename(s.folder / other)
    return SAME


def png_folder_gone(s: Sent) -> str:
    shutil.rmtree(s.folder / s.pick(list(FOLDERS)))
    return REFUSED


def png_folder_twice(s: Sent) -> str:
    shutil.copytree(s.folder / "T1", s.folder / s.pick(["t1", "T1n", "t_1"]))
    return REFUSED


def png_folder_is_a_loop(s: Sent) -> str:
    name = s.pick(list(FOLDERS))
    shutil.rmtree(s.folder / name)
    (s.folder / name).symlink_to(s.pick([name, ".", "/dev/zero", "/proc"]))
    return REFUSED


def png_companions(s: Sent) -> str:
    for name in (".DS_Store", "Thumbs.db", "._0001.png"):
        (s.folder / s.pick(list(FOLDERS)) / name).write_bytes(s.rng.bytes(50))
    return EITHER


def folder_called_oddly(s: Sent) -> str:
    name = s.pick(ODD_NAMES)
    s.folder = s.folder.rename(s.folder.parent / name)
    return SAME


ODD_NAMES = [
    "sent (1)", "=cmd|' ' /C calc'!A1", "<script>alert(1)<", "$\\input{x}$", "two\nlines", "\u202egnp.", "a,b", " lead",
    "ünï-文字-🧠", "%s%n%d", "'; drop table runs; --", "-rf", "a" * 120, "tab\there", "\x1b[31mred", "a:b|c?d*e", "..a",
    "NaN", "null", "#comment", "a&b", "\u00e9 and e\u0301", "quote\"d",
]  # fmt: skip


# --- arrays ----------------------------------------------------------------------------------------------------------


def npy_cut(s: Sent) -> str:
    path = s.folder / s.pick(["images.npy", "labels.npy"])
    content = path.read_bytes()
    path.write_bytes(content[: s.rng.integers(0, len(content))])
    return REFUSED


def npy_header_bits_flipped(s: Sent) -> str:
    path = s.folder / s.pick(["images.npy", "labels.npy"])
    content = bytearray(path.read_bytes())
    for _ in range(s.rng.integers(1, 4)):
        content[s.rng.integers(128)] ^= 1 << int(s.rng.integers(8))
    path.write_bytes(content)
    return ANY


def _npy(header: str | bytes, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    header = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def npy_header_says_anything(s: Sent) -> str:
    shape = s.pick(["(12, 4, 16, 16)", "(10**9,)", "(1000000000000, 4, 16, 16)", "(-12, 4, 16, 16)", "()", "(True, 4)",
                    "(12, 4, 0, 0)", "(0, 4, 16, 16)", "[12, 4, 16, 16]", "None", "(12.0, 4, 16, 16)",
                    "(99999999999999999999999999999, 4, 16, 16)"])  # fmt: skip
    kind = s.pick(["'|u1'", "'|O'", "'<U9999'", "'<c16'", "'<M8[s]'", "[('a', '|u1')]", "'|V8'", "'|b1'", "'nonsense'",
                   "None", "'|u1', 'more': 1", "'(16,16)u1'", "[('a', [('b', [('c', '|O')])])]"])  # fmt: skip
    if (shape, kind) == ("(12, 4, 16, 16)", "'|u1'"):
        kind = "'|O'"
    header = f"{{'descr': {kind}, 'fortran_order': {s.pick(['False', 'True', 'None', '0'])}, 'shape': {shape}, }}\n"
    (s.folder / "images.npy").write_bytes(_npy(header, bytes(12 * 4 * 256)))
    return REFUSED


def npy_header_is_code(s: Sent) -> str:
    header = s.pick(["(" * 5000, "[" * 90 + "]" * 90, "__import__('os').system('touch hacked')", "{'descr':", "",
                     " " * 60000 + "{}", "{" * 300, "-" * 9000 + "1", "lambda: 0", "{**{}}", "'" + "a" * 9000,
                     b"\xff\xfe\x80", b"\0\0\0", "1" * 9000, "0x" + "f" * 9000, "{'descr': '|u1'}" * 20])  # fmt: skip
    version = s.pick([b"\1\0", b"\2\0", b"\3\0", b"\x09\0", b"\0\0"])
    (s.folder / s.pick(["images.npy", "labels.npy"])).write_bytes(_npy(header, bytes(12 * 256 * 4), version))
    return REFUSED


def npy_header_longer_than_the_file(s: Sent) -> str:
    content = b"\x93NUMPY\2\0" + struct.pack("<I", int(s.pick([2**32 - 1, 2**31, 10**6]))) + s.rng.bytes(100)
    (s.folder / s.pick(["images.npy", "labels.npy"])).write_bytes(content)
    return REFUSED


def npy_of_another_version(s: Sent) -> str:
    for name in ("images.npy", "labels.npy"):
        array = np.load(s.folder / name)
        with (s.folder / name).open("wb") as file:
            np.lib.format.write_array(file, array, s.pick([(2, 0), (3, 0)]))
    return SAME


def npy_of_objects(s: Sent) -> str:
    path = s.folder / s.pick(["images.npy", "labels.npy"])
    np.save(path, np.array([Path("x"), 1, None], object), allow_pickle=True)
    return REFUSED


def npy_of_another_type(s: Sent) -> str:
    images = s.base.images
    other = s.pick([images.astype(np.int16), images.astype(np.uint16), images.astype(np.int64), images > 0,
                    images.astype(np.complex64), images.astype("U3"), images.astype(np.float32),
                    images.astype(np.float64) / 100, -images.astype(np.float32) / 255])  # fmt: skip
    np.save(s.folder / "images.npy", other)
    return REFUSED


def npy_of_floats(s: Sent) -> str:
    kind = s.pick([np.float32, np.float64, np.dtype(">f4"), np.dtype(">f8")])
    np.save(s.folder / "images.npy", (s.base.images / 255).astype(kind))
    return SAME


def npy_not_finite(s: Sent) -> str:
    images = (s.base.images / 255).astype(np.float32)
    images[s.number, s.rng.integers(4), 3, 3] = s.pick([np.nan, np.inf, -np.inf, 3e38, -1e-3, 1.01])
    np.save(s.folder / "images.npy", images)
    return REFUSED


def npy_a_millionth_above_one(s: Sent) -> str:
    images = (s.base.images / 255).astype(np.float32)
    images[images == 1] = np.float32(1 + 9e-7)
    np.save(s.folder / "images.npy", images)
    return SAME


def npy_channels_last(s: Sent) -> str:
    np.save(s.folder / "images.npy", np.moveaxis(s.base.images, 1, 3).copy())
    return SAME


def npy_in_fortran_order(s: Sent) -> str:
    np.save(s.folder / "images.npy", np.asfortranarray(s.base.images))
    return EITHER


def npy_of_other_shapes(s: Sent) -> str:
    images = s.base.images
    shape = s.pick([images[:, :3], images[:-1], images[:, :, :-1], images[0], images[:, :, :8, :8], images[:0],
                    np.concatenate([images] * 2, 1), images[None], images.reshape(-1), images[:, :, :, :, None]])  # fmt: skip
    np.save(s.folder / "images.npy", shape)
    return REFUSED


def npy_labels_of_other_types(s: Sent) -> str:
    codes = CODES[s.base.labels]
    np.save(s.folder / "labels.npy", codes.astype(s.pick([np.int16, np.int64, np.uint64, np.dtype(">i4")])))
    return SAME


def npy_labels_wrong(s: Sent) -> str:
    codes = CODES[s.base.labels].astype(np.int64)
    codes[s.number, 2:9, 2:9] = s.pick([-1, 256, 10**6, -(2**63)])
    np.save(s.folder / "labels.npy", codes)
    return REFUSED


def npy_labels_as_classes(s: Sent) -> str:
    np.save(s.folder / "labels.npy", s.pick([CODES[s.base.labels].astype(float), s.base.labels > 0]))
    return ANY


def npy_bytes_after_the_end(s: Sent) -> str:
    with (s.folder / s.pick(["images.npy", "labels.npy"])).open("ab") as file:
        file.write(s.rng.bytes(int(s.rng.integers(1, 3000))))
    return EITHER


def npy_replaced_by_something_else(s: Sent) -> str:
    path = s.folder / s.pick(["images.npy", "labels.npy"])
    path.unlink()
    match s.rng.integers(6):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(s.pick(["/dev/zero", "/dev/null", "/dev/urandom"]))
        case 3:
            path.symlink_to(path.name)
        case 4:
            path.symlink_to("gone.npy")
        case _:
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    return REFUSED


def npy_another_beside(s: Sent) -> str:
    (s.folder / s.pick(["more.npy", "x.npz", "images.npz"])).write_bytes(
        s.pick([b"", s.rng.bytes(99), (s.folder / "images.npy").read_bytes()])
    )
    return ANY


def _npz(s: Sent) -> Path:
    return s.folder / "sent.npz"


def npz_cut(s: Sent) -> str:
    content = _npz(s).read_bytes()
    _npz(s).write_bytes(content[: s.rng.integers(0, len(content))])
    return REFUSED


def npz_bits_flipped(s: Sent) -> str:
    content = bytearray(_npz(s).read_bytes())
    for _ in range(s.rng.integers(1, 5)):
        content[s.rng.integers(len(content))] ^= 1 << int(s.rng.integers(8))
    _npz(s).write_bytes(content)
    return EITHER  # its checksum sees what hits the pixels


def npz_directory_bits_flipped(s: Sent) -> str:
    content = bytearray(_npz(s).read_bytes())
    for _ in range(s.rng.integers(1, 4)):
        content[-int(s.rng.integers(1, 90))] ^= 1 << int(s.rng.integers(8))
    _npz(s).write_bytes(content)
    return EITHER


def _pack(s: Sent, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(_npz(s), "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npz_members_odd(s: Sent) -> str:
    whole = zipfile.ZipFile(_npz(s)).read("arr_0.npy")
    _pack(s, s.pick([{}, {"../../escaped.npy": whole}, {"/tmp/escaped.npy": whole}, {"a/b/c.npy": whole}, {"": whole},
                     {"folder/": b""}, {"x.txt": b"hello"}, {"a.npy": whole, "b.npy": whole}, {"a": whole, "a.npy": whole},
                     {"two\nlines.npy": whole}, {"x" * 5000 + ".npy": whole}, {"images.npy": b"", "labels.npy": b""}]))  # fmt: skip
    return ANY


def npz_member_of_objects(s: Sent) -> str:
    np.savez(_npz(s), np.array([Path("x"), None], object))
    return REFUSED


def npz_packed_another_way(s: Sent) -> str:
    whole = zipfile.ZipFile(_npz(s)).read("arr_0.npy")
    _pack(s, {"arr_0.npy": whole}, s.pick([zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    return EITHER


def npz_encrypted_or_unknown(s: Sent) -> str:
    content = bytearray(_npz(s).read_bytes())
    directory = content.rindex(b"PK\1\2")
    if s.rng.integers(2):
        content[6] |= 1
        content[directory + 8] |= 1
    else:
        content[8:10] = content[directory + 10 : directory + 12] = struct.pack("<H", int(s.pick([1, 9, 93, 99, 65535])))
    _npz(s).write_bytes(content)
    return REFUSED


def npz_bomb(s: Sent) -> str:
    """A member whose header promises a few slices, and 1 GiB of zeros behind them; or all of them promised."""
    whole = zipfile.ZipFile(_npz(s)).read("arr_0.npy")
    with zipfile.ZipFile(_npz(s), "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open(
        "arr_0.npy", "w", force_zip64=True
    ) as member:
        member.write(whole)
        for _ in range(64):
            member.write(bytes(1 << 24))
    return EITHER


def npz_sizes_lie(s: Sent) -> str:
    content = bytearray(_npz(s).read_bytes())
    directory = content.rindex(b"PK\1\2")
    size = struct.pack("<I", int(s.pick([0, 1, 100, 2**31, 2**32 - 2, 2**32 - 1])))
    content[directory + 24 : directory + 28] = size
    if s.rng.integers(2):
        content[22:26] = size
    _npz(s).write_bytes(content)
    return EITHER


# --- NIfTI volumes ---------------------------------------------------------------------------------------------------


def volume_damaged(s: Sent) -> str:
    """As a cohort's file is."""
    mutator = cohorts.MUTATORS[s.rng.integers(len(cohorts.MUTATORS))]
    while mutator is cohorts.copy_of_another_subject:  # in a synthetic set copies count
        mutator = cohorts.MUTATORS[s.rng.integers(len(cohorts.MUTATORS))]
    s.subject = s.pick(list(cohorts.NAMES))
    files = sorted(path for path in s.folder.rglob("*.nii*") if path.name.startswith(s.subject))
    return mutator(cohorts.Victim(s.folder, s.pick(files), s.subject, "brats .nii.gz", s.rng))


# --- SliceSets -------------------------------------------------------------------------------------------------------


def meta_is_no_dictionary(s: Sent) -> str:
    texts = [b"", b"[]", b"null", b"12", b'"text"', b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\0\1", b"NaN",
             b"{}garbage", s.rng.bytes(500), b"\0" * 500, "{}".encode("utf-16"), b"[1, 2, 3]", b"true",
             b"1" * 10_000, b"-", b'{"a": 1e99999', b"\xef\xbb\xbf["]  # fmt: skip
    (s.folder / "meta.json").write_bytes(s.pick(texts))
    return REFUSED


def meta_says_something_else(s: Sent) -> str:
    meta = json.loads((s.folder / "meta.json").read_text())
    key = s.pick(list(meta))
    if s.rng.integers(3):
        meta[key] = s.pick([None, [], {}, "text", -1, 1e300, True, [[[]]], {"a": None}, 10**40, "", "sent (1)\n"])
    else:
        del meta[key]
    (s.folder / "meta.json").write_text(json.dumps(meta))
    return ANY


def index_is_no_table(s: Sent) -> str:
    path = s.folder / "index.parquet"
    content = path.read_bytes()
    cut = content[: s.rng.integers(0, len(content))]
    path.write_bytes(s.pick([b"", b"PAR1", b"PAR1PAR1", s.rng.bytes(800), b"subject,z\na,1\n", cut, cut, cut,
                             b"PAR1" + s.rng.bytes(100) + b"\xff\xff\xff\x7fPAR1", content[:4] + content[40:]]))  # fmt: skip
    return REFUSED


def index_bits_flipped(s: Sent) -> str:
    content = bytearray((s.folder / "index.parquet").read_bytes())
    for _ in range(s.rng.integers(1, 6)):
        content[s.rng.integers(len(content))] ^= 1 << int(s.rng.integers(8))
    (s.folder / "index.parquet").write_bytes(content)
    return ANY


def index_does_not_fit(s: Sent) -> str:
    path = s.folder / "index.parquet"
    index = pd.read_parquet(path)
    column = s.pick(list(index.columns))
    match s.rng.integers(5):
        case 0:
            index = index.iloc[: int(s.rng.integers(0, len(index)))]
        case 1:
            index = index.drop(columns=[s.pick(["subject", "seed", "z", "split", "tumour_pixels"])])
        case 2:
            index["split"] = s.pick([None, "", "training", 3, "train "])
        case 3:
            index = pd.concat([index, index])
        case _:
            index.columns = [f"{column}_" if name in ("subject", "split") else name for name in index.columns]
    index.to_parquet(path)
    return REFUSED


def index_with_odd_columns(s: Sent) -> str:
    path = s.folder / "index.parquet"
    index = pd.read_parquet(path)
    column = s.pick(["subject", "seed", "z", "tumour_pixels"])
    index[column] = s.pick([None, "text", -1, 1.5, np.nan, True, pd.Timestamp(0), b"\xff\xfe", "two\nlines"])
    index.to_parquet(path)
    return ANY


def slices_file_cut_or_swapped(s: Sent) -> str:
    images, labels = s.folder / "images.npy", s.folder / "labels.npy"
    match s.rng.integers(4):
        case 0:
            content = images.read_bytes()
            images.write_bytes(content[: s.rng.integers(0, len(content))])
        case 1:
            content = labels.read_bytes()
            labels.write_bytes(content[: s.rng.integers(0, len(content))])
        case 2:
            images.write_bytes(labels.read_bytes())
        case _:
            labels.write_bytes(images.read_bytes())
    return REFUSED


def slices_header_says_anything(s: Sent) -> str:
    npy_header_says_anything(s)
    return REFUSED


def slices_header_is_code(s: Sent) -> str:
    npy_header_is_code(s)
    return REFUSED


def slices_of_objects(s: Sent) -> str:
    np.save(s.folder / s.pick(["images.npy", "labels.npy"]), np.array([{}, None], object), allow_pickle=True)
    return REFUSED


def slices_with_a_label_too_high(s: Sent) -> str:
    labels = np.load(s.folder / "labels.npy")
    labels[s.rng.integers(len(labels))] = s.pick([4, 51, 255])
    np.save(s.folder / "labels.npy", labels)
    return REFUSED


def slices_without_rows(s: Sent) -> str:
    for name in ("images.npy", "labels.npy"):
        np.save(s.folder / name, np.load(s.folder / name)[:0])
    index = pd.read_parquet(s.folder / "index.parquet").iloc[:0]
    index.to_parquet(s.folder / "index.parquet")
    return REFUSED


def slices_of_another_size(s: Sent) -> str:
    for name in ("images.npy", "labels.npy"):
        np.save(s.folder / name, np.ascontiguousarray(np.load(s.folder / name)[..., :8, :8]))
    return REFUSED


def slices_file_replaced(s: Sent) -> str:
    path = s.folder / s.pick(["meta.json", "index.parquet", "images.npy", "labels.npy"])
    path.unlink()
    match s.rng.integers(5):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(s.pick(["/dev/zero", "/dev/null", "/dev/urandom"]))
        case 3:
            path.symlink_to(path.name)
        case _:
            pass
    return REFUSED


def slices_folder_called_oddly(s: Sent) -> str:
    return folder_called_oddly(s)


_FORMS = {"png_": "png", "folder_": "png", "npy_": "npy", "npz_": "npz", "volume_": "volumes"}
MUTATORS: tuple[Callable[[Sent], str], ...] = (
    png_cut, png_bits_flipped, png_noise, png_noise_after_signature, png_is_another_format, png_of_another_kind,
    png_of_few_bits, png_size_lies, png_bomb, png_text_bomb, png_with_many_chunks, png_method_unknown,
    png_of_another_size, png_gone, png_replaced_by_something_else, png_linked, png_modality_empty,
    png_all_without_brain, png_annotation_of_no_class, png_annotation_as_brats_values, png_names_are_odd,
    png_folders_in_another_case, png_folder_gone, png_folder_twice, png_folder_is_a_loop, png_companions,
    folder_called_oddly, npy_cut, npy_header_bits_flipped, npy_header_says_anything, npy_header_is_code,
    npy_header_longer_than_the_file, npy_of_another_version, npy_of_objects, npy_of_another_type, npy_of_floats,
    npy_not_finite, npy_a_millionth_above_one, npy_channels_last, npy_in_fortran_order, npy_of_other_shapes,
    npy_labels_of_other_types, npy_labels_wrong, npy_labels_as_classes, npy_bytes_after_the_end,
    npy_replaced_by_something_else, npy_another_beside, npz_cut, npz_bits_flipped, npz_directory_bits_flipped,
    npz_members_odd, npz_member_of_objects, npz_packed_another_way, npz_encrypted_or_unknown, npz_bomb, npz_sizes_lie,
    volume_damaged, meta_is_no_dictionary, meta_says_something_else, index_is_no_table, index_bits_flipped,
    index_does_not_fit, index_with_odd_columns, slices_file_cut_or_swapped, slices_header_says_anything,
    slices_header_is_code, slices_of_objects, slices_with_a_label_too_high, slices_without_rows,
    slices_of_another_size, slices_file_replaced, slices_folder_called_oddly,
)  # fmt: skip
FORM_OF = {
    mutator: next((form for start, form in _FORMS.items() if mutator.__name__.startswith(start)), "slices")
    for mutator in MUTATORS
}
