import pytest
import torch
from torch import nn

from generators.base import Generator, GeneratorConfig


class Straight(Generator):
    """A generator of one number, to see what the base class does with it."""

    def __init__(self) -> None:
        super().__init__(1, 1, GeneratorConfig())
        self.networks = {"only": nn.Linear(2, 1, bias=False)}
        self.ema = {"only": nn.Linear(2, 1, bias=False)}
        self.optimizers = {"only": torch.optim.SGD(self.networks["only"].parameters(), lr=1.0)}
        for network in (*self.networks.values(), *self.ema.values()):
            nn.init.zeros_(network.weight)

    def train_step(self, images, seen):
        raise NotImplementedError

    def sample(self, seeds):
        raise NotImplementedError


@pytest.mark.parametrize(("clip", "moved"), [(1e9, [3.0, 4.0]), (5.0, [3.0, 4.0]), (1.0, [0.6, 0.8])])
def test_a_step_goes_down_the_gradient_and_tells_its_norm(clip, moved):
    model = Straight()
    norm = model.step("only", -(model.networks["only"].weight * torch.tensor([3.0, 4.0])).sum(), clip)
    assert norm.item() == 5
    assert model.networks["only"].weight[0].tolist() == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize(
    ("seen", "share"),
    [
        (10_000, 0.5),  # one half-life of 100 images is seen
        (0, 0.5**20),  # 5 % of 100 images: half-lives of 5
        (900, 0.25),  # 5 % of 1,000 images: of 50
    ],
)
def test_averages_halve_the_past_every_half_life(seen, share):
    model = Straight()
    nn.init.ones_(model.networks["only"].weight)
    model.update_averages(100, seen, half_life=100, ramp=0.05)
    assert model.ema["only"].weight[0].tolist() == pytest.approx([1 - share] * 2, abs=1e-6)


@pytest.mark.parametrize("broken", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("clip", [float("inf"), 1.0])
def test_a_gradient_that_is_not_finite_in_one_place_leaves_the_rest_of_the_network_alone(broken, clip):
    model = Straight()
    weight = model.networks["only"].weight
    weight.register_hook(lambda gradient: torch.tensor([[broken, 3.0]]))
    norm = model.step("only", weight.sum(), clip)
    expected = torch.tensor([torch.tensor(broken).nan_to_num(0.0, 1e5, -1e5), 3.0])
    assert norm.item() == pytest.approx(float(expected.norm()))
    moved = -expected * min(1.0, clip / float(expected.norm()))
    assert weight[0].tolist() == pytest.approx(moved.tolist(), rel=1e-4)
    assert [float(model.repaired()["repaired_gradients"]) for _ in range(2)] == [1, 0]
