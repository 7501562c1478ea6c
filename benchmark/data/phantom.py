"""The phantom cohort: simulated brain-tumour patients on the MNI152 template, written as BraTS 2020 names them.

Every subject is the template's anatomy under its own pose and deformation, with a tumour, four contrasts and the faults
of a scanner. All of it is defined in millimetres, so the same subject on another grid is the same patient. Oedema
follows the travelling-wave picture of glioma growth: arrival times of a front that runs fast in white matter, slowly in
grey matter and hardly in CSF (Konukoglu et al. 2010, IEEE Trans Med Imaging 29:77, the eikonal limit of Swanson's
model). It is a simulation, for trying things out: nothing measured on it is evidence about patients.
"""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
from scipy import ndimage, sparse
from scipy.interpolate import BSpline
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.transform import Rotation
from scipy.special import expit
from threadpoolctl import threadpool_limits

from benchmark.cores import end_with_parent
from benchmark.errors import UserError

RECIPE = 1  # version of everything below that changes a voxel: callers hash it

MODALITIES = ("t1", "t1ce", "t2", "flair")
NCR, ED, ET = 1, 2, 4  # the coding of BraTS 2020
FIELD_OF_VIEW = np.array([240.0, 240.0, 155.0])  # mm, whatever the grid
LARGEST, SMALLEST = (240, 240, 155), (16, 16, 8)

# Mean signal by modality (rows as MODALITIES), relative to white matter on T1. NET: non-enhancing tumour, which BraTS
# labels as NCR but which is no necrosis.
#             CSF   GM    WM    NCR   ED    ET    NET
SIGNAL = {
    "t1": (0.30, 0.74, 1.00, 0.45, 0.74, 0.72, 0.58),
    "t1ce": (0.32, 0.76, 1.00, 0.48, 0.76, 1.45, 0.60),
    "t2": (1.30, 0.66, 0.48, 1.15, 0.94, 0.80, 1.12),
    "flair": (0.22, 0.80, 0.64, 0.66, 1.16, 0.98, 1.02),
}

# Kinds of tumour: how often, the core's share of the whole, necrosis' share of the core. In BraTS about 7 % of subjects
# have no enhancement, a few no necrosis.
KINDS = {
    "ring": (0.84, (0.22, 0.50), (0.15, 0.60)),
    "no enhancement": (0.09, (0.30, 0.60), (1, 1)),
    "no necrosis": (0.07, (0.08, 0.20), (0, 0)),
}


class Atlas(NamedTuple):
    """The template, low-pass filtered for one voxel size. Maps are float32; each stands with its affine's inverse."""

    tissue: np.ndarray  # [4, X, Y, Z]: probability of CSF, GM, WM, and the T1 template's own detail, at 1 mm
    tissue_index: np.ndarray  # [4, 4]: MNI mm → index into `tissue`
    depth: np.ndarray  # [X, Y, Z]: mm below the brain's surface, negative outside, at 2 mm
    depth_index: np.ndarray
    ventricle_pull: np.ndarray  # [3, X, Y, Z]: vectors towards the ventricles, longest = 1, at 4 mm
    slowness: np.ndarray  # [X, Y, Z]: of the tumour's front relative to white matter, at 4 mm; inf outside the brain
    coarse_index: np.ndarray  # MNI mm → index into the two 4 mm maps
    sites: np.ndarray  # [n, 3]: MNI mm, where a tumour may start


