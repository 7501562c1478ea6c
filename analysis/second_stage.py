"""The second stage of the audit: copies in another pose, contrast or shape, of a part, or of two patients at once.

Every kind of search gives two likenesses: to the nearest training subject (l₁) and to the nearest other one (l₂). Two
different people resemble a third about alike, however smooth, noisy or recoloured the slice; a copy stands out. So the
evidence of one search is the log of how much farther the second is than the first,

    e = log (1 − l₂ + ε) / (1 − l₁ + ε).

Searches differ in how large e gets by chance. They are brought to one scale by the null's median and 90th percentile,
z = (e − q₅₀) / (q₉₀ − q₅₀), and the *combined evidence* is the largest z. That is recalibrated on the null once more: a
held-out slice is scaled by the quantiles of the other held-out subjects, as a new slice is by those of all (Barber et
al., Annals of Statistics 49:486, 2021, on why leaving out is needed). Not by ranks: these end at 1 / (n + 1), which
several searches reach at once.
"""

import numpy as np
import pandas as pd
import torch

from analysis import alignment
from analysis.alignment import Poses
from analysis.blends import Blends
from analysis.mixtures import Mixtures, evidence
from analysis.neighbours import Rows
from analysis.progress import progress_bar
from analysis.single_modalities import SingleModalities
from analysis.tumours import Tumours

CHUNK = 16  # slices searched at once
LEAST = 10  # held-out slices with a lesion that the search of lesions needs for its scale
SEARCHES = ("as is", "pose", "bent", "lesion", "tumour", "half", "swap", "pair", "single", "blend")


class SecondStage:
    """Training slices, prepared for all searches. 50 kB of memory a slice, up to 83 with annotations."""

    def __init__(
        self,
        images: np.ndarray | Rows,
        subjects: np.ndarray,
        labels: np.ndarray | Rows | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """images uint8 [N, C, H, W], subjects [N], two at least; labels uint8 [N, 1, H, W], for lesions and tumours."""
        device = torch.device(device)
        codes = np.unique(subjects, return_inverse=True)[1]
        self.brains = Poses(images, codes, None, alignment.brains, device)
        self.lesions = None if labels is None else Poses(images, codes, labels, alignment.lesions, device)
        self.mixtures = Mixtures(images, codes, device)
        self.alone = {"single": SingleModalities(images, codes, device), "blend": Blends(images, codes, device)}
        if labels is not None:
            tumours = Tumours(images, codes, labels, device)
            self.alone |= {"tumour": tumours} if tumours.known else {}

    def search(
        self, images: np.ndarray | Rows, labels: np.ndarray | Rows | None = None, name: str = "second stage"
    ) -> pd.DataFrame:
        """A row per slice: the evidence of every search, and `<search>_row`, the training slice that it speaks of.

        images uint8 [M, C, H, W], labels uint8 [M, 1, H, W]. Evidence is NaN where there is nothing to search, which is
        for lesions where nothing is annotated.
        """
        parts = []
        with progress_bar(len(images), name, "slice") as progress:
            for start in range(0, len(images), CHUNK):
                piece = slice(start, start + CHUNK)
                parts.append(self._searched(np.asarray(images[piece]), None if labels is None else labels[piece]))
                progress.update(len(parts[-1]))
        return pd.concat(parts, ignore_index=True)

    def _searched(self, images: np.ndarray, labels: np.ndarray | Rows | None) -> pd.DataFrame:
        found = dict(zip(("pose", "bent"), self.brains.nearest(images, None, bend=True), strict=True))
        if self.lesions is not None and labels is not None:
            found["lesion"] = self.lesions.nearest(images, np.asarray(labels), bend=False)[0]
        table = {}
        for search, (likeness, rows) in found.items():  # of K subjects
            values, order = likeness.topk(2, 1)
            table[search] = evidence(values)
            table[f"{search}_row"] = rows.gather(1, order)[:, 0]
            if search == "lesion":
                table[search] = torch.where(values[:, 0] > 0, table[search], torch.nan)
        alone = {search: prepared.nearest(images) for search, prepared in self.alone.items()}
        for search, (values, row) in (self.mixtures.nearest(images) | alone).items():
            table |= {search: evidence(values), f"{search}_row": row}
        return pd.DataFrame({column: values.cpu().numpy() for column, values in table.items()})


class Combined:
    """What a set's evidence is worth, by the null's.

    null [n, searches] : evidence of held-out slices, of `subjects` [n]. `null` becomes their combined evidence [n].
    """

    def __init__(self, null: pd.DataFrame, subjects: np.ndarray) -> None:
        enough = min(LEAST, len(null))
        self.searches = [search for search in SEARCHES if search in null and null[search].notna().sum() >= enough]
        values = null[self.searches].to_numpy()
        self.scale = _scale(values)
        self.null = np.empty(len(null))
        names = np.unique(subjects)
        for name in names:
            theirs = subjects == name
            scale = _scale(values[~theirs]) if len(names) > 1 else self.scale
            # Where the others leave a search without slices, all have to do.
            scale = np.where(np.isnan(scale), self.scale, scale)
            self.null[theirs] = np.nanmax(_standard(values[theirs], scale), 1)

    def of(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The combined evidence of slices [M], the search that gives it, and the training slice that it speaks of."""
        standard = _standard(table[self.searches].to_numpy(), self.scale)
        best = np.nanargmax(standard, 1)
        rows = np.stack([table[f"{search}_row"] for search in self.searches], 1)
        everyone = np.arange(len(table))
        return standard[everyone, best], np.array(self.searches)[best], rows[everyone, best]


def _scale(values: np.ndarray) -> np.ndarray:
    """Median and 90th percentile of every search's evidence [n, searches] where it is known, [2, searches]."""
    known = [column[~np.isnan(column)] for column in values.T]
    return np.array([np.quantile(column, [0.5, 0.9]) if len(column) else (np.nan, np.nan) for column in known]).T


def _standard(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (values - scale[0]) / np.maximum(scale[1] - scale[0], 1e-3)
