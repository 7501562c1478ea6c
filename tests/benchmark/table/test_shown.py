from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmark.table import shown


@pytest.fixture
def cells(tmp_path):
    """What MLflow's page is told of a table of one arm, by its Dice and that of the real-only arm."""

    def told(dice, dice_real):
        row = {
            "arm": "synthetic",
            "generator": "diffusion",
            "segmenter": "unet",
            "augmentation": "on",
            "region": "mean",
        }
        row |= {"dice": dice, "dice_real": dice_real, "ratio": dice / dice_real, "low": np.nan, "high": np.nan}
        pd.DataFrame([row]).to_parquet(tmp_path / "ratios.parquet")
        table = shown.Table(jobs=[], results={}, analyzed=SimpleNamespace(path=tmp_path))
        return {cell["arm"]: numbers for cell, numbers in shown._cells(table)}

    return told


def test_real_only_cells_have_ratio_1(cells):
    assert cells(0.4, 0.5) == {"real": {"dice": 0.5, "ratio": 1.0}, "synthetic": {"dice": 0.4, "ratio": 0.8}}


def test_where_every_real_only_training_failed_there_is_no_real_cell(cells):
    assert cells(0.4, np.nan) == {"synthetic": {"dice": 0.4}}