@lru_cache(maxsize=4)
def _atlas(voxel: tuple[float, float, float]) -> Atlas:
    from nilearn import datasets  # seconds to import: only by those who simulate

    names = ("template", "gm_template", "wm_template", "brain_mask")
    # Cut to the brain: x from -76 to 76, y from -110 to 78, z from -72 to 86 mm.
    box = np.s_[22:175, 24:213, 0:159]
    images = {name: getattr(datasets, f"load_mni152_{name}")(resolution=1).slicer[box] for name in names}
    affine = images["template"].affine
    t1, gm, wm, mask = (np.asarray(image.dataobj, np.float32) for image in images.values())

    # The average brain has shallow sulci. Whatever is darker on T1 than grey matter (0.58) is CSF (0.28) in part.
    csf = np.maximum(np.clip(mask - gm - wm, 0, 1), np.clip((0.58 - t1) / 0.30, 0, 1)) * mask
    rest = (1 - csf) / np.maximum(gm + wm, 1e-3)
    gm, wm = gm * rest, wm * rest
    detail = (t1 - (0.28 * csf + 0.65 * gm + 0.86 * wm)) * mask * (csf < 0.5)
    # A voxel averages over its width v: Gaussian of the same variance, v²/12, less that of the 1 mm template.
    blur = np.sqrt(np.maximum(np.square(voxel) - 1, 0) / 12)
    tissue = np.stack([ndimage.gaussian_filter(part, blur) for part in (csf, gm, wm, detail)])

    half = mask[::2, ::2, ::2]
    signed = ndimage.distance_transform_edt(half) - ndimage.distance_transform_edt(1 - half)
    depth = ndimage.gaussian_filter(2 * signed.astype(np.float32), 0.8)  # its steps would show as a jagged outline

    # 4 mm maps: the front and the ventricles' pull are smooth.
    smooth = {
        name: ndimage.gaussian_filter(part, 1.2)[::4, ::4, ::4]
        for name, part in (("csf", csf), ("wm", wm), ("mask", mask))
    }
    coarse_affine = affine @ np.diag([4.0, 4, 4, 1])
    inside = smooth["mask"] > 0.5
    xyz = np.moveaxis(np.indices(inside.shape), 0, -1) @ coarse_affine[:3, :3].T + coarse_affine[:3, 3]
    coarse_depth = 4 * ndimage.distance_transform_edt(inside)

    ventricles = smooth["csf"] * (coarse_depth > 24)
    pull = np.stack(np.gradient(ndimage.gaussian_filter(ventricles, 1.5))).astype(np.float32)
    pull /= np.linalg.norm(pull, axis=0).max()

    # Fast in white matter, 5 times slower in grey (diffusivities 25 : 1), a wall in CSF: ventricles, sulci, and the
    # fissure between the hemispheres, which leaves the corpus callosum as the way across.
    slowness = 1 + 4 * (1 - smooth["wm"]) + 16 * np.clip(2 * smooth["csf"] - 0.3, 0, 1)
    slowness = np.where(inside, slowness, np.inf).astype(np.float32)

    # Tumours start in the cerebrum's white matter: above the tentorium, or in a temporal lobe.
    x, y, z = np.moveaxis(xyz, -1, 0)
    temporal = (np.abs(x) > 28) & (np.abs(x) < 52) & (y > -40) & (z > -24)
    sites = xyz[(smooth["wm"] > 0.55) & (coarse_depth > 10) & (np.abs(x) > 8) & ((z > 0) | temporal)]
    return Atlas(
        tissue,
        np.linalg.inv(affine),
        depth,
        np.linalg.inv(affine @ np.diag([2.0, 2, 2, 1])),
        pull,
        slowness,
        np.linalg.inv(coarse_affine),
        sites,
    )


