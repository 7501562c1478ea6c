import os

import pytest

from benchmark import cores


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(cores, {group: content of its cpu.max}, own group) is what the process finds."""

    def be(count, quotas, own):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))
        for group, content in quotas.items():
            (tmp_path / group).mkdir(parents=True, exist_ok=True)
            (tmp_path / group / "cpu.max").write_text(content)
        (tmp_path / "own").write_text(f"1:name=systemd:/other\n{own}\n")
        monkeypatch.setattr(cores, "CGROUPS", tmp_path)
        monkeypatch.setattr(cores, "CGROUP", tmp_path / "own")

    return be


@pytest.mark.parametrize(
    ("quotas", "own", "expected"),
    [
        ({}, "0::/", 64),
        ({"": "max 100000\n"}, "0::/", 64),
        ({"": "400000 100000\n"}, "0::/", 4),  # a container sees its own group as the root
        ({"": "250000 100000\n"}, "0::/", 2),
        ({"": "50000 100000\n"}, "0::/", 1),
        ({"": "9900000 100000\n"}, "0::/", 64),
        ({"a": "800000 100000\n", "a/b": "max 100000\n"}, "0::/a/b", 8),
        ({"a": "800000 100000\n", "a/b": "300000 100000\n"}, "0::/a/b", 3),
        ({"elsewhere": "100000 100000\n"}, "0::/a/b", 64),
        ({"": "100000 100000\n"}, "4:cpu:/", 64),  # control groups of the first version only
    ],
)
def test_cores_are_those_of_the_tightest_quota(machine, quotas, own, expected):
    machine(64, quotas, own)
    assert cores.cores() == expected


def test_without_control_groups_affinity_decides(machine, monkeypatch, tmp_path):
    machine(3, {}, "0::/")
    monkeypatch.setattr(cores, "CGROUP", tmp_path / "none")
    assert cores.cores() == 3
