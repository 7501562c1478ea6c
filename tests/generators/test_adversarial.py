import pytest
import torch

from generators.adversarial import lazy_adam
from generators.base import is_due


def test_lazy_regularization_slows_adam():
    """1912.04958, Appendix B: λ' = cλ and β' = β^c with c = k / (k + 1)."""
    weights = [torch.nn.Parameter(torch.zeros(1))]
    (group,) = lazy_adam(weights, 0.002, 16).param_groups
    assert group["lr"] == pytest.approx(0.002 * 16 / 17)
    assert group["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))
    (group,) = lazy_adam(weights, 0.002, None).param_groups
    assert (group["lr"], group["betas"]) == (0.002, (0.0, 0.99))


def test_a_regularization_step_is_due_once_per_interval():
    due = [is_due(seen, 8, 16) for seen in range(0, 8 * 64, 8)]
    assert [i for i, value in enumerate(due) if value] == [0, 16, 32, 48]
