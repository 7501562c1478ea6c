"""The most similar training slice of every slice: exhaustive searches, then exact re-scoring of the k best of each.

Definitions (PROTOCOL, section 4). A slice's brain mask is where any modality exceeds 10 of 255; everything outside is
set to zero. The *correlation* of two slices is Pearson's over the pixels of all modalities inside the union of their
masks, the larger of as is and mirrored left–right. Their *similarity* is the largest of the correlation, the same
correlation after a shift of up to ±8 px, and SSIM over the union at the shift and orientation that correlate best.

A slice lies on an infinite black canvas, so a shift loses nothing and zero padding changes no number. A slice without
brain has similarity 0 to everything, another empty slice included: black pixels identify nobody. A slice that is
constant over the union has correlation 0 (Pearson's is undefined there); SSIM still finds its copy.

Where the references come in groups (the slices of a patient), the second group's nearest is found as well: the search
is done as if the winner's group were not there.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from analysis.progress import progress_bar

BRAIN_THRESHOLD = 10  # of 255: generators leave a faint background
CANDIDATES = 10  # training slices re-scored per query
COARSE = 64  # px, to which slices are averaged for the search of centred slices
MAX_SHIFT = 8  # px, and never more than a quarter of the slice
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # Wang et al. 2004, with their K1 = 0.01, K2 = 0.03 and L = 255

COLUMNS = {
    "similarity": float,
    "row": np.int64,
    "kind": "U8",
    "shift_y": np.int64,
    "shift_x": np.int64,
    "mirrored": bool,
    "correlation": float,
}
SECOND_COLUMNS = {"second_similarity": float, "second_row": np.int64}


class Rows:
    """Some slices of an array uint8 [N, C, H, W], read only when they are needed: a memory map stays on disk.

    Indexing the first axis, or `cropped`, gives `Rows` again and reads nothing; `np.array(rows)` reads.
    """

    def __init__(
        self, array: np.ndarray, rows: np.ndarray, box: tuple[slice, slice] = (slice(None), slice(None))
    ) -> None:
        self._array, self._rows, self._box = array, rows, box
        self.dtype, self.ndim = array.dtype, array.ndim
        height, width = (len(range(*cut.indices(size))) for cut, size in zip(box, array.shape[2:], strict=True))
        self.shape = (len(rows), array.shape[1], height, width)

    @classmethod
    def of(cls, images: "np.ndarray | Rows") -> "Rows":
        return images if isinstance(images, Rows) else cls(images, np.arange(len(images)))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | np.ndarray) -> "Rows":
        return Rows(self._array, self._rows[index], self._box)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(np.asarray(self._array[self._rows])[(..., *self._box)], dtype)

    def cropped(self, box: tuple[slice, slice]) -> "Rows":
        """The same slices, but only `box` of each picture."""
        return Rows(self, np.arange(len(self)), box)


def nearest(
    queries: np.ndarray | Rows,
    references: np.ndarray | Rows,
    groups: np.ndarray | None = None,
    *,
    k: int = CANDIDATES,
    device: str | torch.device = "cpu",
    memory_gib: float = 2.0,
    name: str = "nearest slices",
) -> pd.DataFrame:
    """The most similar reference of every query, and that of the second group.

    Parameters
    ----------
    queries, references : uint8 [M, C, H, W] and [N, C, H, W], memory maps and `Rows` of them welcome; W even.
    groups : the references' groups [N], two at least. Without, no second group is looked for.
    k : how many of the best correlated references are re-scored; as many again of the best after centring.
    memory_gib : bound on the working memory, beyond the arrays passed in [GiB].
    name : what the progress bar says.

    Returns
    -------
    One row per query: `similarity` and the reference `row` that has it; `kind` of the match ("pearson",
    "mirrored", "shifted" or "ssim"), its `shift_y`, `shift_x` (query content lies that many pixels further down and
    right than the reference's) and whether it is `mirrored`; and `correlation`, the best without shift and SSIM, which
    may belong to another reference. Ties go to the lowest row. With groups also `second_similarity` and `second_row`:
    similarity and row, were there no reference of the group that `row` belongs to.

    Raises ValueError for arrays of another kind, for references of a single group, and for a memory bound that not even
    one slice fits into.
    """
    for what, images in (("queries", queries), ("references", references)):
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
            raise ValueError(f"{what} must be uint8 [N, C, H, W] with N ≥ 1, not {images.dtype} {list(images.shape)}")
    if queries.shape[1:] != references.shape[1:] or queries.shape[-1] % 2:
        raise ValueError(
            "queries and references must agree in channels and size, and be of even width; "
            f"they are {list(queries.shape[1:])} and {list(references.shape[1:])}"
        )
    columns, kept = COLUMNS, min(k, len(references))
    if groups is not None:
        codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
        if codes.max() == 0:
            raise ValueError("a second group needs references of two groups at least")
        # Whichever group the winner turns out to be of, k others are among so many.
        kept = min(k + np.bincount(codes).max(), len(references))
        columns = COLUMNS | SECOND_COLUMNS
    shift = min(MAX_SHIFT, queries.shape[2] // 4, queries.shape[3] // 4)
    queries, references = _cropped(Rows.of(queries), Rows.of(references))
    plan = Plan.of(queries.shape[1:], memory_gib, k, kept)
    device = torch.device(device)

    found = {column: np.empty(len(queries), dtype) for column, dtype in columns.items()}  # small tables pin memory
    with progress_bar(len(queries), name, "slice") as progress:
        for start in range(0, len(queries), plan.queries):
            chunk = queries[start : start + plan.queries]
            # The slices as they lie, and centred: a shifted copy is often not among the k best until it is moved back.
            searches = [_search(chunk, references, kept, plan.references, device, centred) for centred in (False, True)]
            for part in range(0, len(chunk), plan.rescored):
                piece = slice(part, part + plan.rescored)
                ranked = [rows[piece] for rows in searches]
                candidates = np.concatenate([rows[:, :k] for rows in ranked], 1)
                best = _rescore(chunk[piece], references, candidates, k, shift, device)
                if groups is not None:
                    own = codes[best["row"]]
                    candidates = np.concatenate([_outside(rows, codes, own, k) for rows in ranked], 1)
                    second = _rescore(chunk[piece], references, candidates, k, shift, device)
                    best |= {"second_similarity": second["similarity"], "second_row": second["row"]}
                for column, values in best.items():
                    found[column][start + part :][: len(values)] = values
                progress.update(len(ranked[0]))
    return pd.DataFrame(found)


@dataclass(frozen=True)
class Plan:
    """How many slices are worked on at once, so that memory stays inside a bound; no result depends on it."""

    queries: int  # of one search
    references: int  # read at once during a search
    rescored: int  # queries re-scored at once, each with its k candidates

    @classmethod
    def of(cls, shape: tuple[int, ...], memory_gib: float, k: int = CANDIDATES, kept: int = CANDIDATES) -> "Plan":
        """For slices of `shape` [C, H, W], `kept` references of each query. Raises ValueError where not one fits."""
        channels, height, width = shape
        budget = memory_gib * 2**30
        folded = 4 * (channels + 1) * height * width  # a slice and its mask in float32
        # Half of the budget holds queries, their scores (8 float32 numbers a pair) and the best rows (twice as scores,
        # rows and order while they are merged), a quarter the references; the last quarter is left to temporaries.
        references = min(int(budget / 4 / folded), 1024)
        queries = int(budget / 2 / (folded + 32 * max(references, 1) + 40 * kept))
        # Per query: 2k candidates and their product with it as double-complex half spectra, C images and a mask each,
        # and 14 float32 maps of C channels for the SSIM of k. Small pieces are fastest: they stay near the processor.
        canvas = (height + 2 * MAX_SHIFT) * (width + 2 * MAX_SHIFT)
        query = canvas * k * (48 * (channels + 1) + 56 * channels)
        rescored = int(min(budget, max(query, 2**27)) / query)
        if min(references, queries, rescored) < 1:
            least = max(4 * folded, 2 * folded + 64 + 80 * kept, query) / 2**30
            raise ValueError(
                f"memory_gib={memory_gib:g} is too little for slices of {height}×{width}; {least:.3f} is the least"
            )
        return cls(min(queries, 8192), references, rescored)


def _cropped(a: Rows, b: Rows) -> tuple[Rows, Rows]:
    """Both without the border that is black in all of them, which changes no number; cut alike on the left and on the
    right, so that the midline stays where it is."""
    inside = np.zeros(a.shape[2:], bool)
    for images in (a, b):
        for start in range(0, len(images), 64):
            inside |= (np.asarray(images[start : start + 64]) > BRAIN_THRESHOLD).any((0, 1))
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero((inside | inside[:, ::-1]).any(0))
    if len(rows) == 0:
        return a, b
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return a.cropped(box), b.cropped(box)


def masked(images: np.ndarray | Rows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Slices uint8 [N, C, H, W] → float32 with zeros outside the brain, and the brain mask, bool [N, H, W]."""
    pixels = torch.from_numpy(np.array(images, order="C")).to(device)
    mask = pixels.amax(1) > BRAIN_THRESHOLD
    return (pixels * mask[:, None]).float(), mask


# ---- exhaustive search ---------------------------------------------------------------------------------------------
#
# With values zero outside each slice's mask, sums over the union U of two masks are sums over everything, and only the
# union's size belongs to the pair. With n = C·|U| = C·(|A| + |B| − |A∩B|), S = Σx, Q = Σx²,
#
#     r = (Σab − S_a S_b / n) / sqrt((Q_a − S_a² / n) (Q_b − S_b² / n)),
#
# so a chunk of pairs needs one matrix product of images (Σab) and one of masks (|A∩B|). Mirroring comes for free: with
# x' the mirrored slice, fold every slice at its midline into sums s = x + x' and differences d = x − x' over the left
# half. Then Σab = (Σ s_a s_b + Σ d_a d_b) / 2 and Σa'b = (Σ s_a s_b − Σ d_a d_b) / 2: both orientations for the
# arithmetic of one. (s and d are integers below 512, exact in TF32 too: a caller who allows that loses nothing.)


class _Folded:
    """Slices folded at the midline, and their sums; memory for `capacity` of them, which every `load` uses again."""

    def __init__(self, capacity: int, shape: tuple[int, ...], device: torch.device, centred: bool) -> None:
        channels, height, width = shape
        self.centred, self.device = centred, device
        if centred:
            pool = max(1, min(height, width) // COARSE)
            height, width = height // pool, width // (2 * pool) * 2
        self.image = torch.empty(capacity, 2, channels, height, width // 2, device=device)  # sums, then differences
        self.mask = torch.empty(capacity, 2, 1, height, width // 2, device=device)
        self.sum, self.square, self.area = torch.empty(3, capacity, device=device)

    def load(self, images: np.ndarray | Rows) -> "_Folded":
        """Fills in slices uint8 [N, C, H, W]; the rows from N on are meaningless."""
        half = self.image.shape[-1]
        step = max(1, 2**18 // math.prod(images.shape[1:]))  # pieces that stay in the processor's cache
        for start in range(0, len(images), step):
            x, m = masked(images[start : start + step], self.device)
            if self.centred:
                x, m = _centred(x, m, (self.image.shape[-2], 2 * half))
            piece = slice(start, start + len(x))
            self.sum[piece], self.square[piece], self.area[piece] = (
                x.sum((1, 2, 3)),
                x.square().sum((1, 2, 3)),
                m.sum((1, 2)),
            )
            for folded, values in ((self.image, x), (self.mask, m[:, None].float())):
                left, right = values[..., :half], values[..., half:].flip(-1)
                torch.add(left, right, out=folded[piece, 0])
                torch.sub(left, right, out=folded[piece, 1])
        return self


def _centred(images: Tensor, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Slices with the centre of gravity of their brain moved to the middle, averaged to a smaller size, and masks."""
    area = mask.sum((1, 2)).clamp(min=1)
    down, right = (
        ((length - 1) / 2 - (mask.sum(other) * torch.arange(length, device=mask.device)).sum(1) / area).round().long()
        for length, other in ((mask.shape[1], 2), (mask.shape[2], 1))
    )
    moved = F.adaptive_avg_pool2d(_moved(torch.cat([images, mask[:, None].float()], 1), down, right), size)
    return moved[:, :-1], moved[:, -1] > 0


def _products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products of folded slices as is and with one of them mirrored, each [n_a, n_b]."""
    sums, differences = (a[:, half].flatten(1) @ b[:, half].flatten(1).T for half in (0, 1))
    return (sums + differences).mul_(0.5), sums.sub_(differences).mul_(0.5)


def _correlations(a: _Folded, b: _Folded, n_b: int) -> Tensor:
    """Correlations of all of a with the first n_b of b, float32 [n_a, n_b], the larger of both orientations."""
    best, channels = None, a.image.shape[2]
    sums, squares, areas = b.sum[:n_b], b.square[:n_b], b.area[:n_b]
    products = zip(_products(a.image, b.image[:n_b]), _products(a.mask, b.mask[:n_b]), strict=True)
    for dot, overlap in products:
        n = overlap.neg_().add_(a.area[:, None]).add_(areas).mul_(channels).clamp_(min=1)
        spread = _spread(a.square[:, None], a.sum[:, None], n).mul_(_spread(squares, sums, n))
        r = dot.sub_((a.sum[:, None] / n).mul_(sums)).div_(spread.sqrt().clamp_(min=1)).mul_(spread > 0)
        best = r if best is None else torch.maximum(best, r)
    return best


def _spread(square: Tensor, total: Tensor, n: Tensor) -> Tensor:
    """Q − S²/n in float32; exactly zero where rounding could have made it: a constant slice."""
    spread = square - (total / n).mul_(total)
    return spread.mul_(spread > 1e-5 * square)


def _search(
    queries: np.ndarray | Rows,
    references: np.ndarray | Rows,
    kept: int,
    chunk: int,
    device: torch.device,
    centred: bool,
) -> np.ndarray:
    """Rows of the `kept` best correlated references of every query, int64 [M, kept], the best first."""
    folded = _Folded(len(queries), queries.shape[1:], device, centred).load(queries)
    block = _Folded(min(chunk, len(references)), references.shape[1:], device, centred)
    best = torch.empty(len(queries), 0, device=device)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for start in range(0, len(references), chunk):
        part = references[start : start + chunk]
        scores = _correlations(folded, block.load(part), len(part))
        values, here = scores.topk(min(kept, len(part)))
        best, order = torch.cat([best, values], 1).topk(min(kept, best.shape[1] + values.shape[1]))
        rows = torch.cat([rows, here + start], 1).gather(1, order)
    return rows.cpu().numpy()


def _outside(rows: np.ndarray, codes: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """The first k of the ranked `rows` [M, n] whose group is not the query's `own` [M]; −1 where there are fewer."""
    allowed = codes[rows] != own[:, None]
    first = np.argsort(~allowed, 1, kind="stable")[:, :k]
    return np.where(np.take_along_axis(allowed, first, 1), np.take_along_axis(rows, first, 1), -1)


# ---- exact re-scoring of the k best --------------------------------------------------------------------------------


def _rescore(
    queries: np.ndarray | Rows,
    references: np.ndarray | Rows,
    rows: np.ndarray,
    k: int,
    shift: int,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """The best of the candidates `rows` [M, n] of every query, −1 for none, by column of `nearest`; SSIM for the k best
    correlated of them."""
    rows = np.sort(rows, 1)  # a tie goes to the lowest row
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1  # both searches found it
    rows = np.sort(rows, 1)
    rows = rows[:, (rows >= 0).any(0)]
    M, n = rows.shape
    read = np.asarray(queries), np.asarray(references[np.maximum(rows, 0).ravel()])
    queries, references = _cropped(*map(Rows.of, read))
    a, a_mask = masked(queries, device)
    b, b_mask = masked(references, device)

    r = _shifted_correlations(a, a_mask, b, b_mask, shift).cpu().numpy()  # [M, n, 2, 2·shift + 1, 2·shift + 1]
    r[rows < 0] = -np.inf
    correlation = r[..., shift, shift].max((1, 2))
    correlated = r.max((2, 3, 4))
    # Where it is reached; of several places (a slice without contrast), the one with the shortest shift.
    orientation, down, right = np.indices(r.shape[2:]).reshape(3, -1) - [[0], [shift], [shift]]
    order = np.argsort(down**2 + right**2, kind="stable")
    place = order[r.reshape(M, n, -1)[..., order].argmax(2)]

    best = np.sort(np.argsort(-correlated, 1, kind="stable")[:, :k])  # [M, k], in the order of rows
    rows, correlated, place = (np.take_along_axis(values, best, 1) for values in (rows, correlated, place))
    orientation, down, right = orientation[place], down[place], right[place]
    pairs = torch.from_numpy(best + np.arange(M)[:, None] * n).to(device).ravel()
    ssim = _ssim(a, a_mask, b[pairs], b_mask[pairs], orientation.ravel(), down.ravel(), right.ravel(), shift)
    ssim = np.where(rows < 0, -np.inf, ssim.reshape(rows.shape).cpu().numpy())

    winner = np.arange(M), np.maximum(correlated, ssim).argmax(1)
    rows, correlated, ssim, orientation, down, right = (
        values[winner] for values in (rows, correlated, ssim, orientation, down, right)
    )
    kinds = {"ssim": ssim > correlated, "shifted": (down != 0) | (right != 0), "mirrored": orientation == 1}
    return {
        "similarity": np.maximum(correlated, ssim),
        "row": rows,
        "kind": np.select(list(kinds.values()), list(kinds), "pearson"),
        "shift_y": down,
        "shift_x": right,
        "mirrored": orientation == 1,
        "correlation": correlation,
    }


def _shifted_correlations(a: Tensor, a_mask: Tensor, b: Tensor, b_mask: Tensor, shift: int) -> Tensor:
    """Correlations, float64 [M, k, 2, 2·shift + 1, 2·shift + 1]: orientation, then shift down, then right.

    a [M, C, H, W], b [M·k, C, H, W] and their masks. Σ_p b(p) a(p + s) is a cross-correlation, here by the Fourier
    transform. Of 8-bit images it is an integer, and double precision errs by far less than one half, so rounding makes
    it exact; so does everything under the fraction stroke while C·H·W ≤ 4·256².
    """
    M, channels = a.shape[:2]
    canvas = [next_fast_len(size + shift, real=True) for size in a.shape[2:]]  # room for the shift: nothing wraps round
    lags = torch.arange(-shift, shift + 1, device=a.device)

    def spectra(images: Tensor, mask: Tensor) -> Tensor:
        return torch.fft.rfft2(torch.cat([images, mask[:, None].float()], 1).double(), s=canvas)

    reference = spectra(b, b_mask).conj().unflatten(0, (M, -1))
    cross = []
    for images, mask in ((a, a_mask), (a.flip(-1), a_mask.flip(-1))):
        product = spectra(images, mask)[:, None] * reference  # [M, k, C + 1, ·, ·]
        product = torch.stack([product[:, :, :channels].sum(2), product[:, :, channels]], 2)
        product = torch.fft.irfft2(product, s=canvas)[..., lags[:, None] % canvas[0], lags % canvas[1]]
        cross.append(product.round())
    dot, overlap = torch.stack(cross, 2).unbind(3)  # each [M, k, 2, lags, lags]

    def moments(images: Tensor, mask: Tensor) -> list[Tensor]:
        images = images.double()
        sums = images.sum((1, 2, 3)), images.square().sum((1, 2, 3)), mask.sum((1, 2)).double()
        return [value.reshape(M, -1, 1, 1, 1) for value in sums]

    (sum_a, square_a, area_a), (sum_b, square_b, area_b) = moments(a, a_mask), moments(b, b_mask)
    n = channels * (area_a + area_b - overlap)
    spread = (n * square_a - sum_a**2) * (n * square_b - sum_b**2)
    return torch.where(spread > 0, (n * dot - sum_a * sum_b) / spread.clamp(min=1).sqrt(), 0.0).clamp(max=1)


def _ssim(
    a: Tensor,
    a_mask: Tensor,
    b: Tensor,
    b_mask: Tensor,
    orientation: np.ndarray,
    shift_y: np.ndarray,
    shift_x: np.ndarray,
    shift: int,
) -> Tensor:
    """SSIM of every pair at its own orientation and shift, float64 [M·k] (Wang et al., IEEE TIP 13:600, 2004).

    The map is averaged over the union of both masks and all modalities; on the black background it is 1 for any two.
    """
    pairs, device = len(b), b.device
    query = torch.arange(pairs, device=device) // (pairs // len(a))
    flipped = torch.from_numpy(orientation).to(device)
    a = torch.cat([a, a_mask[:, None].float()], 1)
    a = F.pad(torch.stack([a, a.flip(-1)])[flipped, query], [shift] * 4)
    b = F.pad(torch.cat([b, b_mask[:, None].float()], 1), [shift] * 4)
    b = _moved(b, torch.from_numpy(shift_y).to(device), torch.from_numpy(shift_x).to(device))  # it follows the query
    union = torch.maximum(a[:, -1:], b[:, -1:])
    empty = (a[:, -1].sum((1, 2)) == 0) | (b[:, -1].sum((1, 2)) == 0)

    a, b = a[:, :-1], b[:, :-1]
    height, width = (gaussian_band(size, device) for size in a.shape[2:])
    mean_a, mean_b, squares, product = height @ (torch.stack([a, b, a * a + b * b, a * b]) @ width)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    means, both = mean_a * mean_b, mean_a.square() + mean_b.square()
    ssim = (2 * means + c1) * (2 * (product - means) + c2) / ((both + c1) * (squares - both + c2))  # eq. 13
    total = (ssim * union).sum((1, 2, 3), dtype=torch.float64) / (a.shape[1] * union.sum((1, 2, 3))).clamp(min=1)
    return torch.where(empty, 0.0, total).clamp(max=1)


def gaussian_band(size: int, device: torch.device) -> Tensor:
    """The window's weights as a symmetric band matrix [size, size]: a dense product beats a depthwise convolution."""
    distance = torch.arange(size, device=device)[:, None] - torch.arange(size, device=device)
    centre = SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (torch.arange(-centre, centre + 1, device=device) / SSIM_SIGMA) ** 2)
    window = (window / window.sum())[(distance + centre).clamp(0, SSIM_WINDOW - 1)]
    return torch.where(distance.abs() <= centre, window, 0.0)


def _moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images [N, C, H, W], each moved by its own number of pixels; what leaves on one side enters on the other."""
    N, C, H, W = images.shape
    index, channel = torch.arange(N, device=images.device), torch.arange(C, device=images.device)
    y = (torch.arange(H, device=images.device) - down[:, None]) % H
    x = (torch.arange(W, device=images.device) - right[:, None]) % W
    return images[index[:, None, None, None], channel[:, None, None], y[:, None, :, None], x[:, None, None, :]]
