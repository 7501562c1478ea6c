"""Sets as people send them: what was put into the files is what comes out, and what cannot be told is refused."""

import csv
import shutil
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from benchmark.data.foreign import importing
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError

SIZE = 16
META = {
    "kind": "synthetic",
    "cohort": "phantom",
    "simulated": True,
    "generator": "sent",
    "spacing": {"sent": [1, 1, 1]},
}
FOLDERS = ("T1", "T1ce", "T2", "FLAIR", "SEG")
BRATS = np.array([0, 1, 2, 4], np.uint8)  # of classes 0–3


def make_set(count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """images uint8 [N, 4, H, W] of a bright square, and labels uint8 [N, H, W] with every class."""
    rng = np.random.default_rng(count)
    images = np.zeros((count, 4, size, size), np.uint8)
    images[:, :, 2:-2, 3:-3] = rng.integers(60, 256, (count, 4, size - 4, size - 6))
    labels = np.zeros((count, size, size), np.uint8)
    labels[:, 4:10, 5:11] = rng.integers(0, 4, (count, 6, 6))
    return images, labels


def save_png(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_folders(folder: Path, images, annotation, names=FOLDERS, pattern="slice_{number:03d}.png") -> Path:
    """`pattern` is filled with number and channel (the folder's name in lower case)."""
    for number, (channels, values) in enumerate(zip(images, annotation, strict=True)):
        for name, pixels in zip(names, (*channels, values), strict=True):
            save_png(pixels, folder / name / pattern.format(number=number, channel=name.lower()))
    return folder


def save_nifti(pixels: np.ndarray, path: Path, flips=(-1, -1), dims: int = 2) -> None:
    """uint8 [H, W] as a NIfTI of stored [x, y]; LPS by default, RAS with flips (1, 1)."""
    stored = pixels.T[:: -flips[0], :: -flips[1]]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(stored if dims == 2 else stored[..., None], np.diag([*flips, 1, 1]).astype(float)), path)


def run(folder: Path, out: Path, image_size: int = SIZE, workers: int = 2) -> SliceSet:
    found = importing.find(folder)
    coding = importing.check(found, image_size, workers, lambda _: None)
    importing.write(found, coding, out, META, image_size=image_size, workers=workers, progress=lambda _: None)
    return SliceSet.open(out)


def refused(folder: Path, out: Path, **options) -> str:
    """The refusal's text; nothing that opens may be left."""
    with pytest.raises(UserError) as error:
        run(folder, out, **options)
    assert not (out / "meta.json").exists()
    assert not list(out.glob("*.partial"))
    return str(error.value)


def rejected(out: Path) -> list[tuple[str, str, str]]:
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return [(row["subject"], row["file"], row["reason"]) for row in csv.DictReader(file)]


def assert_holds(opened: SliceSet, images, labels) -> None:
    np.testing.assert_array_equal(opened.images, images)
    np.testing.assert_array_equal(opened.labels, labels)
    assert set(opened.index["split"]) == {"synthetic"}
    assert set(opened.index["seed"]) == {-1}
    assert opened.index["tumour_pixels"].tolist() == (labels > 0).sum((1, 2)).tolist()


# --- slices in folders ---


@pytest.mark.parametrize(
    ("values", "coding"),
    [(BRATS * 51, "BraTS values × 51, decoded by thresholds"), (BRATS, "BraTS values"), (range(4), "BraTS values")],
)
def test_png_slices_come_out_as_they_went_in(tmp_path, values, coding):
    images, labels = make_set(150)  # more than two batches
    folder = save_folders(tmp_path / "sent", images, np.array(values, np.uint8)[labels])
    opened = run(folder, tmp_path / "out")
    assert_holds(opened, images, labels)
    assert opened.index["subject"].tolist() == [f"slice_{number:03d}" for number in range(150)]
    assert opened.index["off_code"].eq(0).all()
    assert {key: opened.meta[key] for key in META} == META
    assert (opened.meta["format"], opened.meta["annotation"]) == ("PNG slices", coding)
    assert rejected(tmp_path / "out") == []


def test_values_between_the_codes_are_decoded_by_the_studys_thresholds(tmp_path):
    """v = 5 g / 255: above 3.0 ET, 1.5 ED, 0.5 NCR; off code is v farther than 0.25 from 0, 1, 2 and 4."""
    images, _ = make_set(2)
    g = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (2, 1, 1))
    g[0] = np.array([0, 51, 102, 204, 55], np.uint8)[g[0] % 5]
    g[1][(g[1] > 115) & (g[1] < 190)] = 110  # so that most of what is annotated is a code
    opened = run(save_folders(tmp_path / "sent", images, g), tmp_path / "out")
    v = 5 * g.astype(float) / 255
    np.testing.assert_array_equal(opened.labels, np.select([v > 3, v > 1.5, v > 0.5], [3, 2, 1], 0))
    off = np.min([np.abs(v - code) for code in (0, 1, 2, 4)], axis=0) > 0.25
    np.testing.assert_allclose(opened.index["off_code"], off.mean((1, 2)))
    assert opened.index["off_code"][0] == 0 < opened.index["off_code"][1]


