import pytest
import torch

from benchmark.errors import UserError
from benchmark.training import devices
from benchmark.training.devices import pick_device, pick_devices, warn_where_busy


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


@pytest.mark.parametrize(
    ("load", "threads", "device", "advised"),
    [
        ("2.10 1.00 0.50 3/200 99", 2, "cpu", "OMP_NUM_THREADS=1 "),
        ("1.00 1.00 0.50 2/200 99", 8, "cpu", "OMP_NUM_THREADS=7 "),
        ("8.00 8.00 8.00 9/200 99", 8, "cpu", "OMP_NUM_THREADS=1 "),
        ("2.00 1.00 0.50 1/200 99", 2, "cpu", None),  # what ran, ourselves perhaps, has ended
        ("0.05 0.01 0.01 3/200 99", 2, "cpu", None),  # something short runs
        ("2.10 1.00 0.50 3/200 99", 1, "cpu", None),
        ("2.10 1.00 0.50 3/200 99", 2, "cuda", None),
        (None, 2, "cpu", None),
    ],
)
def test_threads_that_would_wait_for_each_other_are_told_of(
    monkeypatch, tmp_path, caplog, load, threads, device, advised
):
    if load is not None:
        (tmp_path / "loadavg").write_text(load)
    monkeypatch.setattr(devices, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(devices, "cores", lambda: threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    warn_where_busy(torch.device(device))
    assert [advised in message for message in caplog.messages] == ([True] if advised else [])
