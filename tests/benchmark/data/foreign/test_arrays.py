"""Arrays: what was put into them is what comes out."""

import tracemalloc
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
