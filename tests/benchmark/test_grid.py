"""What the table refuses before any of its jobs runs."""

import pytest

from benchmark.config import parse
from benchmark.errors import UserError
from benchmark.grid import jobs


@pytest.mark.parametrize("synthetic", ["a/set,b/set", "elsewhere/stylegan3"])
def test_two_sets_of_one_name_are_refused(synthetic):
    config = parse("benchmark", {"preset": "smoke", "model": "stylegan3", "synthetic": synthetic})
    with pytest.raises(UserError, match="two synthetic sets are called"):
        jobs(config)


def test_every_stage_run_comes_once_and_after_what_it_needs():
    planned = jobs(parse("benchmark", {"preset": "smoke", "model": "stylegan3", "repeats": "2"}))
    assert len({job.fingerprint for job in planned}) == len(planned)
    stages = [job.stage for job in planned]
    assert stages.count("prepare") == stages.count("train_generator") == stages.count("audit") == 1
    assert stages.count("evaluate") == 6  # three arms, two seeds
    assert stages.index("train_generator") < stages.index("sample") < stages.index("audit")
