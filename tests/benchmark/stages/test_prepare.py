"""What a cohort is known by: exactly the files that are read, and those subjects that were set aside."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmark.data.cohorts import find
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import fingerprint, prepare
from benchmark.table.cells import jobs


def mark(work, data, **given) -> str:
    return fingerprint(
        "prepare", parse("prepare", {"preset": "smoke", "work_dir": str(work), "data": str(data), **given})
    )


def write_subject(folder, name, seed=0):
    """Five files, which nothing here reads as images."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("t1", "t1ce", "t2", "flair", "seg"):
        (folder / f"{name}_{ending}.nii.gz").write_text(f"{ending} of {seed}")


def test_calls_that_share_a_phantom_write_it_one_after_the_other(tmp_path, monkeypatch):
    """Each removes what it takes for the other's leftovers."""
    inside, most = [], []

    def write_cohort(folder, *_):
        inside.append(folder)
        most.append(len(inside))
        time.sleep(0.1)
        inside.pop()

    monkeypatch.setattr(prepare.phantom, "write_cohort", write_cohort)
    sizes = ({"preset": "smoke", "work_dir": str(tmp_path), "image_size": size} for size in ("16", "32"))
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(prepare._write_phantom, [parse("prepare", keys) for keys in sizes])
    assert first == second
    assert most == [1, 1]


@pytest.fixture
def site(tmp_path):
    """Call it with a name and a first seed for a folder `glioma` of five links to subjects."""

    def make(name, first):
        folder = tmp_path / name / "glioma"
        folder.mkdir(parents=True)
        for number in range(5):
            subject = f"case_{number}"
            write_subject(tmp_path / name / "store" / subject, subject, first + number)
            (folder / subject).symlink_to(tmp_path / name / "store" / subject)
        return folder

    return make


def test_two_sites_of_one_name_are_two_cohorts_unless_every_file_is_the_same(tmp_path, site):
    a, b = site("a", 0), site("b", 100)
    assert mark(tmp_path / "work", a) != mark(tmp_path / "work", b)
    shutil.copytree(a, tmp_path / "c" / "glioma")  # the links' content
    assert mark(tmp_path / "work", tmp_path / "c" / "glioma") == mark(tmp_path / "work", a)


def test_what_is_hashed_is_what_is_read(tmp_path, site):
    """Every file that is read changes the fingerprint, within one process too; no other does."""
    folder = site("a", 0)
    before = mark(tmp_path / "work", folder)
    for path in find(folder).files:
        content, times = path.read_bytes(), path.stat()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a careful copy leaves them
        assert mark(tmp_path / "work", folder) != before, path
        path.write_bytes(content)
        assert mark(tmp_path / "work", folder) == before
    for other in ("notes.txt", "case_0/case_0_t1_bias.nii.gz", "case_1/._case_1_t1.nii.gz", ".git/x_t1.nii.gz"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_bytes(b"x")
        assert mark(tmp_path / "work", folder) == before, other


def test_roles_names_and_what_is_set_aside_belong_to_it(tmp_path, site):
    folder = site("a", 0)
    work, seen = tmp_path / "work", []
    seen.append(mark(work, folder))
    t1, t2 = (folder / "case_0" / f"case_0_{ending}.nii.gz" for ending in ("t1", "t2"))
    t1.rename(folder / "x")  # the same files, each in the other's role
    t2.rename(t1)
    (folder / "x").rename(t2)
    seen.append(mark(work, folder))
    (folder / "case_4").rename(folder / "case_5")  # the link's name is the subject's
    seen.append(mark(work, folder))
    (folder / "case_6").mkdir()
    seen.append(mark(work, folder))
    t1.unlink()
    seen.append(mark(work, folder))
    t1.touch()
    seen.append(mark(work, folder))
    assert len(set(seen)) == len(seen)


def test_endings_in_any_case_and_dataset_json_belong_to_it(tmp_path):
    work, nnunet = tmp_path / "work", tmp_path / "nnunet"
    write_subject(tmp_path / "upper" / "a", "a")
    for path in list((tmp_path / "upper" / "a").iterdir()):
        path.rename(path.with_name(path.name.upper()))
    names = {"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}}
    names["labels"] = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    for path in ("dataset.json", *(f"imagesTr/a_000{channel}.nii" for channel in range(4)), "labelsTr/a.nii"):
        (nnunet / path).parent.mkdir(parents=True, exist_ok=True)
        (nnunet / path).write_text(json.dumps(names))
    for folder, file in ((tmp_path / "upper", "a/A_SEG.NII.GZ"), (nnunet, "dataset.json"), (nnunet, "labelsTr/a.nii")):
        before = mark(work, folder)
        (folder / file).write_bytes((folder / file).read_bytes() + b" ")
        assert mark(work, folder) != before, file


def test_the_layout_found_and_the_layout_named_are_one(tmp_path, site):
    folder = site("a", 0)
    assert mark(tmp_path / "work", folder) == mark(tmp_path / "work", folder, layout="brats2020")
    endings = {"T1": "t1", "T1ce": "t1ce", "T2": "t2", "FLAIR": "flair", "annotation": "seg"}
    seen = set()
    for patterns in (endings, endings | {"T1": "t2", "T2": "t1"}):
        lines = [f"{role}: '{{subject}}/{{subject}}_{ending}.nii.gz'" for role, ending in patterns.items()]
        (tmp_path / "mine.yaml").write_text("\n".join(lines))
        seen.add(mark(tmp_path / "work", folder, layout=str(tmp_path / "mine.yaml")))
    assert len(seen) == 2


def test_a_table_looks_at_a_cohort_once(tmp_path, site, monkeypatch):
    looks = []
    monkeypatch.setattr(prepare.cohorts, "find", lambda *given: looks.append(given) or find(*given))
    given = {"preset": "smoke", "work_dir": str(tmp_path / "work"), "data": str(site("a", 0)), "repeats": "3"}
    assert len(jobs(parse("benchmark", given))) > 20
    assert len(looks) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "none"}, "'none' does not exist"),
        ({"data": "x" * 300}, "data is longer than"),
        ({"data": "/"}, "too much to search"),
        ({"split": "/dev/zero"}, "split.*/dev/zero"),
        ({"split": "."}, "split.*no file|split.*a folder"),
        ({"split": "y" * 300}, "split is longer than"),
        ({"layout": "z" * 300 + ".yaml"}, "is no file"),
    ],
)
def test_paths_that_are_none_are_refused_in_one_sentence(tmp_path, site, given, message):
    with pytest.raises(UserError, match=message):
        mark(tmp_path / "work", **{"data": site("a", 0), **given})


def test_the_phantom_in_work_dir_is_never_taken_for_patients(tmp_path, site):
    folder = site("a", 0)
    write_subject(folder / "work" / "phantom" / "recipe1" / "phantom-0000", "phantom-0000")
    with pytest.raises(UserError, match=r"holds 1 simulated subjects, in .*/work/phantom"):
        mark(folder / "work", folder)
    assert mark(tmp_path / "elsewhere", folder / "work" / "phantom")  # asked for by its own name
