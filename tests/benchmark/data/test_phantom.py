"""The phantom against what is known of BraTS and of MR contrast; tissue from nilearn's own maps, by the mean pose."""

import nibabel
import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage, stats

from benchmark.data import phantom
from benchmark.data.phantom import MODALITIES, simulate_subject, write_cohort, write_subject
from benchmark.errors import UserError

GRID, SUBJECTS = (60, 60, 40), 24
TINY = phantom.SMALLEST


@pytest.fixture(scope="module")
def cohort():
    return [simulate_subject(number, seed=3, grid=GRID) for number in range(1, SUBJECTS + 1)]


@pytest.fixture(scope="module")
def tissue():
    """Where a subject of average pose has deep CSF, inner grey and white matter: bool [X, Y, Z] each."""
    centres = [(np.arange(n) + 0.5) / n - 0.5 for n in GRID]
    left, posterior, superior = np.meshgrid(*centres, indexing="ij")
    # Cohort average: 0.91 of MNI152's length, the field of view's centre at MNI (0, -17, 5).
    mni = np.stack([-240 * left, -240 * posterior, 155 * superior], -1) / 0.91 + (0, -17, 5)
    maps = {
        name: getattr(datasets, f"load_mni152_{name}")(resolution=2) for name in ("gm_mask", "wm_mask", "brain_mask")
    }

    def at(name, erode):
        image = maps[name]
        mask = (
            ndimage.binary_erosion(np.asarray(image.dataobj) > 0, iterations=erode) if erode else image.get_fdata() > 0
        )
        index = nibabel.affines.apply_affine(np.linalg.inv(image.affine), mni).round().astype(int)
        index = np.clip(index, 0, np.array(mask.shape) - 1)
        return mask[tuple(np.moveaxis(index, -1, 0))]

    deep = at("brain_mask", 6)
    return {"CSF": deep & ~at("gm_mask", 0) & ~at("wm_mask", 0), "GM": at("gm_mask", 1), "WM": at("wm_mask", 2)}


def test_subjects_look_like_brats_files(tmp_path):
    write_subject(tmp_path, 7, 0, TINY)
    folder = tmp_path / "Phantom_0007"
    parts = ("t1", "t1ce", "t2", "flair", "seg")
    assert {file.name for file in folder.iterdir()} == {f"Phantom_0007_{part}.nii.gz" for part in parts}
    images = {part: nibabel.load(folder / f"Phantom_0007_{part}.nii.gz") for part in parts}
    for image in images.values():
        assert image.shape == TINY
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
        np.testing.assert_allclose(image.header.get_zooms() * np.array(TINY), (240, 240, 155))
        # The corners of the field of view are those of BraTS: 240×240×155 voxels of 1 mm from world (0, 239, 0).
        brats = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        for edge, corner in ((-0.5, (-0.5, -0.5, -0.5)), (np.array(TINY) - 0.5, (239.5, 239.5, 154.5))):
            world = nibabel.affines.apply_affine(image.affine, np.broadcast_to(edge, 3))
            np.testing.assert_allclose(world, nibabel.affines.apply_affine(brats, corner))
    assert all(images[part].get_data_dtype() == np.int16 for part in MODALITIES)


def test_background_is_zero_and_tumours_lie_in_the_brain(cohort):
    for subject in cohort:
        assert set(np.unique(subject["seg"])) <= {0, 1, 2, 4}
        brain = subject["t1"] > 0
        assert 900e3 < brain.sum() * 4 * 4 * 3.875 < 2000e3  # mm³
        for modality in MODALITIES:
            np.testing.assert_array_equal(subject[modality] > 0, brain)
        assert brain[subject["seg"] > 0].all()
        largest = ndimage.label(brain)[0]
        assert np.bincount(largest[brain]).max() > 0.99 * brain.sum()
        corners = brain[::59, ::59, :]
        assert not corners.any()


def test_volumes_are_those_of_gliomas(cohort):
    volumes = np.array([[(subject["seg"] == label).sum() for label in (1, 2, 4)] for subject in cohort]) * 0.062  # ml
    whole = volumes.sum(1)
    assert whole.min() > 15
    assert whole.max() < 185
    assert whole.max() > 2 * whole.min()
    necrosis, oedema, enhancing = np.median(volumes, 0)
    assert necrosis < enhancing < oedema


def test_some_tumours_do_not_enhance_and_some_have_no_necrosis(cohort):
    present = [set(np.unique(subject["seg"])) for subject in cohort]
    without = {label: sum(label not in labels for labels in present) for label in (1, 2, 4)}
    assert 1 <= without[4] <= SUBJECTS // 4
    assert 1 <= without[1] <= SUBJECTS // 4
    assert without[2] == 0
    assert all(labels & {1, 4} for labels in present)


