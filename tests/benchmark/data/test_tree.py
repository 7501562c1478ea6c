"""Odd files: the subject is set aside in words that say what to do, the others are found, nothing is ever opened that
could hang."""

import os
import socket

import numpy as np
import pytest

from benchmark.data.cohorts import find, nifti_files
from benchmark.data.tree import walk
from benchmark.errors import UserError


@pytest.fixture
def cohort(tmp_path, nifti):
    """Five subjects, case_0 to case_4."""
    folder = tmp_path / "cohort"
    for number in range(5):
        nifti.write_subject(folder / f"case_{number}", f"case_{number}", seed=number)
    return folder


def set_aside(folder) -> dict[str, tuple[str, str]]:
    return {rejection.subject: (rejection.file, rejection.reason) for rejection in find(folder).rejections}


def replaced(path, make) -> None:
    path.unlink()
    make(path)


def bind(path) -> None:
    os.chdir(path.parent)  # the name of a socket has at most 108 bytes
    socket.socket(socket.AF_UNIX).bind(path.name)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
ANNEX = "../.git/annex/objects/none"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.touch(), "the file is empty (0 bytes)"),
        (lambda path: path.write_text(POINTER), "a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (
            lambda path: path.symlink_to(ANNEX),
            f"a link that leads nowhere: {ANNEX}; its content was not fetched: run `git annex get` or `datalad get`",
        ),
        (
            lambda path: path.write_text("/annex/objects/MD5E-s9--0.nii.gz\n"),
            "a git-annex pointer; its content was not fetched: run `git annex get` or `datalad get`",
        ),
        (lambda path: path.symlink_to("/gone/x.nii.gz"), "a link that leads nowhere: /gone/x.nii.gz"),
        (lambda path: path.symlink_to(path.name), "a link that goes in circles"),
        (lambda path: os.mkfifo(path), "a named pipe stands where a file should be"),
        (bind, "a socket stands where a file should be"),
        (lambda path: path.symlink_to("/dev/zero"), "a device stands where a file should be"),
        (
            lambda path: path.mkdir(),
            "a folder stands where a file should be, with no NIfTI files in it: it must hold one",
        ),
    ],
    ids=["empty", "lfs", "annex", "annex pointer", "broken", "loop", "fifo", "socket", "device", "folder"],
)
@pytest.mark.parametrize("ending", ["t2", "seg"])
def test_a_file_that_is_none_sets_its_subject_aside_in_words(cohort, monkeypatch, make, reason, ending):
    monkeypatch.chdir(cohort)
    replaced(cohort / "case_0" / f"case_0_{ending}.nii.gz", make)
    assert set_aside(cohort) == {"case_0": (f"case_0/case_0_{ending}.nii.gz", reason)}
    assert [subject.name for subject in find(cohort).subjects] == ["case_1", "case_2", "case_3", "case_4"]


def test_what_may_not_be_read_is_set_aside(cohort, monkeypatch):
    closed = str(cohort / "case_1" / "case_1_t1.nii.gz")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != closed)  # root may read everything
    assert set_aside(cohort) == {"case_1": ("case_1/case_1_t1.nii.gz", "cannot be read (Permission denied)")}


