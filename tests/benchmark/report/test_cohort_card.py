import base64
import csv
import io
import json
import re
from html import unescape

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from benchmark.data import cohorts, preparation
from benchmark.data.slices import SliceWriter
from benchmark.report.cohort_card import write_card

SIZE = 32
HOSTILE = "<script>alert('x')</script>$\\frac{$\u202e"
ET_YELLOW = (0xF0, 0xE4, 0x42)


def a_slice(seed):
    """images uint8 [4, S, S] of a head, labels uint8 [S, S] of three nested classes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    head = (x / (0.6 + 0.15 * y)) ** 2 + (y / 0.9) ** 2 < 1
    images = (head * rng.normal([[[100]], [[120]], [[140]], [[160]]], 8, (4, SIZE, SIZE))).clip(0, 255)
    radius = np.hypot(x - 0.2, y + 0.3)
    return images.astype(np.uint8), np.select([radius < 0.15, radius < 0.25, radius < 0.4], [1, 3, 2], 0).astype(
        np.uint8
    )


def facts(name, patient=None, **changed):
    """A subject of cohort.json."""
    counts = [200, 0, 10, 40, 30, *[0] * 27]
    histogram = {"edges": np.linspace(0, 640, 33).tolist(), "counts": counts}
    modality = {"min": 0.0, "max": 640.0, "negative_share": 0.0, "histogram": histogram}
    return {
        "subject": name,
        "patient": patient or name,
        "orientation": "LPS",
        "shape": [240, 240, 155],
        "voxel_mm": [1.0, 1.0, 1.0],
        "class_ml": {"NCR": 5.0, "ED": 40.0, "ET": 10.0},
        "label_values": {"1": 5000, "2": 40000, "4": 10000},
        "modalities": dict.fromkeys(("T1", "T1ce", "T2", "FLAIR"), modality),
        **changed,
    }


def prepared(folder, subjects, rejected=(), simulated=False, empty=(), cohort="clinic", **found):
    """A folder as the stage prepare leaves it, with four slices of each subject; `empty` have no annotation."""
    meta = {"kind": "real", "cohort": cohort, "simulated": simulated, "spacing": {}}
    with SliceWriter(folder, SIZE, meta) as writer:
        for number, subject in enumerate(subjects):
            images, labels = a_slice(number)
            images, labels = np.stack([images] * 4), np.stack([labels * wanted for wanted in (0, 1, 0, 0)])
            if subject["subject"] in empty:
                labels[:] = 0
            split = ("train", "train", "validation", "test")[number % 4]
            writer.append(images, labels, subject=subject["subject"], z=[10, 11, 12, 13], split=split)
    groups = {}
    for subject in subjects:
        groups.setdefault(subject["patient"], []).append(subject["subject"])
    classes = {"0": "background", "1": "NCR", "2": "ED", "4": "ET"}
    labels = {"name": "brats2020", "classes": classes, "note": ""}
    card = {
        "layout": "brats2021",
        "labels": labels,
        "absent_classes": [],
        "subjects": subjects,
        "groups": groups,
        "similar": [],
    }
    (folder / "cohort.json").write_text(json.dumps({**card, **found}))
    with (folder / "rejected.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("subject", "file", "reason"), *rejected])
    return folder


def card(folder, warnings=()):
    path = write_card(folder, warnings)
    assert path == folder / "cohort.html"
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is fetched
    return page


def words(page, what=r"<body>.*</body>"):
    """What a reader reads of a part of the page."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", re.search(what, page, re.DOTALL)[0])).split())


def warned(page):
    """The lines of the box at the top."""
    return [words(line, ".*") for line in re.findall(r"<li>.*?</li>", page.partition("</header>")[0])]


def tiles(page):
    """(caption, RGB uint8 [H, W, 3], {edge: letter}) of the mosaic."""
    found = []
    for figure in re.findall(r"<figure[^>]*>\s*<div class=\"slice\">.*?</figure>", page, re.DOTALL):
        png = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', figure)[1])
        letters = dict(re.findall(r'<span class="(\w+)">(\w)</span>', figure))
        caption = words(figure, r"<figcaption>.*</figcaption>")
        found.append((caption, np.array(Image.open(io.BytesIO(png)).convert("RGB")), letters))
    return found


