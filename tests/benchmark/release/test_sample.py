"""The short script that strangers sample with decodes the annotation as we do."""

import importlib.util
import json
import shutil

import pytest
import torch

from benchmark.data.annotation import CODINGS, from_network
from benchmark.release import weights


@pytest.mark.parametrize("coding", CODINGS)
def test_it_decodes_every_coding_as_the_pipeline_does(tmp_path, coding):
    script = shutil.copy(weights.__file__.replace("weights.py", "sample.py"), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"annotation": coding}))
    spec = importlib.util.spec_from_file_location("sample", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = torch.rand(4, 4 + CODINGS[coding].planes, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    _, labels, _ = from_network(drawn, coding)
    assert torch.equal(module.classes(drawn[:, 4:]).byte(), labels)
    assert labels.unique().tolist() == [0, 1, 2, 3]