def test_a_folder_that_cannot_be_listed_is_set_aside(cohort, monkeypatch):
    def scandir(path, real=os.scandir):
        if str(path).endswith("case_3"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert set_aside(cohort) == {"case_3": ("case_3", "the folder cannot be listed (Permission denied)")}
    assert len(find(cohort).subjects) == 4


def test_a_folder_named_as_a_file_stands_for_the_one_file_in_it(cohort, nifti):
    for ending in ("flair", "seg"):  # as in a mirror of BraTS 2021
        path = cohort / "case_0" / f"case_0_{ending}.nii.gz"
        content = path.read_bytes()
        path.unlink()
        folder = path.with_name(f"case_0_{ending}.nii")
        folder.mkdir()
        (folder / "00000057_brain.nii.gz").write_bytes(content)
        (folder / ".DS_Store").touch()
    found = find(cohort)
    assert found.rejections == []
    assert len(found.subjects) == 5
    files = found.subjects[0].files
    assert [nifti.modality_of(path) for path in files] == ["T1", "T1ce", "T2", "FLAIR", "annotation"]
    assert files[3] == cohort / "case_0" / "case_0_flair.nii" / "00000057_brain.nii.gz"
    (files[3].parent / "another.nii").write_bytes(b"x")
    reason = "a folder stands where a file should be, with 2 NIfTI files in it: it must hold one"
    assert set_aside(cohort) == {"case_0": ("case_0/case_0_flair.nii", reason)}


def test_two_files_for_one_are_both_named(cohort, nifti):
    nifti.save_array(np.zeros((4, 4, 4), np.int16), cohort / "case_2" / "case_2_t1.nii")
    reason = "2 files for T1: case_2/case_2_t1.nii and case_2/case_2_t1.nii.gz. Which one is right? Keep that one only"
    assert set_aside(cohort) == {"case_2": ("case_2/case_2_t1.nii", reason)}


def test_two_files_for_one_in_imagestr(tmp_path, nifti):
    images, labels = nifti.make_subject(0)
    for name in ("a", "b"):
        nifti.save_msd(tmp_path / "msd", name, images, labels)
        nifti.save_nnunet(tmp_path / "nnunet", name, images, labels)
    nifti.save(labels, tmp_path / "msd" / "labelsTr" / "a.nii")
    nifti.save(images[0], tmp_path / "nnunet" / "imagesTr" / "b_0001.nii")
    for layout, name, said in (
        ("msd", "a", "annotation: labelsTr/a.nii and"),
        ("nnunet", "b", "T1ce: imagesTr/b_0001"),
    ):
        ((subject, (_, reason)),) = set_aside(tmp_path / layout).items()
        assert subject == name
        assert reason.startswith(f"2 files for {said}")
        assert len(find(tmp_path / layout).subjects) == 1


def test_a_folder_without_files_among_subjects_is_set_aside(cohort):
    (cohort / "case_7").mkdir()
    (cohort / "case_8" / "old").mkdir(parents=True)
    (cohort / "case_8" / "old" / "t1.dcm").touch()
    (cohort / "case_9").symlink_to("/mnt/gone/case_9")
    (cohort / "case_10").mkdir()
    (cohort / "case_10" / "case_10_mprage.nii.gz").write_bytes(b"x")
    (cohort / "scripts").mkdir()  # no subject by its name
    assert set_aside(cohort) == {
        "case_7": ("case_7", "there is no NIfTI file in the folder"),
        "case_8": ("case_8", "there is no NIfTI file in the folder"),
        "case_9": ("case_9", "a link that leads nowhere: /mnt/gone/case_9"),
        "case_10": ("case_10", "no name in it fits the layout, e.g. case_10_mprage.nii.gz"),
    }


def test_what_is_hidden_is_no_file(cohort):
    content = (cohort / "case_0" / "case_0_t1.nii.gz").read_bytes()
    for path in (
        ".git/annex/objects/X/MD5E--case_9_t1.nii.gz",
        "case_0/._case_0_t1.nii.gz",
        "case_0/.case_0_t1.nii.gz",
        "__MACOSX/case_0/case_0_t1.nii.gz",
        ".Trash-1000/case_9/case_9_t1.nii.gz",
    ):
        (cohort / path).parent.mkdir(parents=True, exist_ok=True)
        (cohort / path).write_bytes(content)
    found = find(cohort)
    assert found.rejections == []
    assert len(found.subjects) == 5
    assert len(list(nifti_files(cohort))) == 25


def test_links_are_followed_once_and_the_real_folder_comes_first(cohort, tmp_path, nifti):
    (cohort / "a_loop").symlink_to(cohort)
    (cohort / "case_0" / "up").symlink_to("..")
    (cohort / "all").mkdir()
    (cohort / "all" / "case_0").symlink_to(cohort / "case_0")
    for name in ("deep", "deeper"):
        (cohort / name).symlink_to(cohort / ("deeper" if name == "deep" else "deep"))
    nifti.write_subject(tmp_path / "store" / "XYZ", "case_5", seed=5)
    (cohort / "case_5").symlink_to(tmp_path / "store" / "XYZ")
    found = find(cohort)
    assert [subject.name for subject in found.subjects] == [f"case_{number}" for number in range(6)]
    assert found.subjects[0].annotation == cohort / "case_0" / "case_0_seg.nii.gz"
    assert found.rejections == []


def test_endings_in_any_case_are_files(tmp_path, nifti):
    for number, suffix in enumerate((".NII.GZ", ".Nii", ".nii.GZ")):
        name = f"Case_{number}"
        for path in nifti.write_subject(tmp_path / name, name, seed=number):
            role = path.name.removeprefix(name).removesuffix(".nii.gz").upper()
            path.rename(path.with_name(f"{name}{role}{suffix}"))
    found = find(tmp_path)
    assert [subject.name for subject in found.subjects] == ["Case_0", "Case_1", "Case_2"]
    assert found.subjects[0].images[0].name == "Case_0_T1.NII.GZ"


def test_too_much_to_search_is_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match="/ is too much to search for a cohort: give the folder that holds its subjects"
    ):
        find("/")
    (tmp_path / "root").symlink_to("/")
    with pytest.raises(UserError, match="too much to search"):
        find(tmp_path / "root")
    monkeypatch.setattr("benchmark.data.tree.MOST_ENTRIES", 9)
    for number in range(10):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(UserError, match="there are more than 9 files and folders"):
        walk(tmp_path)
