"""How like the real images synthetic ones are, and how varied (PROTOCOL, section 5).

Distances compare features, float [N, D], as a network gives them: not standardized, as in the papers. What a number is
worth shows beside its floor, the same number for held-out real images; the floor is no zero, for slices of a patient
are alike, and the network was trained on the reference.
"""

import numpy as np

CHUNK = 1024  # rows of a matrix of all pairs that are held at once


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy with the kernel k(x, y) = (x·y / D + 1)³, unbiased, over all pairs.

    It sees means, covariances and skewness, and its expectation does not depend on the number of samples, so that small
    samples will do; where both sets are of one distribution it lies around 0, as often below as above.

    Bińkowski et al., ICLR 2018, section 4; the estimator: Gretton et al., JMLR 13 (2012), eq. 3.
    Raises ValueError for fewer than 2 samples, or features that differ in number or are not finite.
    """
    a, b = _features(a), _features(b)
    for features in (a, b):
        if len(features) < 2:
            raise ValueError(f"a kernel distance needs 2 samples of each set, not {len(features)}")
    return _mean_kernel(a) + _mean_kernel(b) - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def _mean_kernel(a: np.ndarray) -> float:
    """Mean of k over all pairs of different samples."""
    itself = ((np.einsum("nd,nd->n", a, a) / a.shape[1] + 1) ** 3).sum()
    return (_kernel_sum(a, a) - itself) / (len(a) * (len(a) - 1))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of k over all pairs."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a.shape[1]} and {b.shape[1]} features cannot be compared: take one extractor for both sets")
    total = 0.0
    for start in range(0, len(a), CHUNK):
        values = a[start : start + CHUNK] @ b.T / a.shape[1] + 1
        total += np.vdot(values * values, values)
    return total


def _features(features: np.ndarray) -> np.ndarray:
    """As float64: differences of large sums follow."""
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ValueError(f"features must be finite and of shape [N, D]; these have shape {list(features.shape)}")
    return features.astype(np.float64)
