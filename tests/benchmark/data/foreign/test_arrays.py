"""Arrays: what was put into them is what comes out."""

import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmark.data.foreign.coding import TIMES_51, VALUES

BRATS = np.array([0, 1, 2, 4], np.uint8)  # of classes 0–3


@pytest.mark.parametrize("form", ["npy", "npz", "two npz", "channels last", "float", "five", "five float", "five npz"])
def test_arrays_come_out_as_they_went_in(sets, tmp_path, form):
    images, labels = sets.make_set(150)
    folder = tmp_path / "sent"
    folder.mkdir()
    five = np.concatenate([images, 51 * BRATS[labels][:, None]], axis=1)
    match form:
        case "npy":
            sets.save_arrays(folder, images=images, labels=BRATS[labels].astype(np.int64))
        case "npz":
            np.savez_compressed(folder / "all.npz", images=images, labels=labels, names=np.arange(3))
        case "two npz":
            np.savez_compressed(folder / "images.npz", images)
            np.savez(folder / "labels.npz", labels.astype(np.int16))
        case "channels last":
            sets.save_arrays(folder, images=np.ascontiguousarray(np.moveaxis(images, 1, 3)), labels=labels)
        case "float":
            sets.save_arrays(folder, images=images / np.float32(255), labels=51 * BRATS[labels])
        case "five":
            sets.save_arrays(folder, samples=five)
        case "five float":
            sets.save_arrays(folder, samples=np.moveaxis(five / 255, 1, 3).copy())
        case "five npz":
            np.savez_compressed(folder / "samples.npz", five)
    opened = sets.run(folder, tmp_path / "out")
    sets.assert_holds(opened, images, labels)
    assert opened.meta["format"] == ("arrays of float × 255" if "float" in form else "arrays")
    coded = "five" in form or form == "float"
    assert opened.meta["annotation"] == (TIMES_51 if coded else VALUES).name


def test_empty_slices_of_arrays_are_set_aside_by_their_row(sets, tmp_path):
    images, labels = sets.make_set(100)
    images[70, 3] = 0
    opened = sets.run(sets.save_arrays(tmp_path / "sent", images=images, labels=labels), tmp_path / "out")
    sets.assert_holds(opened, np.delete(images, 70, 0), np.delete(labels, 70, 0))
    assert opened.index["subject"][70] == "images.npy 71"
    assert sets.rejected(tmp_path / "out") == [("images.npy 70", "images.npy", "FLAIR is nowhere above zero")]


def nan(images: np.ndarray) -> np.ndarray:
    floats = images / 255
    floats[1, 0, 5, 5] = np.nan
    return floats


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, s: {"images": i}, "[N, 5, H, W]"),
        (lambda i, s: {"images": i, "annotation": s}, "the arrays images and labels, or one alone, are needed"),
        (lambda i, s: {"images": i[:, :3], "labels": s}, "[N, 4, H, W]"),
        (lambda i, s: {"images": i[:, :, :4], "labels": s[:, :4]}, "size"),
        (lambda i, s: {"images": i[:, :, :4, :4], "labels": s[:, :4, :4]}, "[N, 4, H, W]"),  # which axis are channels?
        (lambda i, s: {"images": i, "labels": s[1:]}, "does not fit that of images.npy"),
        (lambda i, s: {"images": i, "labels": s[..., :8]}, "does not fit that of images.npy"),
        (lambda i, s: {"images": i.astype(np.int16), "labels": s}, "values are int16"),
        (lambda i, s: {"images": i, "labels": s / 2}, "value 0.5 is no whole number"),
        (lambda i, s: {"images": i, "labels": s.astype(int) - 1}, "labels.npy, slice 0: values -1 … 2"),
        (
            lambda i, s: {"images": i.astype(np.float32), "labels": s},
            "images.npy, slice 0: values 0 … 255; floats must",
        ),
        (lambda i, s: {"images": i / 127.5 - 1, "labels": s}, "slice 0: values -1 … 1"),
        (lambda i, s: {"images": nan(i), "labels": s}, "images.npy, slice 1: values nan"),
        (lambda i, s: {"images": np.asfortranarray(i), "labels": s}, "Fortran order"),
        (lambda i, s: {"images": i[:0], "labels": s[:0]}, "nothing usable"),
    ],
)
def test_arrays_that_do_not_say_what_they_are_are_refused(sets, tmp_path, change, message):
    images, labels = sets.make_set(3)
    images[:, :, 2, 3] = 255
    assert message in sets.refused(sets.save_arrays(tmp_path / "sent", **change(images, labels)), tmp_path / "out")


