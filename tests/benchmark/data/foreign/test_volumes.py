"""Volumes take the road of real subjects."""

import shutil

import numpy as np


def test_volumes_give_their_slices_with_enough_brain(sets, tmp_path, nifti):
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

    opened = sets.run(tmp_path / "sent", tmp_path / "out", image_size=26, workers=1)
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
    sets.assert_holds(opened, np.concatenate(expected_images), np.concatenate(expected_labels))
    assert opened.index["subject"].tolist() == subjects
    assert opened.index["z"].tolist() == z
    assert opened.meta["format"] == "NIfTI volumes"
    reasons = {name: reason for name, _, reason in sets.rejected(tmp_path / "out")}
    assert reasons == {"s3": "T1 is nowhere above zero: there is no brain in it", "s4": "FLAIR is missing"}
    assert not list((tmp_path / "out").glob("subjects*"))