def test_tissue_contrasts_are_those_of_each_sequence(cohort, tissue):
    median = {}
    for modality in MODALITIES:
        for name, mask in tissue.items():
            values = []
            for subject in cohort:
                far = ~ndimage.binary_dilation(subject["seg"] > 0, iterations=3) & (subject["t1"] > 0)
                values.append(np.median(subject[modality][mask & far]) / np.median(subject[modality][far]))
            median[modality, name] = np.mean(values)
    for modality in ("t1", "t1ce"):
        assert median[modality, "WM"] > 1.1 * median[modality, "GM"] > 1.3 * median[modality, "CSF"]
    assert median["t2", "CSF"] > 1.2 * median["t2", "GM"] > 1.4 * median["t2", "WM"]
    assert median["flair", "GM"] > 1.01 * median["flair", "WM"] > 1.5 * median["flair", "CSF"]


def test_tumour_contrasts_are_those_of_each_sequence(cohort, tissue):
    ratio = {}
    for modality in MODALITIES:
        for label in (1, 2, 4):
            ratio[modality, label] = np.median([
                np.median(subject[modality][subject["seg"] == label])
                / np.median(subject[modality][tissue["WM"] & (subject["seg"] == 0)])
                for subject in cohort
                if {1, 4} <= set(np.unique(subject["seg"]))
            ])  # fmt: skip
    assert ratio["t1ce", 4] > 1.2  # only the rim takes up contrast agent
    assert ratio["t1", 4] < 0.95
    assert ratio["t1ce", 1] < 0.8
    assert ratio["t1", 1] < 0.8
    assert ratio["t2", 1] > 1.5
    assert ratio["flair", 2] > 1.3
    assert ratio["t2", 2] > 1.3
    assert ratio["flair", 1] < ratio["flair", 2]
    assert ratio["t1", 1] < ratio["t1", 2] < 1


def test_oedema_follows_white_matter_and_spares_csf(cohort, tissue):
    """Against chance, which is the brain within 25 mm of the tumour."""
    white, grey, dark, dark_around = [], [], [], []
    for subject in cohort:
        oedema, brain = subject["seg"] == 2, subject["t1"] > 0
        around = ndimage.binary_dilation(subject["seg"] > 0, iterations=6) & brain
        white.append(tissue["WM"][oedema].mean() / tissue["WM"][around].mean())
        grey.append(tissue["GM"][oedema].mean() / tissue["GM"][around].mean())
        csf = subject["flair"] < 0.6 * np.median(subject["flair"][brain])  # FLAIR suppresses fluid, not oedema
        dark.append(csf[oedema].mean())
        dark_around.append(csf[around].mean())
    assert np.mean(white) > 1.25
    assert np.mean(grey) < 0.9
    assert np.mean(dark_around) > 0.02
    assert np.mean(dark) < 0.1 * np.mean(dark_around)


def test_oedema_crosses_the_midline_only_by_the_callosum(cohort):
    """Next to none on the far side of the midline above and below the callosum (MNI z -5 to 36 mm)."""
    mni_z = ((np.arange(GRID[2]) + 0.5) / GRID[2] - 0.5) * 155 / 0.91 + 5
    off_callosum = (mni_z > 36) | (mni_z < -5)
    near = far = 0
    for subject in cohort:
        counts = (subject["seg"] == 2)[:, :, off_callosum].sum((1, 2))
        # 6 to 18 mm on either side of the mean midline: poses differ by a few mm.
        right, left = counts[30 - 5 : 30 - 1].sum(), counts[30 + 1 : 30 + 5].sum()
        near, far = near + max(left, right), far + min(left, right)
    assert near > 300
    assert far < 0.02 * near


def test_rim_surrounds_necrosis(cohort):
    neighbours = np.zeros(5)
    for subject in cohort:
        seg = subject["seg"]
        if {1, 4} <= set(np.unique(seg)):
            shell = ndimage.binary_dilation(seg == 1) & (seg != 1) & (subject["t1"] > 0)
            neighbours += np.bincount(seg[shell], minlength=5)
    share = neighbours / neighbours.sum()
    assert share[4] > 0.65  # the rim has gaps, and at 4 mm it is often thinner than a voxel
    assert share[0] < 0.15


def test_mass_effect_pushes_the_ventricles_away(cohort):
    """The centre of the deep CSF lies, on average, away from the tumour's side, relative to the brain's centre."""
    shifts = []
    x = np.arange(GRID[0])[:, None, None] * 4.0
    for subject in cohort:
        brain = subject["t1"] > 0
        deep = ndimage.distance_transform_edt(brain, (4, 4, 3.875)) > 24
        csf = deep & (subject["flair"] < 0.6 * np.median(subject["flair"][brain])) & (subject["seg"] == 0)
        middle = (x * brain).sum() / brain.sum()
        tumour = subject["seg"] > 0
        side = np.sign((x * tumour).sum() / tumour.sum() - middle)
        shifts.append(side * ((x * csf).sum() / csf.sum() - middle))
    assert np.mean(shifts) < -1  # mm
    assert stats.ttest_1samp(shifts, 0, alternative="less").pvalue < 0.01