@pytest.mark.parametrize(
    "names",
    [
        ("t1", "T1CE", "t2", "flair", "seg"),
        ("T1n", "T1c", "T2w", "T2f", "labels"),
        ("T1", "T1_GD", "T2", "Flair", "Mask"),
    ],
)
def test_folders_are_known_by_several_names(tmp_path, names):
    images, labels = make_set(2)
    folder = save_folders(tmp_path / "sent", images, BRATS[labels], names)
    (folder / "preview").mkdir()
    (folder / "T1CE" if "T1CE" in names else folder / names[0]).joinpath("Thumbs.db").write_bytes(b"x")
    assert_holds(run(folder, tmp_path / "out"), images, labels)


@pytest.mark.parametrize(
    "pattern", ["img_{number}_{channel}.png", "{channel}-{number}.png", "{channel}_{number}.PNG", "seg-{number}.png"]
)
def test_files_pair_up_by_name_whatever_says_the_channel(tmp_path, pattern):
    images, labels = make_set(3)
    folder = save_folders(tmp_path / "sent", images, BRATS[labels], pattern=pattern)
    (folder / "T1" / "._img_1_t1.png").write_bytes(b"what macOS leaves")
    assert_holds(run(folder, tmp_path / "out"), images, labels)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("flips", [(-1, -1), (1, 1), (1, -1)])
def test_nifti_slices_are_turned_as_their_affine_says(tmp_path, dims, flips):
    images, labels = make_set(3)
    for number in range(3):
        for name, pixels in zip(FOLDERS, (*images[number], BRATS[labels[number]]), strict=True):
            save_nifti(pixels, tmp_path / "sent" / name / f"{number}_{name}.nii.gz", flips, dims)
    opened = run(tmp_path / "sent", tmp_path / "out")
    assert_holds(opened, images, labels)
    assert opened.meta["format"] == "NIfTI slices"


def test_nifti_slices_that_are_none_are_refused(tmp_path):
    images, labels = make_set(3)
    folder = tmp_path / "sent"
    for number in range(3):
        for name, pixels in zip(FOLDERS, (*images[number], BRATS[labels[number]]), strict=True):
            save_nifti(pixels, folder / name / f"{number}.nii")
    nib.save(nib.Nifti1Image(images[0, 0].astype(np.float32), np.eye(4)), folder / "T1" / "0.nii")
    nib.save(nib.Nifti1Image(images[0, :3], np.eye(4)), folder / "T2" / "1.nii")
    coronal = nib.Nifti1Image(images[0, 0][..., None], np.eye(4)[[0, 2, 1, 3]])
    nib.save(coronal, folder / "FLAIR" / "2.nii")
    text = refused(folder, tmp_path / "out")
    assert "T1/0.nii: values are float32; 8 bit" in text
    assert "T2/1.nii: shape (3, 16, 16) is not one slice" in text
    assert "FLAIR/2.nii: its slice is not axial" in text


def test_names_that_do_not_pair_up_are_listed(tmp_path):
    images, labels = make_set(30)
    folder = save_folders(tmp_path / "sent", images, BRATS[labels])
    (folder / "T2" / "slice_003.png").unlink()
    (folder / "FLAIR" / "slice_003.png").unlink()
    (folder / "SEG" / "slice_007.png").rename(folder / "SEG" / "other.png")
    text = refused(folder, tmp_path / "out")
    assert "3 problem(s)" in text
    assert "slice_003: no file in T2, FLAIR" in text
    assert "slice_007: no file in SEG" in text
    assert "other: no file in T1, T1ce, T2, FLAIR" in text
    for path in sorted((folder / "T1").iterdir())[:25]:
        path.unlink()
    text = refused(folder, tmp_path / "out")
    assert text.count("\n  ") == 21
    assert "… and 6 more" in text


