import json

import pytest

from benchmark.data.cohorts import find
from benchmark.errors import UserError


@pytest.mark.parametrize(
    ("dataset", "order", "values"),
    [
        (  # nnU-Net v2's own BraTS conversion: nested regions, edema 1, necrosis 2
            {
                "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
                "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
                "regions_class_order": [1, 2, 3],
            },
            (0, 1, 2, 3),
            (0, 2, 1, 3),
        ),
        (  # v1, as the Decathlon's file says it
            {
                "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
                "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
            },
            (3, 0, 1, 2),
            (0, 2, 1, 3),
        ),
        (
            {
                "channel_names": {"0": "t2f", "1": "t2w", "2": "t1n", "3": "t1c"},
                "labels": {"background": 0, "peritumoral oedema": 1, "ET": 2, "necrotic_core": 4, "ignore": 5},
            },
            (3, 2, 0, 1),
            (0, 4, 1, 2),
        ),
        (
            {
                "channel_names": {"0": "T1-weighted", "1": "T1 post-contrast", "2": "T2 weighted", "3": "T2 FLAIR"},
                "labels": {"background": 0, "NCR/NET": 3, "ED": 2, "GD-enhancing tumor": 1},
            },
            (0, 1, 2, 3),
            (0, 3, 2, 1),
        ),
    ],
)
def test_nnunet_names_are_understood(tmp_path, nifti, dataset, order, values):
    images, labels = nifti.make_subject(1)
    nifti.save_nnunet(tmp_path, "case", images, labels, dataset=dataset, order=order, values=values)
    cohort = find(tmp_path)
    nifti.assert_volume(nifti.read(cohort, cohort.subjects[0]), images, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": {"0": "T1", "1": "T1ce", "2": "CT", "3": "FLAIR"}}, "no channel is named as T2.*'CT'"),
        ({"channel_names": {"0": "T1", "1": "T1ce"}}, "no channel is named as T2, FLAIR"),
        ({"channel_names": None}, "cannot be understood"),
        ({"labels": {"background": 0, "NCR": 1, "ED": 2, "liver": 3}}, "'liver'"),
        ({"labels": {"background": 0, "NCR": 1, "ED": 2}}, "no label is named as ET"),
        ({"labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3, "enhancing": 4}}, "'enhancing'"),
        ({"labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3]}}, "no label is named as ET"),
        ({"labels": {"1": ["a"]}}, "cannot be understood|cannot tell"),
        ({"channel_names": {"0": "T1", "1": "T1n", "2": "T2", "3": "FLAIR"}}, "channels 0 and 1 are both named as T1"),
        ({"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "4": "FLAIR"}}, "channels are numbered 0, 1, 2, 4"),
        ({"modality": {"0": "FLAIR", "1": "T1", "2": "T1ce", "3": "T2"}}, "channel_names and modality contradict"),
        ({"labels": {"background": 0, "NCR": 1, "ED": 1, "ET": 3}}, "several labels have the same value"),
        ({"labels": {"background": 0, "NCR": 0, "ED": 2, "ET": 3}}, "the value 0 is background and a label"),
        ({"labels": {"background": 0, "NCR": 1.5, "ED": 2, "ET": 3}}, r"1\.5 is no whole number"),
        ({"labels": {"0": "background", "1": "NCR", "2": "ED", "3": "ED"}}, "two labels have the same name"),
        (
            {"labels": {"background": 0, "whole tumor": [1, 2], "tumor core": [1, 3], "enhancing tumor": [3]}},
            r"the regions are not nested: whole tumor \[1, 2\]",
        ),
    ],
)
def test_nnunet_names_that_mean_nothing_are_refused(tmp_path, nifti, change, message):
    nifti.save_nnunet(tmp_path, "case", *nifti.make_subject(1))
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        find(tmp_path)


def test_nnunet_needs_its_dataset_json(tmp_path, nifti):
    nifti.save_nnunet(tmp_path, "case", *nifti.make_subject(1))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json cannot be understood"):
        find(tmp_path)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"dataset\.json is missing"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"labels": {"1": "NCR", "1": "ED"}}', "'1' is there twice"),
        (b"[" * 100_000, "cannot be understood"),
        (b"\xff\xfe{}", "cannot be understood"),
        (b"[]", "cannot be understood"),
        (b"null", "cannot be understood"),
    ],
)
def test_a_damaged_dataset_json_is_named(tmp_path, nifti, content, message):
    """In the Decathlon's layout too, where it may be missing but not be wrong."""
    nifti.save_msd(tmp_path, "case", *nifti.make_subject(1))
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"dataset\.json.*{message}"):
        find(tmp_path)
