"""Files of single slices: other kinds under the name are refused by name, damaged ones set aside, no pipe is opened."""

import contextlib
import gzip
import os
import struct
import zlib
from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from benchmark.errors import UserError

BRATS = np.array([0, 1, 2, 4], np.uint8)  # of classes 0–3


@pytest.fixture
def sent(sets, tmp_path):
    """A good set of three slices, and its arrays."""
    images, labels = sets.make_set(3)
    return sets.save_folders(tmp_path / "sent", images, BRATS[labels]), images, labels


def content_of(pixels: np.ndarray, kind: str, **options) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("JPEG", "a JPEG"),
        ("GIF", "a GIF"),
        ("TIFF", "a TIFF"),
        ("WEBP", "a WEBP"),
        ("BMP", "a BMP"),
        ("EPS", "an EPS"),
        ("ICO", "an ICO"),
        ("JPEG2000", "a JPEG 2000"),
        ("PPM", "a PGM"),
        ("npy", "a .npy array"),
        ("DICOM", "a DICOM file"),
        ("HTML", "an HTML page"),
        ("gzip", "a gzip file"),
    ],
)
@pytest.mark.parametrize("channel", ["T2", "SEG"])
def test_another_kind_of_file_under_the_name_is_refused_by_name(sets, sent, tmp_path, kind, named, channel):
    folder, images, _ = sent
    if kind == "npy":
        np.save(file := BytesIO(), images[0, 0])
        content = file.getvalue()
    else:
        other = {"DICOM": bytes(128) + b"DICM" + bytes(300), "HTML": b"<!DOCTYPE html>", "gzip": gzip.compress(b"x")}
        content = other[kind] if kind in other else content_of(images[0, 0], kind)
    (folder / channel / "slice_001.png").write_bytes(content)
    assert f"{channel}/slice_001.png: is {named}, not a PNG" in sets.refused(folder, tmp_path / "out")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colours_that_hold_nothing_but_grey_are_told_so(sets, sent, tmp_path, mode):
    folder, images, _ = sent
    path = folder / "T1" / "slice_002.png"
    Image.fromarray(images[2, 0]).convert(mode).save(path)
    assert "it holds nothing but grey, so convert it" in sets.refused(folder, tmp_path / "out")
    coloured = np.asarray(Image.fromarray(images[2, 0]).convert("RGB")).copy()
    coloured[..., 2] //= 2
    Image.fromarray(coloured).quantize().save(path) if mode == "P" else Image.fromarray(coloured).convert(
        "RGB" if mode == "LA" else mode
    ).save(path)
    text = sets.refused(folder, tmp_path / "out")
    assert "8-bit grey is needed" in text
    assert "nothing but grey" not in text


def test_an_animated_png_is_refused(sets, sent, tmp_path):
    folder, images, _ = sent
    frames = [Image.fromarray(image) for image in images[:, 0]]
    frames[0].save(folder / "T1" / "slice_000.png", save_all=True, append_images=frames[1:])
    assert "T1/slice_000.png: PNG with 3 frames" in sets.refused(folder, tmp_path / "out")


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("colour", [0, 2])
def test_a_bomb_is_refused_by_the_size_that_it_declares(sets, sent, tmp_path, colour):
    """65,000 × 65,000 pixels, 4 or 12 GiB, in 100 bytes."""
    folder, *_ = sent
    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, colour, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )
    (folder / "SEG" / "slice_000.png").write_bytes(content)
    assert "65000 × 65000 px: 1 files, e.g. SEG/slice_000.png" in sets.refused(folder, tmp_path / "out")