def many(count, **changed):
    return [facts(f"case_{number:02d}", **changed) for number in range(count)]


def test_words_at_the_top_and_as_detected(tmp_path):
    subjects = [facts("a_1", "a"), facts("a_2", "a"), facts("b"), facts("c", orientation="RAS", voxel_mm=[1, 1, 2.5])]
    page = card(prepared(tmp_path, subjects, [("d", "d/d_t1.nii", "T1 is missing")]))
    assert words(page, r'<p class="headline">.*?</p>') == "4 subjects of 3 patients read, 1 set aside"
    read = words(page, r'<section id="read">.*?</section>')
    for part in (
        "layout brats2021",
        "orientation as stored LPS (3), RAS (1)",
        "voxel size [mm] 1 × 1 × 1 (3), 1 × 1 × 2.5 (1)",
        "voxels 240 × 240 × 155 slices",
        "slices as used 32 × 32 pixels",
        "Labels: brats2020 Value Means In subjects Voxels 1 NCR 4 20,000 2 ED 4 160,000 4 ET 4 40,000",
        "Split Subjects Patients Slices train 2 1 8 validation 1 1 4 test 1 1 4",
        "1 patient with several scans. All scans of a patient stand in one split.",
        "patients and their scans a : a_1 , a_2",
    ):
        assert part in read
    assert warned(page) == ["Set aside: d: T1 is missing", "Scanned several times, all scans in one split: a"]
    assert "simulated" not in words(page).lower()


def test_a_simulated_cohort_says_so_everywhere(tmp_path):
    page = card(prepared(tmp_path, many(4), simulated=True))
    assert "none is a patient" in words(page, "<header>.*</header>")
    headings = re.findall(r"<h[12]>.*?</h[12]>", page)
    assert len(headings) > 1
    assert all("simulated" in words(heading, ".*") for heading in headings)


def test_reasons_are_counted_by_kind_and_unfold_to_every_subject(tmp_path):
    rejected = [(f"s{n}", f"s{n}.nii", f"shape ({n}, 2, 3) differs") for n in range(7)] + [
        ("t", "t.nii", "is a folder")
    ]
    page = card(prepared(tmp_path, many(4), rejected))
    aside = words(page, r'<div id="aside".*?</table>')
    assert "7 shape (0, 2, 3) differs (of s0 ; the others alike) subjects and files s0 : s0.nii" in aside
    assert "s6 : s6.nii: shape (6, 2, 3) differs 1 is a folder subject and file t : t.nii" in aside
    assert warned(page)[0] == "Set aside: s0, s1, s2, s3, s4 and 2 others: shape (0, 2, 3) differs"


def test_names_are_data(tmp_path):
    subjects = [facts(HOSTILE, class_ml={"NCR": 5.0, "ED": 90000.0, "ET": 10.0}), *many(7)]
    rejected = [("<b>bold</b>", "<i>x</i>", "holds <img src=http://x> & more")]
    page = card(prepared(tmp_path, subjects, rejected, cohort="<style>*{display:none}"), [f"{HOSTILE}: 3 voxels"])
    assert "<img src=http" not in page
    assert "<b>bold" not in page
    assert "\u202e" not in page
    assert "<style>*{display" not in page
    assert "holds <img src=http://x> & more" in words(page)
    assert "<script>alert('x')</script>$\\frac{$‹U+202E›" in words(page)


def test_warnings_about_all_come_first_and_those_alike_are_one_line(tmp_path):
    said = [f"case_{n:02d}: {100 + n} voxels lie outside" for n in range(7)]
    said += ["no subject has ET. Is that right?", "case_00: spike in T2"]
    found = warned(card(prepared(tmp_path, many(8)), said))
    assert found == [
        "No subject has ET. Is that right?",
        "case_00, case_01, case_02, case_03, case_04 and 2 others: 100 voxels lie outside "
        "(of the first; the others alike)",
        "case_00: spike in T2",
    ]


