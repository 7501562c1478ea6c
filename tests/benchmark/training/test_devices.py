import pytest
import torch

from benchmark.errors import UserError
from benchmark.training.devices import pick_device, pick_devices


@pytest.fixture
def gpus(monkeypatch):
    """gpus(count) lets torch see so many."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return see


def test_a_gpu_that_is_not_there_is_refused(gpus):
    gpus(0)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="device=cpu"):
        pick_device("cuda")
    gpus(2)
    with pytest.raises(UserError, match="there are 2 GPUs"):
        pick_device("cuda:2")


def test_independent_work_is_shared_by_all_gpus_unless_one_is_named(gpus):
    gpus(2)
    assert pick_devices("auto") == pick_devices("cuda") == [torch.device("cuda:0"), torch.device("cuda:1")]
    assert pick_devices("cuda:1") == [torch.device("cuda:1")]
    assert pick_devices("cpu") == [torch.device("cpu")]