def test_a_bomb_in_a_text_chunk_is_set_aside(sets, sent, tmp_path):
    folder, images, labels = sent
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * (8 << 20), zip=True)
    Image.fromarray(images[1, 0]).save(folder / "T1" / "slice_001.png", pnginfo=text)
    sets.assert_holds(sets.run(folder, tmp_path / "out"), images[[0, 2]], labels[[0, 2]])
    ((name, file, reason),) = sets.rejected(tmp_path / "out")
    assert (name, file) == ("slice_001", "T1/slice_001.png")
    assert reason.startswith("truncated or unreadable: ")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "the file is empty (0 bytes)"),
        ("LFS", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
        ("annex", "a git-annex pointer"),
        ("broken link", "a link that leads nowhere"),
        ("loop", "a link that goes in circles"),
        ("pipe", "a named pipe stands where a file should be"),
        ("device", "a device stands where a file should be"),
        ("folder", "a folder stands where a file should be"),
        ("cut", "truncated or unreadable: "),
        ("noise", "truncated or unreadable: not a PNG file"),
    ],
)
@pytest.mark.parametrize("channel", ["FLAIR", "SEG"])
@pytest.mark.parametrize("ending", ["png", "nii"])
def test_what_is_no_readable_file_is_set_aside_with_its_reason(sets, tmp_path, kind, reason, channel, ending):
    images, labels = sets.make_set(3)
    folder = tmp_path / "sent"
    if ending == "png":
        sets.save_folders(folder, images, BRATS[labels])
    else:
        for number in range(3):
            for name, pixels in zip(sets.FOLDERS, (*images[number], BRATS[labels[number]]), strict=True):
                sets.save_nifti(pixels, folder / name / f"slice_{number:03d}.nii")
        reason = reason.removesuffix("not a PNG file")
    path = folder / channel / f"slice_001.{ending}"
    content = path.read_bytes()
    path.unlink()
    match kind:
        case "empty":
            path.touch()
        case "LFS":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
        case "annex":
            path.write_text("/annex/objects/SHA256E-s7--0.png\n")
        case "broken link":
            path.symlink_to("../nowhere.png")
        case "loop":
            path.symlink_to(path.name)
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "noise":
            path.write_bytes(np.random.default_rng(0).bytes(2000))
    sets.assert_holds(sets.run(folder, tmp_path / "out"), images[[0, 2]], labels[[0, 2]])
    ((name, file, found),) = sets.rejected(tmp_path / "out")
    assert (name, file) == ("slice_001", f"{channel}/slice_001.{ending}")
    assert found.startswith(reason)


def test_a_gzipped_nifti_stops_unpacking_where_no_slice_is_that_large(sets, tmp_path):
    images, labels = sets.make_set(2)
    for number in range(2):
        for name, pixels in zip(sets.FOLDERS, (*images[number], BRATS[labels[number]]), strict=True):
            sets.save_nifti(pixels, tmp_path / "sent" / name / f"{number}.nii.gz")
    path = tmp_path / "sent" / "T2" / "1.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(100 << 20), 1))
    sets.assert_holds(sets.run(tmp_path / "sent", tmp_path / "out"), images[:1], labels[:1])
    ((name, file, reason),) = sets.rejected(tmp_path / "out")
    assert (name, file) == ("1", "T2/1.nii.gz")
    assert "it unpacks to more than 64 MiB" in reason


def test_a_nifti_whose_checksum_fails_is_set_aside(sets, tmp_path):
    images, labels = sets.make_set(2)
    for number in range(2):
        for name, pixels in zip(sets.FOLDERS, (*images[number], BRATS[labels[number]]), strict=True):
            sets.save_nifti(pixels, tmp_path / "sent" / name / f"{number}.nii.gz")
    path = tmp_path / "sent" / "T1" / "0.nii.gz"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    sets.assert_holds(sets.run(tmp_path / "sent", tmp_path / "out"), images[1:], labels[1:])
    assert "CRC" in sets.rejected(tmp_path / "out")[0][2]


@pytest.mark.parametrize("low", [-1, 0])
def test_nifti_slices_of_float_are_refused_by_their_type(sets, tmp_path, low):
    images, labels = sets.make_set(2)
    for number in range(2):
        for name, pixels in zip(sets.FOLDERS, (*images[number], BRATS[labels[number]]), strict=True):
            sets.save_nifti(pixels, tmp_path / "sent" / name / f"{number}.nii")
    scaled = images[0, 1] / np.float32(255) * (1 - low) + low
    nib.save(nib.Nifti1Image(scaled.T, np.diag([-1, -1, 1, 1])), tmp_path / "sent" / "T1ce" / "0.nii")
    assert "T1ce/0.nii: values are float32; 8 bit" in sets.refused(tmp_path / "sent", tmp_path / "out")


@pytest.mark.parametrize("seed", range(40))
def test_bytes_changed_anywhere_never_end_in_a_traceback(sets, tmp_path, seed):
    """Each of three files with a few bytes replaced, or cut, or padded: set aside, refused by name, or unharmed."""
    rng = np.random.default_rng(seed)
    images, labels = sets.make_set(4)
    folder = tmp_path / "sent"
    if seed % 2:
        sets.save_folders(folder, images, BRATS[labels])
    else:
        for number in range(4):
            for name, pixels in zip(sets.FOLDERS, (*images[number], BRATS[labels[number]]), strict=True):
                sets.save_nifti(pixels, folder / name / f"{number}.nii{'.gz' if seed % 4 else ''}")
    for path in rng.choice(sorted(folder.rglob("*.*")), 3, replace=False):
        content = bytearray(path.read_bytes())
        for place in rng.integers(0, min(len(content), 400 if seed % 3 else 40), rng.integers(1, 6)):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content[: rng.integers(1, 2 * len(content))])
    with contextlib.suppress(UserError):
        assert len(sets.run(folder, tmp_path / "out")) >= 1