def test_folders_and_files_that_cannot_be_told_apart_are_refused(tmp_path):
    images, labels = make_set(2)
    good = save_folders(tmp_path / "good", images, BRATS[labels])

    def altered(change) -> str:
        shutil.rmtree(tmp_path / "sent", ignore_errors=True)
        shutil.copytree(good, tmp_path / "sent")
        change(tmp_path / "sent")
        return refused(tmp_path / "sent", tmp_path / "out")

    assert "no folder for SEG" in altered(lambda sent: shutil.rmtree(sent / "SEG"))
    assert "several folders for T1ce: T1c, T1ce" in altered(lambda sent: (sent / "T1c").mkdir())
    assert "PNG and NIfTI are mixed" in altered(lambda sent: save_nifti(images[0, 0], sent / "T2" / "more.nii"))
    assert "have one name" in altered(lambda sent: shutil.copy(sent / "T1/slice_000.png", sent / "T1/slice_000.PNG"))

    def ambiguous(sent):
        (sent / "T1" / "slice_001.png").rename(sent / "T1" / "slice_000_t1.png")

    assert "slice_000.png and slice_000_t1.png differ by the channel's name alone" in altered(ambiguous)


@pytest.mark.parametrize(
    ("mode", "kind"), [("I;16", "16-bit grey"), ("RGB", "8-bit RGB"), ("P", "palette"), ("LA", "alpha"), ("1", "1-bit")]
)
def test_images_that_are_not_8_bit_grey_are_refused(tmp_path, mode, kind):
    images, labels = make_set(3)
    folder = save_folders(tmp_path / "sent", images, BRATS[labels])
    Image.fromarray(images[1, 2]).convert(mode).save(folder / "T2" / "slice_001.png")
    text = refused(folder, tmp_path / "out")
    assert "1 problem(s)" in text
    assert "T2/slice_001.png" in text
    assert kind in text
    assert "8-bit grey is needed" in text


def test_sizes_that_differ_from_the_cohorts_or_within_the_set_are_refused(tmp_path):
    images, labels = make_set(3, 24)
    folder = save_folders(tmp_path / "sent", images, BRATS[labels])
    assert "24 × 24 px, but the cohort is prepared at 16 px: give image_size=24" in refused(folder, tmp_path / "out")
    save_png(images[0, 0, :16, :16], folder / "FLAIR" / "slice_002.png")
    text = refused(folder, tmp_path / "out", image_size=24)
    assert "24 × 24 px: 14 files" in text
    assert "16 × 16 px: 1 files, e.g. FLAIR/slice_002.png" in text

    wide = save_folders(tmp_path / "wide", images[..., :16], BRATS[labels][..., :16])
    assert "no image_size fits" in refused(wide, tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 2, 7), "annotation value 7"),
        ((0, 1, 3, 4), "both there"),
        ((0, 1, 102, 204), "both codings"),
        ((0, 85, 170, 255), "far from every code"),  # × 85
        ((0, 255, 255, 255), "far from every code"),  # a mask
    ],
)
@pytest.mark.parametrize("arrays", [False, True])
def test_annotations_that_decode_to_nothing_are_refused(tmp_path, values, message, arrays):
    images, labels = make_set(3)
    annotation = np.array(values, np.uint8)[labels]
    if arrays:
        (tmp_path / "sent").mkdir()
        np.save(tmp_path / "sent" / "images.npy", images)
        np.save(tmp_path / "sent" / "labels.npy", annotation)
        where = "labels.npy, slice 0"
    else:
        save_folders(tmp_path / "sent", images, annotation)
        where = "SEG/slice_000.png"
    text = refused(tmp_path / "sent", tmp_path / "out")
    assert message in text
    assert where in text


def damage(content: bytes, how: int) -> bytes:
    rng = np.random.default_rng(how)
    if how % 2:
        return content[: rng.integers(0, len(content) - 12)]  # without the end chunk nothing is missing
    flipped = bytearray(content)
    flipped[rng.integers(0, len(content) - 12)] ^= rng.integers(1, 256)
    return bytes(flipped)


def test_damaged_files_are_set_aside_with_their_reason(tmp_path):
    """Cut and flipped at 40 places each; a flip in the header may say another kind or size instead."""
    images, labels = make_set(80)
    folder = save_folders(tmp_path / "sent", images, 51 * BRATS[labels])
    for number in range(40):
        path = folder / FOLDERS[number % 5] / f"slice_{number:03d}.png"
        content = path.read_bytes()
        path.write_bytes(content[:33] + damage(content[33:], number))
    opened = run(folder, tmp_path / "out")
    assert_holds(opened, images[40:], labels[40:])
    found = rejected(tmp_path / "out")
    assert [name for name, *_ in found] == [f"slice_{number:03d}" for number in range(40)]
    assert found[1][1] == "T1ce/slice_001.png"
    assert all(reason.startswith("truncated") for *_, reason in found)