def _sample(volume: np.ndarray, index: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Trilinear values of a map at MNI points [3, ...] mm; the nearest edge value beyond its box."""
    where = np.tensordot(index[:3, :3].astype(np.float32), points, 1)
    where += index[:3, 3].astype(np.float32).reshape(3, *[1] * (points.ndim - 1))
    return ndimage.map_coordinates(volume, where, order=1, mode="nearest")


@lru_cache(maxsize=64)
def _spline_basis(length: float, voxels: int, spacing: float) -> np.ndarray:
    """Uniform cubic B-splines `spacing` mm apart over 0..length mm, at voxel centres: float32 [voxels, splines]."""
    splines = int(np.ceil(length / spacing)) + 3
    centres = (np.arange(voxels) + 0.5) * length / voxels / spacing
    return BSpline.design_matrix(centres, np.arange(-3.0, splines + 1), 3).toarray().astype(np.float32)


def _field(
    rng: np.random.Generator, grid: tuple[int, int, int], spacing: float, extent: np.ndarray = FIELD_OF_VIEW
) -> np.ndarray:
    """A smooth random field, mean 0 and variance about 1, with B-spline control points every `spacing` mm."""
    bases = [_spline_basis(length, voxels, spacing) for length, voxels in zip(extent, grid, strict=True)]
    field = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32)
    for axis, basis in enumerate(bases):
        field = np.moveaxis(np.tensordot(basis, field, (1, axis)), 0, axis)
    return field / (151 / 315) ** 1.5  # ∫ B3² = 151/315 per axis: how much the splines average the white noise away


class Anatomy(NamedTuple):
    brain: np.ndarray  # bool [X, Y, Z]
    points: np.ndarray  # float32 [3, n]: MNI mm of the n brain voxels
    depth: np.ndarray  # float32 [n]: mm below the brain's surface


def _anatomy(rng: np.random.Generator, grid: tuple[int, int, int], atlas: Atlas) -> Anatomy:
    """Pose, size and shape: where each voxel of the subject lies in the template."""
    # MNI152 is larger than most brains: about 0.91 of its length in each direction.
    scale = 1 / (0.91 * np.exp(rng.normal(0, 0.025) + rng.normal(0, 0.02, 3)))
    matrix = Rotation.from_euler("xyz", rng.normal(0, (4, 2.5, 2.5)), degrees=True).as_matrix() * scale
    offset = np.array([0, -17, 5]) + rng.normal(0, (1.5, 2.5, 2.5))
    # Axes run to the left, to the back and up; MNI coordinates to the right, to the front and up.
    axes = [
        sign * ((np.arange(voxels) + 0.5) / voxels - 0.5) * length
        for sign, voxels, length in zip((-1, -1, 1), grid, FIELD_OF_VIEW, strict=True)
    ]
    points = np.empty((3, *grid), np.float32)
    for row in range(3):
        linear = [(matrix[row, axis] * axes[axis]).astype(np.float32) for axis in range(3)]
        points[row] = linear[0][:, None, None] + linear[1][:, None] + linear[2] + np.float32(offset[row])
        points[row] += 3.0 * _field(rng, grid, 48) + 1.5 * _field(rng, grid, 18)
    depth = _sample(atlas.depth, atlas.depth_index, points)
    brain = depth > 0.8 + 0.7 * _field(rng, grid, 12)  # skull stripping cuts a little more here, a little less there
    return Anatomy(brain, points[:, brain], depth[brain])


class Tumour(NamedTuple):
    """Score > 0 is inside, in mm; the soft edges of the images and the sharp ones of the labels come from the same."""

    healthy: np.ndarray  # float32 [3, n]: MNI mm of the tissue that mass effect has pushed to each voxel
    whole: np.ndarray  # float32 [n]
    core: np.ndarray
    necrosis: np.ndarray
    labels: np.ndarray  # uint8 [n]
    enhancing: bool


def _arrival(start: np.ndarray, radius: float, slowness: np.ndarray, index: np.ndarray) -> np.ndarray:
    """When a front that leaves the ball (start, radius) [MNI mm] reaches each node: float32, in mm of white matter."""
    nodes = np.isfinite(slowness)
    number = np.full(nodes.shape, -1)
    number[nodes] = np.arange(nodes.sum())
    tails, heads, costs = [], [], []
    steps = [step for step in np.ndindex(3, 3, 3) if step > (1, 1, 1)]  # 13 of the 26 neighbours: each edge once
    for step in np.array(steps) - 1:
        a = tuple(slice(max(0, -s), min(n, n - s)) for s, n in zip(step, nodes.shape, strict=True))
        b = tuple(slice(max(0, s), min(n, n + s)) for s, n in zip(step, nodes.shape, strict=True))
        both = nodes[a] & nodes[b]
        tails.append(number[a][both])
        heads.append(number[b][both])
        costs.append(4 * np.linalg.norm(step) * (slowness[a][both] + slowness[b][both]) / 2)
    edges = (np.concatenate(costs), (np.concatenate(tails), np.concatenate(heads)))
    graph = sparse.csr_array(edges, shape=(nodes.sum(),) * 2)
    centre = index[:3, :3] @ start + index[:3, 3]
    distance = 4 * np.linalg.norm(np.argwhere(nodes) - centre, axis=1)
    sources = np.flatnonzero(distance <= max(radius, distance.min()))
    time = np.full(nodes.shape, np.inf, np.float32)
    time[nodes] = dijkstra(graph, directed=False, indices=sources, min_only=True)
    # Outside the brain, the value of the nearest node: interpolation at the surface needs one.
    nearest = ndimage.distance_transform_edt(~nodes, return_distances=False, return_indices=True)
    return time[tuple(nearest)]


def _highest(score: np.ndarray, volume: float, voxel_volume: float) -> float:
    """The threshold above which `volume` mm³ of the voxels lie, at least one of them."""
    count = int(np.clip(round(volume / voxel_volume), 1, score.size - 1))
    return float(-np.partition(-score, count)[count])


def _tumour(rng: np.random.Generator, grid: tuple[int, int, int], atlas: Atlas, anatomy: Anatomy) -> Tumour:
    """Draws kind, site, sizes and shape; grows the tumour; pushes the brain aside."""

    def field(spacing: float) -> np.ndarray:
        return _field(rng, grid, spacing)[anatomy.brain]

    kind = rng.choice(list(KINDS), p=[row[0] for row in KINDS.values()])
    _, core_share, necrosis_share = KINDS[kind]
    whole_volume = 1000 * (20 + 160 * rng.beta(1.6, 2.7))  # mm³
    core_volume = rng.uniform(*core_share) * whole_volume
    necrosis_volume = rng.uniform(*necrosis_share) * core_volume
    radius = (3 * core_volume / (4 * np.pi)) ** (1 / 3)
    centre = atlas.sites[rng.integers(len(atlas.sites))] + rng.uniform(-2, 2, 3)

    # Mass effect: what lies at distance r came from r - d(r), d = 2 A ρ / (1 + ρ²) with ρ = r / R, which is one to one
    # for A < R / 2. The skull holds the brain's surface.
    reach = 1.2 * radius
    push = min(rng.uniform(0.20, 0.45) * reach, 9.0)
    away = anatomy.points - centre.astype(np.float32)[:, None]
    rho2 = np.square(away / reach).sum(0)
    hold = np.clip(anatomy.depth / 20, 0, 1)
    healthy = anatomy.points - away * (hold * 2 * push / reach / (1 + rho2))
    pull = np.stack([_sample(part, atlas.coarse_index, anatomy.points) for part in atlas.ventricle_pull])
    healthy += rng.uniform(-1.0, 4.0) * pull  # narrow to wide ventricles
    csf, gm, _, _ = (_sample(part, atlas.tissue_index, healthy) for part in atlas.tissue)

    # Core: an ellipsoid with lobes, kept out of the ventricles.
    axes = np.exp(rng.normal(0, 0.2, 3))
    ellipsoid = Rotation.random(random_state=rng).as_matrix() * (axes / np.cbrt(axes.prod()))
    distance = np.linalg.norm(ellipsoid.T.astype(np.float32) @ away, axis=0)
    lobes = 0.20 * radius * field(max(radius, 10)) + 0.08 * radius * field(max(radius / 2.5, 5))
    core = -(distance + lobes + 8 * csf)
    # Oedema: where the front arrives first; its fingers follow the white matter of the gyri.
    nodes = atlas.slowness.shape
    fog = np.exp(0.5 * _field(rng, nodes, 14, 4.0 * np.array(nodes)))
    time = _arrival(centre, 0.7 * radius, atlas.slowness * fog, atlas.coarse_index)
    whole = -(_sample(time, atlas.coarse_index, healthy) + 8 * gm + 1.0 * field(7))
    whole[csf > 0.5] -= 100

    # Labels: the highest scores, as the annotator sees them, until the volume drawn is full.
    voxel_volume = float(np.prod(FIELD_OF_VIEW / grid))
    seen = core + 0.5 * field(9)
    threshold = _highest(seen, core_volume, voxel_volume)
    in_core, core = seen > threshold, core - threshold
    seen = np.where(in_core, np.inf, whole + 1.0 * field(10))
    threshold = _highest(seen, whole_volume, voxel_volume)
    in_whole, whole = seen > threshold, whole - threshold
    # Necrosis: deep in the core, off its centre, so that the rim is thin here, missing there, and closed at the skull.
    necrosis = np.minimum(core, anatomy.depth)
    necrosis += 0.13 * radius * field(max(radius * 0.9, 10)) + 0.08 * radius * field(6)
    if kind == "ring":
        seen = np.where(in_core, necrosis + 0.4 * field(9), -np.inf)
        threshold = _highest(seen, necrosis_volume, voxel_volume)
        in_necrosis, necrosis = seen > threshold, necrosis - threshold
    else:
        in_necrosis = in_core & (kind == "no enhancement")
        necrosis = np.where(in_necrosis, np.inf, -np.inf)
    labels = np.select([in_necrosis, in_core, in_whole], [NCR, ET, ED], 0).astype(np.uint8)
    return Tumour(healthy, whole, core, necrosis, labels, bool(kind != "no enhancement"))


def _scan(
    rng: np.random.Generator, grid: tuple[int, int, int], atlas: Atlas, anatomy: Anatomy, tumour: Tumour
) -> dict[str, np.ndarray]:
    """The four modalities, int16 [X, Y, Z] in arbitrary units, exactly 0 outside the brain and at least 1 inside."""

    def field(spacing: float) -> np.ndarray:
        return _field(rng, grid, spacing)[anatomy.brain]

    csf, gm, wm, detail = (_sample(part, atlas.tissue_index, tumour.healthy) for part in atlas.tissue)
    csf = np.clip(csf * rng.uniform(0.9, 1.7), 0, 1)  # sulci from a young brain's to an old one's
    solid = (1 - csf) / np.maximum(gm + wm, 1e-3)
    gm, wm = gm * solid, wm * solid

    voxel = float(np.mean(FIELD_OF_VIEW / grid))
    blur = 0.16 * voxel  # an edge within a voxel is a mixture: the logistic scale of a box's variance, s²π²/3 = v²/12
    oedema = expit(tumour.whole / max(rng.uniform(1.0, 2.0), blur)) * (1 - 0.9 * csf)
    core = expit(tumour.core / max(0.7 if tumour.enhancing else 1.5, blur))
    necrosis = expit(tumour.necrosis / max(0.8, blur))
    oedema *= np.clip(0.80 + 0.14 * field(12), 0.45, 1)  # tissue shines through

    # Two smooth fields vanish together along curves: vessels, where they run in sulci or at the surface.
    sheath = np.clip(2 * csf + np.clip(1 - anatomy.depth / 6, 0, 1), 0, 1)
    vessels = np.exp(-(np.square(field(14)) + np.square(field(14))) / 0.06) * sheath
    # Small bright spots on T2 and FLAIR about the ventricles, as in most patients of that age.
    pull = np.linalg.norm([_sample(part, atlas.coarse_index, tumour.healthy) for part in atlas.ventricle_pull], axis=0)
    spots = rng.uniform(0, 0.6) * np.clip(1.6 * pull - 0.5, 0, 1) * np.clip(0.6 + 0.5 * field(8), 0, 1) * wm

    texture = 0.018 * field(5) + 0.015 * field(10)
    tumour_texture = 0.08 * field(5) + 0.06 * field(12)
    scans = {}
    for modality in MODALITIES:
        signal = np.array(SIGNAL[modality]) * np.exp(rng.normal(0, (0.06, 0.03, 0.03, 0.09, 0.05, 0.08, 0.06)))
        fluid, grey, white, dead, swollen, enhancing, not_enhancing = signal.astype(np.float32)
        image = fluid * csf + grey * gm + white * wm
        image += {"t1": 1.0, "t1ce": 1.0, "t2": -0.5, "flair": -0.3}[modality] * detail
        image *= 1 + texture + 0.010 * field(7)
        if modality == "t1ce":
            image += rng.uniform(0.4, 0.8) * vessels
        if modality in ("t2", "flair"):
            image += (swollen - image) * spots
        image += (swollen * (1 + 0.5 * tumour_texture) - image) * oedema
        middle = dead if tumour.enhancing else not_enhancing
        tumour_core = (enhancing + (middle - enhancing) * necrosis) * (1 + tumour_texture)
        image += (tumour_core - image) * core
        image *= np.exp(0.10 * field(90))  # receive coil
        noise = rng.uniform(0.012, 0.028) / np.sqrt(voxel) * rng.standard_normal((2, image.size), dtype=np.float32)
        image = np.hypot(image + noise[0], noise[1])  # Rician: the magnitude of a complex signal
        scan = np.zeros(grid, np.int16)
        scan[anatomy.brain] = np.clip(np.rint(image * np.exp(rng.normal(np.log(450), 0.5))), 1, 32767)
        scans[modality] = scan
    return scans


def simulate_subject(number: int, seed: int, grid: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Subject `number` of cohort `seed`: {"t1", "t1ce", "t2", "flair"} int16 and "seg" uint8, each [X, Y, Z] in LPS.

    Raises UserError where number, seed or grid are out of range.
    """
    _check(number, seed, grid)
    anatomy_rng, tumour_rng, scan_rng = np.random.default_rng([seed, number]).spawn(3)
    # One thread: a cohort uses a process for each subject, and sums in one order give the same bytes everywhere.
    with threadpool_limits(1):
        atlas = _atlas(tuple(map(float, FIELD_OF_VIEW / grid)))
        anatomy = _anatomy(anatomy_rng, grid, atlas)
        tumour = _tumour(tumour_rng, grid, atlas, anatomy)
        volumes = _scan(scan_rng, grid, atlas, anatomy, tumour)
    volumes["seg"] = np.zeros(grid, np.uint8)
    volumes["seg"][anatomy.brain] = tumour.labels
    return volumes


def _check(number: int, seed: int, grid: tuple[int, int, int]) -> None:
    if number < 1:
        raise UserError(f"phantom: {number} subjects asked for, at least 1 is needed.")
    if seed < 0:
        raise UserError(f"phantom: seed {seed} is negative; give 0 or more.")
    if len(grid) != 3 or not all(low <= n <= high for low, n, high in zip(SMALLEST, grid, LARGEST, strict=True)):
        raise UserError(f"phantom: grid {tuple(grid)} is out of range; give three sizes from {SMALLEST} to {LARGEST}.")


def subject_name(number: int) -> str:
    return f"Phantom_{number:04d}"


def write_subject(folder: Path, number: int, seed: int, grid: tuple[int, int, int]) -> None:
    """Writes `<folder>/Phantom_0001/Phantom_0001_{t1,t1ce,t2,flair,seg}.nii.gz`, unless the subject's folder is there.

    The bytes depend on (number, seed, grid) alone. The folder appears complete or not at all: files are written to a
    hidden folder beside it, which is then renamed. A folder holds one cohort: another seed or grid needs another.

    Raises UserError where number, seed or grid are out of range.
    """
    _check(number, seed, grid)
    name = subject_name(number)
    if (folder / name).exists():
        return
    voxel = FIELD_OF_VIEW / grid
    # LPS, as BraTS has it: diag(-1, -1, 1) with origin (0, 239, 0) at 1 mm; a larger voxel's centre lies further in.
    affine = np.diag([-voxel[0], -voxel[1], voxel[2], 1])
    affine[:3, 3] = [-(voxel[0] - 1) / 2, 239 - (voxel[1] - 1) / 2, (voxel[2] - 1) / 2]
    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for part, volume in simulate_subject(number, seed, grid).items():
        image = nibabel.Nifti1Image(volume, affine)
        image.header.set_xyzt_units("mm")
        image.to_filename(partial / f"{name}_{part}.nii.gz")  # nibabel: gzip level 1, no time stamp, no file name
    os.replace(partial, folder / name)


def write_cohort(
    folder: Path,
    subjects: int,
    seed: int,
    grid: tuple[int, int, int],
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Writes subjects 1..`subjects` with `workers` processes and returns their folders, in order.

    Subjects that are there already are kept, what a killed call left half-written is removed. `progress` is called
    with the number of subjects that stand, after each. One call at a time may write to a folder.

    Raises UserError where subjects, seed, grid or workers are out of range.
    """
    _check(subjects, seed, grid)
    if workers < 1:
        raise UserError(f"phantom: {workers} workers asked for, at least 1 is needed.")
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob(".Phantom_*.partial"):
        shutil.rmtree(partial)
    paths = [folder / subject_name(number) for number in range(1, subjects + 1)]
    missing = [number for number, path in enumerate(paths, 1) if not path.exists()]
    done = subjects - len(missing)
    for _ in _write_each(folder, missing, seed, grid, workers):
        done += 1
        if progress:
            progress(done)
    return paths


def _write_each(
    folder: Path, numbers: list[int], seed: int, grid: tuple[int, int, int], workers: int
) -> Iterator[None]:
    """Yields once for each subject written, as it is written."""
    if min(workers, len(numbers)) <= 1:
        for number in numbers:
            yield write_subject(folder, number, seed, grid)
        return
    # Spawned, not forked: the caller may hold threads (torch, MLflow), which a fork would copy mid-flight.
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(numbers)), spawned, end_with_parent) as pool:
        for future in as_completed([pool.submit(write_subject, folder, number, seed, grid) for number in numbers]):
            yield future.result()