def test_outliers_are_named_first_and_framed(tmp_path):
    subjects = many(40)
    subjects[33] = facts("case_33", class_ml={"NCR": 5.0, "ED": 40.0, "ET": 0.0})
    subjects[35] = facts("case_35", class_ml={"NCR": 5.0, "ED": 4000.0, "ET": 10.0})
    subjects[37] = facts("case_37", class_ml={"NCR": 0.0, "ED": 0.0, "ET": 0.0})
    page = card(prepared(tmp_path, subjects, empty=["case_37"]))
    assert warned(page) == [
        "No tumour at all, in 1 of 40 subjects: case_37",
        "ET absent in 1 of 40 subjects: case_33",
        "ED far larger than usual in 1 of 40 subjects: case_35",
    ]
    captions = [caption for caption, *_ in tiles(page)]
    assert captions[:3] == ["case_37 , z 12 no tumour", "case_33 , z 11 ET absent", "case_35 , z 11 ED far larger"]
    assert len(captions) == 24
    assert captions[3] == "case_00 , z 11"
    assert captions[-1] == "case_39 , z 11"
    assert page.count('<figure class="far">') == 3
    assert "case_35 ED far larger 4,000 40" in words(page, r'<section id="numbers">.*?</section>')


def test_pairs_that_look_alike_stand_side_by_side(tmp_path):
    page = card(prepared(tmp_path, many(8), similar=[["case_02", "case_06", 0.9], ["case_02", "case_05", 0.8]]))
    assert [caption for caption, *_ in tiles(page)][:3] == [
        "case_02 , z 11 like case_06?, like case_05?",
        "case_06 , z 11 like case_02?",
        "case_05 , z 11 like case_02?",
    ]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_subjects_without_any_tumour(tmp_path, count):
    nothing = {"class_ml": {"NCR": 0.0, "ED": 0.0, "ET": 0.0}, "label_values": {}}
    page = card(prepared(tmp_path, many(count, **nothing), empty=[f"case_{n:02d}" for n in range(count)]))
    assert f"{count} subject" in words(page, r'<p class="headline">.*?</p>')
    assert len(tiles(page)) == count
    assert all(caption.endswith("no tumour") for caption, *_ in tiles(page))
    assert "1 NCR 0 0 2 ED 0 0 4 ET 0 0" in words(page)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR"])
def test_a_tumour_stands_on_its_labelled_side(tmp_path, axes):
    """The tumour lies to the patient's left and in front, in the world coordinates of NIfTI: x < 0 and y > 0."""
    voxels = (20, 24, 12)
    affine = np.diag([10.0, 9.0, 10.0, 1.0])
    affine[:3, 3] = -95, -103, -55
    world = np.stack(np.meshgrid(*(np.arange(n) for n in voxels), indexing="ij"), -1) * [10, 9, 10] + affine[:3, 3]
    head = (np.abs(world) / [80, 95, 50] < 1).all(axis=-1)
    tumour = (np.abs(world - [-35, 55, 0]) < [20, 20, 30]).all(axis=-1)
    rng = np.random.default_rng(0)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axes))
    )
    for number in range(4):
        for ending in ("t1", "t1ce", "t2", "flair", "seg"):
            grey = head * rng.integers(300, 900, voxels)
            volume = (4 * tumour if ending == "seg" else grey).astype(np.int16)
            path = tmp_path / "in" / f"p{number}" / f"p{number}_{ending}.nii"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume, affine).as_reoriented(turn), path)
    result = preparation.prepare(cohorts.find(tmp_path / "in"), tmp_path / "out", image_size=SIZE)
    (tmp_path / "out" / "cohort.json").write_text(json.dumps(result.cohort))
    page = card(tmp_path / "out", result.warnings)

    assert f"orientation as stored {axes}" in words(page)
    for _, picture, letters in tiles(page):
        assert letters == {"top": "A", "bottom": "P", "left": "R", "right": "L"}
        rows, columns = np.nonzero((picture == ET_YELLOW).all(axis=-1))
        assert rows.max() < picture.shape[0] / 2
        assert columns.min() > picture.shape[1] / 2


def test_a_large_cohort_without_fault_is_a_small_page_that_says_so(tmp_path):
    page = card(prepared(tmp_path, many(1251)))
    assert "1,251 subjects of 1,251 patients read, 0 set aside" in words(page)
    assert "24 of 1,251 subjects" in words(page)
    assert warned(page) == []
    assert "Nothing unusual was found" in words(page, "<header>.*</header>")
    assert len(page) < 3e6