def test_damaged_headers_never_end_in_a_traceback(tmp_path):
    images, labels = make_set(2)
    folder = save_folders(tmp_path / "sent", images, BRATS[labels])
    path = folder / "T1" / "slice_001.png"
    content = path.read_bytes()
    for position in range(33):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            assert len(run(folder, tmp_path / "out")) == 1
        except UserError as error:  # the header says another size or kind
            assert "T1/slice_001.png" in str(error)  # noqa: PT017


def test_empty_slices_are_set_aside_and_empty_sets_refused(tmp_path):
    images, labels = make_set(4)
    images[1, 2] = 0
    images[3] = 0
    folder = save_folders(tmp_path / "sent", images, BRATS[labels])
    opened = run(folder, tmp_path / "out")
    assert_holds(opened, images[[0, 2]], labels[[0, 2]])
    assert rejected(tmp_path / "out") == [
        ("slice_001", "T2/slice_001.png", "T2 is nowhere above zero"),
        ("slice_003", "T1/slice_003.png", "T1 is nowhere above zero"),
    ]
    images[:, 1] = 0
    text = refused(save_folders(tmp_path / "empty", images, BRATS[labels]), tmp_path / "none")
    assert "nothing usable is left of 4. 3 × T1ce is nowhere above zero" in text


def test_a_set_without_any_brain_is_refused(tmp_path):
    images, labels = make_set(3)
    images[:, 0] = np.minimum(images[:, 0], 50)
    folder = save_folders(tmp_path / "sent", images, BRATS[labels])
    assert "no slice shows a brain" in refused(folder, tmp_path / "out")


def test_a_set_without_any_tumour_is_taken(tmp_path):
    images, labels = make_set(3)
    assert_holds(run(save_folders(tmp_path / "sent", images, 0 * labels), tmp_path / "out"), images, 0 * labels)


def test_a_new_import_replaces_what_stands(tmp_path):
    images, labels = make_set(3)
    folder = save_folders(tmp_path / "sent", images, BRATS[labels])
    run(folder, tmp_path / "out")
    assert_holds(run(folder, tmp_path / "out"), images, labels)


# --- arrays ---


