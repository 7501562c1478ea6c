"""The training subjects that one modality of a slice comes from, whatever pose it is in and whatever the others are.

Every modality is a picture of its own: centred on what it shows of the brain, as wide as that needs, and turned and
mirrored by itself, so that modalities moved apart do not hide each other. Likeness is |r| with the reference's same
modality over all turns and mirror, as in `alignment`; of the modalities the one counts in which one subject stands out
most.
"""

import numpy as np
import torch
from torch import Tensor

from analysis.alignment import Framed, best_rows, brains, turned
from analysis.mixtures import clearest
from analysis.neighbours import Rows


class SingleModalities:
    """Training slices, prepared for `nearest`. 13 kB of memory a slice of four modalities."""

    def __init__(self, images: np.ndarray | Rows, codes: np.ndarray, device: torch.device, chunk: int = 256) -> None:
        """images uint8 [N, C, H, W]; codes [N]: subjects 0 … S − 1."""
        self.device, self.codes = device, torch.from_numpy(np.asarray(codes, np.int64)).to(device)
        parts = [self._spectra(images[s : s + chunk]) for s in range(0, len(images), chunk)]
        self.spectra = [torch.cat(modality, 2) for modality in zip(*parts, strict=True)]

    def nearest(self, images: np.ndarray, chunk: int = 1024) -> tuple[Tensor, Tensor]:
        """Likeness [M, 2] to the nearest subject and to the nearest other, and the first one's row [M]."""
        found = []
        for ours, theirs in zip(self._spectra(images), self.spectra, strict=True):
            starts = range(0, len(self.codes), chunk)
            likeness = torch.cat([turned(ours, theirs[:, :, s : s + chunk])[0] for s in starts], 1)
            rows = best_rows(likeness, self.codes, 2)
            found.append((likeness.gather(1, rows), rows[:, 0]))
        return clearest(found)

    def _spectra(self, images: np.ndarray | Rows) -> list[Tensor]:
        images = np.asarray(images)
        alone = (np.ascontiguousarray(images[:, m : m + 1]) for m in range(images.shape[1]))
        return [Framed.of(*brains(modality, None, self.device)).spectra() for modality in alone]
