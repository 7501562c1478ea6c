import pytest

from benchmark.data.cohorts import find
from benchmark.errors import UserError

PATTERNS = {
    "T1": "images/t1/{subject}.nii.gz",
    "T1ce": "images/t1gd/{subject}.nii.gz",
    "T2": "images/t2/{subject}_*.nii.gz",
    "FLAIR": "images/*/{subject}-flair.nii.gz",
    "annotation": "masks/{subject}/{subject}.nii.gz",
}
ENDINGS = (
    "images/t1/{name}", "images/t1gd/{name}", "images/t2/{name}_9f3", "images/f/{name}-flair", "masks/{name}/{name}",
)  # fmt: skip


def layout_file(path, patterns):
    path.write_text("".join(f"{role}: '{pattern}'\n" for role, pattern in patterns.items()), encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(tmp_path, nifti):
    for seed, name in enumerate(("p1", "p2", "Ä3")):
        nifti.write_subject(tmp_path / "cohort", name, ENDINGS, seed)
    return tmp_path / "cohort"


@pytest.mark.parametrize("name", ["mine.yaml", "MINE.YML"])
def test_patterns_of_ones_own_find_each_role(tmp_path, folder, nifti, name):
    layout = layout_file(tmp_path / name, PATTERNS)
    (folder / "masks" / "p2" / "p2.nii.gz").unlink()
    (folder / "images" / "f2").mkdir()
    cohort = find(folder, layout)
    assert cohort.layout == name
    assert [subject.name for subject in cohort.subjects] == ["p1", "Ä3"]
    for subject in cohort.subjects:
        assert [nifti.modality_of(path) for path in subject.files] == ["T1", "T1ce", "T2", "FLAIR", "annotation"]
    assert [(r.subject, r.file, r.reason) for r in cohort.rejections] == [("p2", "masks/p2/p2.nii.gz", "no annotation")]
    assert cohort.files[0] == tmp_path / name
    assert len(cohort.files) == 1 + 2 * 5


def test_two_files_that_fit_are_both_named(tmp_path, folder):
    (folder / "images" / "t2" / "p1_other.nii.gz").write_bytes(b"x")
    cohort = find(folder, layout_file(tmp_path / "mine.yaml", PATTERNS))
    assert [r.subject for r in cohort.rejections] == ["p1"]
    assert "2 files for T2: images/t2/p1_9f3.nii.gz and images/t2/p1_other.nii.gz" in cohort.rejections[0].reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as YAML"),
        ("T1: !!python/object/apply:os.system [ls]", "not readable as YAML"),
        ("- T1", "expected lines such as T1: .*found list"),
        ("", "found NoneType"),
        ("T1: '{subject}_t1.nii'", "missing key FLAIR, T1ce, T2, annotation"),
        ("1: 2\nT1: '{subject}'", "unknown key 1"),
        (b"T1: \xff", "not UTF-8"),
        ("T1: '" + "x" * 200_000 + "'", "100,000 bytes"),
        ({"T2": "t2/*.nii.gz"}, "T2: 't2/\\*.nii.gz' is no path with {subject} in it"),
        ({"T2": "/data/{subject}_t2.nii.gz"}, "T2: .* must be relative"),
        ({"T2": "../{subject}_t2.nii.gz"}, "T2: .* must be relative"),
        (
            {"T2": "scans/{subject}_t2.nii.gz"},
            "T2: 'scans/{subject}_t2.nii.gz' fits none of 15 NIfTI files, e.g. images",
        ),
    ],
)
def test_a_layout_that_is_none_is_refused_with_its_file(tmp_path, folder, content, message):
    path = tmp_path / "mine.yaml"
    if isinstance(content, dict):
        layout_file(path, PATTERNS | content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        find(folder, str(path))
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="is no file"):
        find(folder, str(path))