def save_arrays(folder: Path, **arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.mark.parametrize("form", ["npy", "npz", "two npz", "channels last", "float", "five", "five float", "five npz"])
def test_arrays_come_out_as_they_went_in(tmp_path, form):
    images, labels = make_set(150)
    folder = tmp_path / "sent"
    folder.mkdir()
    five = np.concatenate([images, 51 * BRATS[labels][:, None]], axis=1)
    match form:
        case "npy":
            save_arrays(folder, images=images, labels=BRATS[labels].astype(np.int64))
        case "npz":
            np.savez_compressed(folder / "all.npz", images=images, labels=labels, names=np.arange(3))
        case "two npz":
            np.savez_compressed(folder / "images.npz", images)
            np.savez(folder / "labels.npz", labels.astype(np.int16))
        case "channels last":
            save_arrays(folder, images=np.ascontiguousarray(np.moveaxis(images, 1, 3)), labels=labels)
        case "float":
            save_arrays(folder, images=images / np.float32(255), labels=51 * BRATS[labels])
        case "five":
            save_arrays(folder, samples=five)
        case "five float":
            save_arrays(folder, samples=np.moveaxis(five / 255, 1, 3).copy())
        case "five npz":
            np.savez_compressed(folder / "samples.npz", five)
    opened = run(folder, tmp_path / "out")
    assert_holds(opened, images, labels)
    assert opened.meta["format"] == ("arrays of float × 255" if "float" in form else "arrays")
    coded = "five" in form or form == "float"
    assert opened.meta["annotation"] == (importing.TIMES_51 if coded else importing.VALUES)


def test_empty_slices_of_arrays_are_set_aside_by_their_row(tmp_path):
    images, labels = make_set(100)
    images[70, 3] = 0
    opened = run(save_arrays(tmp_path / "sent", images=images, labels=labels), tmp_path / "out")
    assert_holds(opened, np.delete(images, 70, 0), np.delete(labels, 70, 0))
    assert opened.index["subject"][70] == "images.npy 71"
    assert rejected(tmp_path / "out") == [("images.npy 70", "images.npy", "FLAIR is nowhere above zero")]


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
        (lambda i, s: {"images": i, "labels": s.astype(float)}, "values are float64; whole numbers"),
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
def test_arrays_that_do_not_say_what_they_are_are_refused(tmp_path, change, message):
    images, labels = make_set(3)
    images[:, :, 2, 3] = 255
    assert message in refused(save_arrays(tmp_path / "sent", **change(images, labels)), tmp_path / "out")


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    folder = save_arrays(tmp_path / "sent", labels=make_set(1)[1])
    np.save(folder / "images.npy", np.array([Trap()], object), allow_pickle=True)
    assert "values are object" in refused(folder, tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_arrays_are_refused(tmp_path, compressed):
    images, labels = make_set(70)
    folder = save_arrays(tmp_path / "sent", labels=labels)
    if compressed:
        np.savez_compressed(folder / "images.npz", images)
    else:
        np.save(folder / "images.npy", images)
    (path,) = folder.glob("images.*")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(70,", b"{70,"))  # the header is no Python
    assert compressed or "truncated or unreadable" in refused(folder, tmp_path / "out")
    for cut in (0, 5, 60, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        assert "truncated or unreadable" in refused(folder, tmp_path / "out")


def test_memory_does_not_grow_with_the_set(tmp_path):
    def peak(count: int) -> int:
        images, labels = make_set(count, 32)
        folder = tmp_path / str(count)
        folder.mkdir()
        np.savez_compressed(folder / "all.npz", images=images, labels=labels)
        del images, labels
        tracemalloc.start()
        run(folder, tmp_path / f"out{count}", image_size=32)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(1300) - peak(300) < 1000 * 5 * 32 * 32 / 4


# --- volumes ---


def test_volumes_give_their_slices_with_enough_brain(tmp_path, nifti):
    """The field of view is 26 of the volume's pixels wide: padded by one, nothing is resized."""
    content = {f"s{n}": nifti.make_subject(n) for n in range(2)}
    for name, (images, labels) in content.items():
        nifti.save_brats(tmp_path / "sent", name, images, labels)
    twin = tmp_path / "sent" / "s2"  # a generator that gives the same twice is not helped by hiding it
    for path in shutil.copytree(tmp_path / "sent" / "s0", twin).iterdir():
        path.rename(twin / path.name.replace("s0", "s2"))
    nifti.save_brats(tmp_path / "sent", "s3", 0 * content["s0"][0], content["s0"][1])
    nifti.save_brats(tmp_path / "sent", "s4", *content["s0"])
    (tmp_path / "sent" / "s4" / "s4_flair.nii.gz").unlink()

    opened = run(tmp_path / "sent", tmp_path / "out", image_size=26, workers=1)
    expected_images, expected_labels, subjects, z = [], [], [], []
    for name in ("s0", "s1", "s2"):
        images, labels = content[name.replace("s2", "s0")]
        images = np.rint(images * 255.0 / images.max((1, 2, 3), keepdims=True)).astype(np.uint8)
        pad = [(0, 0)] * 2 + [(1, 1)] * 2
        kept = [n for n in range(len(labels)) if (images[0, n] > 50).sum() > 0.15 * 26 * 26]
        expected_images.append(np.pad(images, pad)[:, kept].swapaxes(0, 1))
        expected_labels.append(np.pad(labels, pad[1:])[kept])
        subjects += [name] * len(kept)
        z += kept
    assert 0 < len(z) < 30
    assert_holds(opened, np.concatenate(expected_images), np.concatenate(expected_labels))
    assert opened.index["subject"].tolist() == subjects
    assert opened.index["z"].tolist() == z
    assert opened.meta["format"] == "NIfTI volumes"
    reasons = {name: reason for name, _, reason in rejected(tmp_path / "out")}
    assert reasons == {"s3": "T1 is nowhere above zero: there is no brain in it", "s4": "FLAIR is missing"}
    assert not list((tmp_path / "out").glob("subjects*"))


# --- what is none of them ---


def test_other_folders_are_refused_with_what_is_known(tmp_path):
    (tmp_path / "T1").mkdir()
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert not importing.recognised(folder)
        with pytest.raises(UserError, match=r"no synthetic set was recognised.*T1ce.*NIfTI volumes.*images\.npy"):
            importing.find(folder)


def test_a_slice_set_is_not_imported_again(tmp_path):
    images, labels = make_set(3)
    run(save_arrays(tmp_path / "sent", images=images, labels=labels), tmp_path / "out")
    assert importing.is_slice_set(tmp_path / "out")
    assert not importing.is_slice_set(tmp_path / "sent")
    with pytest.raises(UserError, match="is a SliceSet already"):
        importing.find(tmp_path / "out")