def test_nothing_is_unpickled(sets, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    folder = sets.save_arrays(tmp_path / "sent", labels=sets.make_set(1)[1])
    np.save(folder / "images.npy", np.array([Trap()], object), allow_pickle=True)
    assert "values are object" in sets.refused(folder, tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_arrays_are_refused(sets, tmp_path, compressed):
    images, labels = sets.make_set(70)
    folder = sets.save_arrays(tmp_path / "sent", labels=labels)
    if compressed:
        np.savez_compressed(folder / "images.npz", images)
    else:
        np.save(folder / "images.npy", images)
    (path,) = folder.glob("images.*")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(70,", b"{70,"))  # the header is no Python
    assert compressed or "truncated or unreadable" in sets.refused(folder, tmp_path / "out")
    for cut in (0, 5, 60, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        message = "truncated or unreadable" if cut else "the file is empty (0 bytes)"
        assert message in sets.refused(folder, tmp_path / "out")


def test_memory_does_not_grow_with_the_set(sets, tmp_path):
    def peak(count: int) -> int:
        images, labels = sets.make_set(count, 32)
        folder = tmp_path / str(count)
        folder.mkdir()
        np.savez_compressed(folder / "all.npz", images=images, labels=labels)
        del images, labels
        tracemalloc.start()
        sets.run(folder, tmp_path / f"out{count}", image_size=32)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(1300) - peak(300) < 1000 * 5 * 32 * 32 / 4


# --- ranges ---


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_millionth_above_1_or_below_0_is_rounding(sets, tmp_path, kind):
    images, labels = sets.make_set(3)
    floats = (images / 255).astype(kind)
    floats[images == 255] = 1 + 9e-7
    floats[images == 0] = -9e-7
    folder = sets.save_arrays(tmp_path / "sent", images=floats, labels=labels)
    sets.assert_holds(sets.run(folder, tmp_path / "out"), images, labels)


def test_float16_is_read_as_near_as_it_is(sets, tmp_path):
    images, labels = sets.make_set(3)
    folder = sets.save_arrays(tmp_path / "sent", images=(images / 255).astype(np.float16), labels=labels)
    opened = sets.run(folder, tmp_path / "out")
    expected = np.rint((images / 255).astype(np.float16).astype(np.float64) * 255)
    np.testing.assert_array_equal(opened.images, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 2 - 1, "values -1 … 1; floats must lie in 0 … 1: save (value + 1) / 2"),
        (lambda x: x - 0.5, "values -0.5 … 0.5; floats must lie in 0 … 1: save (value + 1) / 2"),
        (lambda x: x + 2e-6, "values 2e-06 … 1; floats must lie in 0 … 1: save 0 … 255 as uint8"),
        (lambda x: (x - x.mean()) / x.std() * 3, "no z-scores"),
        (lambda x: 4000 * x, "values 0 … 4000; floats must lie in 0 … 1, with 0 outside the head"),
        (lambda x: np.where(x == 1, np.inf, x), "values 0 … inf; NaN and infinite values are no image"),
        (lambda x: (65535 * x).astype(np.uint16), "values are uint16; uint8, or float in 0 … 1, is needed"),
        (lambda x: (127 * x).astype(np.int8), "values are int8; uint8"),
        (lambda x: x > 0.5, "values are bool; uint8"),
        (lambda x: x.astype(complex), "values are complex128; uint8"),
        (lambda x: x.astype("S8"), "values are |S8; uint8"),
    ],
)
@pytest.mark.parametrize("annotation", ["beside", "fifth"])
def test_other_ranges_are_refused_with_what_to_do(sets, tmp_path, change, message, annotation):
    images, labels = sets.make_set(3)
    images[:, :, 2, 3] = 255
    if annotation == "beside":
        folder = sets.save_arrays(tmp_path / "sent", images=change(images / 255), labels=labels)
    else:
        five = np.concatenate([images, 51 * BRATS[labels][:, None]], axis=1)
        folder = sets.save_arrays(tmp_path / "sent", samples=change(five / 255))
    assert message in sets.refused(folder, tmp_path / "out")


# --- files that lie ---


def test_a_header_that_is_no_header_is_not_repeated_in_full(sets, tmp_path):
    folder = sets.save_arrays(tmp_path / "sent", labels=sets.make_set(3)[1])
    header = b"1" * 9000
    (folder / "images.npy").write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    message = sets.refused(folder, tmp_path / "out")
    assert "images.npy: truncated or unreadable: Cannot parse header: '111" in message
    assert len(message) < 600 + len(str(tmp_path))


@pytest.mark.parametrize("compressed", [False, True])
def test_what_the_header_promises_is_compared_with_what_is_there(sets, tmp_path, compressed):
    """Nothing is read: the promised shape would take 4 TB."""
    images, labels = sets.make_set(3)
    folder = sets.save_arrays(tmp_path / "sent", labels=labels)
    np.save(tmp_path / "images.npy", images)
    content = (tmp_path / "images.npy").read_bytes()
    lying = content.replace(b"(3, 4, 16, 16), }" + b" " * 9, b"(3999999999, 4, 16, 16), }", 1)
    assert len(lying) == len(content)
    if compressed:
        with zipfile.ZipFile(folder / "images.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", lying)
    else:
        (folder / "images.npy").write_bytes(lying)
    text = sets.refused(folder, tmp_path / "out")
    assert "3072 of 4095999998976 bytes of values are there" in text


def test_an_npz_bomb_is_refused_by_what_it_declares(sets, tmp_path):
    folder = sets.save_arrays(tmp_path / "sent", labels=np.zeros((70_000, 16, 16), np.uint8))
    np.savez_compressed(folder / "images.npz", np.zeros((70_000, 4, 16, 16), np.uint8))
    assert (folder / "images.npz").stat().st_size < 1 << 20
    assert "images.npz:arr_0.npy: it unpacks to more than 200 times its size" in sets.refused(folder, tmp_path / "out")


def test_a_negative_shape_is_refused(sets, tmp_path):
    images, labels = sets.make_set(3)
    folder = sets.save_arrays(tmp_path / "sent", images=images, labels=labels)
    content = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(content.replace(b"(3, 4, 16, 16), }  ", b"(-3, 4, -16, 16), }", 1))
    assert "its shape is (-3, 4, -16, 16)" in sets.refused(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("pipe", "a named pipe stands where a file should be"),
        ("folder", "a folder stands where a file should be"),
        ("broken link", "a link that leads nowhere"),
        ("device", "a device stands where a file should be"),
        ("LFS", "a Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_what_is_no_file_is_refused_and_never_opened(sets, tmp_path, kind, reason, ending):
    folder = sets.save_arrays(tmp_path / "sent", labels=sets.make_set(3)[1])
    path = folder / f"images.{ending}"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "broken link":
            path.symlink_to("nowhere")
        case "device":
            path.symlink_to("/dev/zero")
        case "LFS":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    text = sets.refused(folder, tmp_path / "out")
    assert f"images.{ending}: {reason}" in text


def test_arrays_that_are_not_read_do_not_matter(sets, tmp_path):
    images, labels = sets.make_set(3)
    folder = sets.save_arrays(tmp_path / "sent", images=images, labels=labels)
    (folder / "notes.npy").write_bytes(b"no array")
    with zipfile.ZipFile(folder / "more.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
        archive.writestr("other.txt", "no array")
    sets.assert_holds(sets.run(folder, tmp_path / "out"), images, labels)
