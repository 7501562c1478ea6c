"""Names of other collections: which file is which modality is told by the grey levels that were written."""

import pytest

from benchmark.data.cohorts import find
from benchmark.data.named import recognise
from benchmark.errors import UserError

MODALITIES = ["T1", "T1ce", "T2", "FLAIR", "annotation"]


def endings(*given):
    return tuple(f"_{ending}" for ending in given)


UCSF = endings("T1", "T1c", "T2", "FLAIR", "tumor_segmentation")
COLLECTIONS = {
    "UCSF-PDGM": ("UCSF-PDGM-{:04d}", "{name}_nifti", UCSF),
    "UPENN-GBM": (
        "UPENN-GBM-{:05d}_11",
        "",
        (
            *(f"images_structural/{{name}}/{{name}}_{modality}" for modality in ("T1", "T1GD", "T2", "FLAIR")),
            "images_segm/{name}_segm",
        ),
    ),
    "TCGA": (
        "TCGA-02-{:04d}_1997.06.08",
        "TCGA-GBM/{name}",
        endings("t1", "t1Gd", "t2", "flair", "GlistrBoost_ManuallyCorrected"),
    ),
    "UCSD-PTGBM": ("UCSD-PTGBM-{:04d}_01", "{name}", endings("T1pre", "T1post", "T2", "FLAIR", "BraTS_tumor_seg")),
    "flat": ("case{:02d}", "", ("-T1W", "-T1-Post", "-T2W", "-T2-FLAIR", "-Tumour-Seg")),
    "spaces": ("case {:02d}", "{name}", (" T1", " T1 GD", " T2", " FLAIR", " segmentation")),
    "BIDS": (
        "sub-{:02d}",
        "",
        (
            *(f"{{name}}/anat/{{name}}_{ending}" for ending in ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR")),
            "derivatives/{name}/{name}_dseg",
        ),
    ),
    "folders": ("patient{:02d}", "", tuple(f"{{name}}/{role}" for role in ("T1", "t1c", "T2", "flair", "seg"))),
    "BraTS, underscores": ("BraTS-GLI-{:05d}-000", "{name}", endings("t1n", "t1c", "t2w", "t2f", "seg")),
}


def write(nifti, folder, collection, subjects=3):
    name, place, ends = COLLECTIONS[collection]
    names = [name.format(number) for number in range(subjects)]
    for seed, name in enumerate(names):
        nifti.write_subject(folder / place.format(name=name), name, ends, seed)
    return names


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_other_collections_are_read(tmp_path, nifti, collection):
    names = write(nifti, tmp_path, collection)
    for layout in ("auto", "named"):
        cohort = find(tmp_path, layout)
        assert (cohort.layout, cohort.rejections, cohort.notes) == ("named", [], ())
        assert [subject.name for subject in cohort.subjects] == names
        for subject in cohort.subjects:
            assert [nifti.modality_of(path) for path in subject.files] == MODALITIES
            folders = {part for path in subject.files for part in path.relative_to(tmp_path).parts[:-1]}
            assert all(other not in " ".join(folders) for other in names if other != subject.name)


@pytest.mark.parametrize("prefix", ["BraTS-GLI", "BraTS-SSA", "BraTS-MEN", "BraTS-MET", "BraTS-PED"])
def test_every_brats_of_2023_is_that_layout(tmp_path, nifti, prefix):
    for number in range(3):
        name = f"{prefix}-{number:05d}-000"
        nifti.write_subject(tmp_path / name, name, ("-t1n", "-t1c", "-t2w", "-t2f", "-seg"), number, et=3)
    cohort = find(tmp_path)
    assert (cohort.layout, len(cohort.subjects), cohort.rejections) == ("brats2023", 3, [])
    assert [nifti.modality_of(path) for path in cohort.subjects[0].files] == MODALITIES


def test_what_lies_beside_is_left(tmp_path, nifti):
    """UCSF-PDGM's and UCSD-PTGBM's other files, one of which ends as annotations do."""
    others = ("T1_bias", "T1c_bias", "T2_bias", "FLAIR_bias", "SWI", "DWI", "ADC", "ASL", "DTI_eddy_FA",
              "brain_segmentation", "brain_parenchyma_segmentation")  # fmt: skip
    beside = {"UCSF-PDGM": others, "UCSD-PTGBM": ("total_cellular_tumor_seg", "brain_mask", "RSI_C1", "T1pre_bet")}
    for collection, extra in beside.items():
        names = write(nifti, tmp_path / collection, collection)
        for path in list((tmp_path / collection).rglob("*_FLAIR.nii.gz")):
            for ending in extra:
                path.with_name(path.name.replace("FLAIR", ending)).write_bytes(b"of no interest")
        cohort = find(tmp_path / collection)
        assert (cohort.rejections, [subject.name for subject in cohort.subjects]) == ([], names)
        for subject in cohort.subjects:
            assert [nifti.modality_of(path) for path in subject.files] == MODALITIES


def test_of_two_annotations_the_corrected_one_is_taken_and_said(tmp_path, nifti):
    write(nifti, tmp_path / "upenn", "UPENN-GBM", 4)
    write(nifti, tmp_path / "tcga", "TCGA", 2)
    for path in (tmp_path / "upenn" / "images_segm").glob("*_segm.nii.gz"):
        automated = path.parents[1] / "automated_segm" / path.name.replace("_segm", "_automated_approx_segm")
        automated.parent.mkdir(exist_ok=True)
        automated.write_bytes(b"automated")
    for path in (tmp_path / "tcga").rglob("*_ManuallyCorrected.nii.gz"):
        path.with_name(path.name.replace("_ManuallyCorrected", "")).write_bytes(b"automated")
    (tmp_path / "upenn" / "images_segm" / "UPENN-GBM-00003_11_segm.nii.gz").unlink()

    cohort = find(tmp_path / "upenn")
    assert [subject.annotation.name for subject in cohort.subjects] == [
        *(f"UPENN-GBM-0000{number}_11_segm.nii.gz" for number in range(3)),
        "UPENN-GBM-00003_11_automated_approx_segm.nii.gz",
    ]
    assert cohort.notes == (
        "1 subject(s) have only *_automated_approx_segm, an annotation that was not corrected by hand",
        "3 subject(s) have two annotations: *_segm is read, *_automated_approx_segm is left",
    )
    cohort = find(tmp_path / "tcga")
    assert {subject.annotation.name.partition("08_")[2] for subject in cohort.subjects} == {
        "GlistrBoost_ManuallyCorrected.nii.gz"
    }


def test_two_names_for_one_modality_are_refused_by_name(tmp_path, nifti):
    write(nifti, tmp_path, "UCSF-PDGM")
    folder = tmp_path / "UCSF-PDGM-0001_nifti"
    (folder / "UCSF-PDGM-0001_T1gd.nii.gz").write_bytes(b"x")
    cohort = find(tmp_path)
    ((subject, reason),) = [(rejection.subject, rejection.reason) for rejection in cohort.rejections]
    assert subject == "UCSF-PDGM-0001"
    assert "2 files for T1ce" in reason
    assert "_T1c.nii.gz and " in reason
    assert "_T1gd.nii.gz" in reason
    assert len(cohort.subjects) == 2


def test_one_name_in_two_folders_is_two_subjects(tmp_path, nifti):
    for grade, seed in (("HGG", 0), ("LGG", 1)):
        nifti.write_subject(tmp_path / grade / "a", "a", UCSF, seed)
    cohort = find(tmp_path)
    assert [subject.name for subject in cohort.subjects] == ["HGG/a/a", "LGG/a/a"]
    for subject in cohort.subjects:
        assert len({path.parent for path in subject.files}) == 1


def test_names_that_say_too_little_are_listed_with_what_they_would_have_to_be_called(tmp_path, nifti):
    for number in range(3):
        nifti.write_subject(
            tmp_path / f"p{number}", f"p{number}", endings("mprage", "gado", "T2", "FLAIR", "roi"), number
        )
    with pytest.raises(UserError) as caught:
        find(tmp_path)
    for said in (
        "15 NIfTI files", "3 × _mprage (unknown)", "3 × _gado (unknown)", "3 × _T2 (T2)", "3 × _FLAIR (FLAIR)",
        "3 × _roi (unknown)", "T1ce: T1ce, T1c, T1Gd or T1post", "annotation: seg, segm,", "layout=FILE.yaml",
    ):  # fmt: skip
        assert said in str(caught.value)


def test_incomplete_subjects_of_other_collections_are_set_aside(tmp_path, nifti):
    write(nifti, tmp_path, "UPENN-GBM", 4)
    (tmp_path / "images_segm" / "UPENN-GBM-00000_11_segm.nii.gz").unlink()
    (tmp_path / "images_structural" / "UPENN-GBM-00001_11" / "UPENN-GBM-00001_11_T1GD.nii.gz").unlink()
    cohort = find(tmp_path)
    assert [(rejection.subject, rejection.reason) for rejection in cohort.rejections] == [
        ("UPENN-GBM-00000_11", "no annotation"),
        ("UPENN-GBM-00001_11", "T1ce is missing"),
    ]


def test_where_other_names_would_complete_more_it_is_said(tmp_path, nifti):
    """A cohort of two sites: the layout of one is found, and the other's subjects are set aside."""
    for number in range(2):
        nifti.write_subject(tmp_path / f"a{number}", f"a{number}", seed=number)
        nifti.write_subject(tmp_path / f"b{number}", f"b{number}", UCSF, 2 + number)
    cohort = find(tmp_path)
    assert (cohort.layout, [subject.name for subject in cohort.subjects]) == ("brats2020", ["a0", "a1"])
    assert {rejection.reason for rejection in cohort.rejections} == {"T1ce is missing, no annotation"}
    assert cohort.notes == ("2 subject(s) are complete in the layout brats2020, 4 would be with layout=named",)
    cohort = find(tmp_path, "named")
    assert [subject.name for subject in cohort.subjects] == ["a0", "a1", "b0", "b1"]
    for subject in cohort.subjects:
        assert [nifti.modality_of(path) for path in subject.files] == MODALITIES


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UCSF-PDGM-0004_T1", ("UCSF-PDGM-0004", "T1")),
        ("UPENN-GBM-00001_11_T1GD", ("UPENN-GBM-00001_11", "T1ce")),
        ("x_T2_FLAIR", ("x", "FLAIR")),
        ("x_t1_post", ("x", "T1ce")),
        ("x_CT1", ("x", "T1ce")),
        ("x_T1_bias", None),
        ("x_T1_unstripped", None),
        ("x_brain_mask", None),
        ("T1", ("", "T1")),
        ("x_DTI_FA", None),
        ("at1", None),
        ("reseg", None),
    ],
)
def test_endings_are_whole_words(name, meant):
    assert recognise(name) == meant