def test_the_same_subject_on_another_grid_is_the_same_patient(cohort):
    coarse = simulate_subject(1, 3, (30, 30, 20))
    fine = cohort[0]
    averaged = fine["t2"].reshape(30, 2, 30, 2, 20, 2).mean((1, 3, 5))
    assert np.corrcoef(averaged.ravel(), coarse["t2"].ravel())[0, 1] > 0.97
    ratio = 8 * (coarse["seg"] > 0).sum() / (fine["seg"] > 0).sum()
    assert ratio == pytest.approx(1, abs=0.03)
    share = (fine["seg"] > 0).reshape(30, 2, 30, 2, 20, 2).mean((1, 3, 5))
    overlap = 2 * ((share > 0.5) & (coarse["seg"] > 0)).sum() / ((share > 0.5).sum() + (coarse["seg"] > 0).sum())
    assert overlap > 0.85


def test_subjects_and_seeds_differ():
    volumes = [simulate_subject(number, seed, TINY) for number, seed in ((1, 0), (2, 0), (1, 1))]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (volumes[i]["seg"] != volumes[j]["seg"]).any()
        assert ((volumes[i]["t1"] > 0) != (volumes[j]["t1"] > 0)).any()


def _bytes(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_bytes_depend_on_neither_workers_nor_order(tmp_path):
    calls = []
    paths = write_cohort(tmp_path / "two", 3, 5, TINY, workers=2, progress=calls.append)
    assert [path.name for path in paths] == ["Phantom_0001", "Phantom_0002", "Phantom_0003"]
    assert calls == [1, 2, 3]
    for number in (3, 1, 2):
        write_subject(tmp_path / "one", number, 5, TINY)
    assert len(_bytes(tmp_path / "one")) == 15
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_an_interrupted_write_leaves_nothing_half_done(tmp_path, monkeypatch):
    write_cohort(tmp_path / "whole", 2, 0, TINY, workers=1)
    save, saved = nibabel.Nifti1Image.to_filename, []

    def killed(image, path):
        saved.append(path)
        if len(saved) == 8:  # in the second subject
            raise KeyboardInterrupt
        save(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(nibabel.Nifti1Image, "to_filename", killed)
        with pytest.raises(KeyboardInterrupt):
            write_cohort(tmp_path / "cut", 2, 0, TINY, workers=1)
    assert [path.name for path in (tmp_path / "cut").glob("[!.]*")] == ["Phantom_0001"]
    written = (tmp_path / "cut/Phantom_0001/Phantom_0001_t1.nii.gz").stat().st_mtime_ns
    calls = []
    write_cohort(tmp_path / "cut", 2, 0, TINY, workers=1, progress=calls.append)
    assert calls == [2]
    assert (tmp_path / "cut/Phantom_0001/Phantom_0001_t1.nii.gz").stat().st_mtime_ns == written
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole")


def test_what_a_larger_killed_cohort_left_is_removed(tmp_path):
    (tmp_path / ".Phantom_0009.partial").mkdir()
    (tmp_path / ".Phantom_0009.partial" / "Phantom_0009_t1.nii.gz").write_bytes(b"cut off")
    write_cohort(tmp_path, 1, 0, TINY, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["Phantom_0001"]


@pytest.mark.parametrize("grid", [(241, 240, 155), (60, 60, 156), (15, 60, 40), (60, 60, 0), (60, 60)])
def test_a_grid_out_of_range_is_refused(tmp_path, grid):
    with pytest.raises(UserError, match=r"grid .*16, 16, 8.*240, 240, 155"):
        write_cohort(tmp_path / "cohort", 1, 0, grid, workers=1)
    with pytest.raises(UserError, match="grid"):
        write_subject(tmp_path / "cohort", 1, 0, grid)
    assert not (tmp_path / "cohort").exists()


@pytest.mark.parametrize(
    ("subjects", "seed", "workers", "message"),
    [(0, 0, 1, "0 subjects"), (1, -1, 1, "seed -1"), (1, 0, 0, "0 workers")],
)
def test_counts_out_of_range_are_refused(tmp_path, subjects, seed, workers, message):
    with pytest.raises(UserError, match=message):
        write_cohort(tmp_path / "cohort", subjects, seed, TINY, workers)
    assert not (tmp_path / "cohort").exists()


def test_the_smallest_grid_still_shows_tumours_and_numbers_may_be_long(tmp_path):
    assert all((simulate_subject(number, 0, phantom.SMALLEST)["seg"] > 0).any() for number in range(1, 6))
    write_subject(tmp_path, 12345, 0, TINY)
    assert (tmp_path / "Phantom_12345" / "Phantom_12345_seg.nii.gz").exists()
