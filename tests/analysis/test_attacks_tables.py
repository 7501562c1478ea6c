"""The table, figure and card of attacks: from verdicts of scores with a planted strength."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from analysis.attacks_tables import attack_figure, attack_lines, attack_table, over_all_sets
from tests.attacked import COLUMNS, found


def test_p_values_are_adjusted_over_every_set_of_the_report(attacks):
    verdicts = [
        each
        for sets in over_all_sets(attacks).values()
        for found in sets.values()
        for each in found["attacks"].values()
    ]
    p = np.array([verdict["p_value"] for verdict in verdicts])
    assert len(p) == 2 * 5 + 4
    by_hand = multipletests(p, method="holm")[1]
    assert [verdict["p_adjusted"] for verdict in verdicts] == pytest.approx(by_hand.tolist())
    assert over_all_sets({}) == {}


@pytest.fixture(scope="module")
def attacks():
    reason = "the set was sent without the generator that made it"
    return {
        "diffusion": {str(seed): found(1.5, seed, canaries=3) for seed in range(2)},
        "mine": {"all": found(0.0, columns=COLUMNS[:4], white_box=reason)},
    }


def _cells(table):
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_the_table_pools_repeats_and_says_what_was_not_run(attacks):
    table = attack_table(attacks, ["0", "1", "2"])
    cells, sets = _cells(table), attacks["diffusion"]
    assert table.columns == ["Measure", "Diffusion", "mine"]
    verdicts = [sets[seed]["attacks"]["ratio"] for seed in "01"]
    mean, (low, high) = np.mean([v["auc"] for v in verdicts]), sorted(v["auc"] for v in verdicts)
    bounds = min(v["auc_interval"][0] for v in verdicts), max(v["auc_interval"][1] for v in verdicts)
    name = "Membership by the set, beside other people"
    spread = f"{mean:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{mean:.2f} ({low:.2f} to {high:.2f})"
    assert cells[f"{name}: AUC"][0] == f"{spread} [{bounds[0]:.2f}, {bounds[1]:.2f}]"
    assert cells[f"{name}: control"][1].startswith("0.50 [")
    assert cells[f"{name}: true positives by chance"] == ["7.7\u00a0%"] * 2  # 1 / 13
    assert cells["Membership by the weights: AUC"][1] == "not measured"
    assert cells[f"{name}: canaries shown 16 times, AUC"][0].startswith("1.00 [")
    assert cells[f"{name}: canaries shown 16 times, AUC"][1] == "not measured"
    assert cells["Linked held-out patients, the control"] == ["60.0\u00a0%"] * 2
    assert cells["Linked: risk"] == ["0.75"] * 2  # (0.9 − 0.6) / (1 − 0.6)
    assert cells["Training / held-out patients"] == ["30 / 12"] * 2
    notes = " ".join(table.notes)
    assert "Membership by the weights: not run on mine: the set was sent without the generator" in notes
    assert "Diffusion: seed 2 missing" in notes
    assert "Canaries" in notes
    assert len(table.data) == 2 * 5 + 4
    assert table.data["auc"].between(0, 1).all()


def test_linking_that_fails_more_often_than_the_control_is_no_risk(attacks):
    found = attacks["mine"]["all"]
    worse = found["linked"] | {"members": 0.5, "held_out": 0.9, "risk": -4.0}
    nothing = found["linked"] | {"held_out": 1.0, "risk": None}
    for linked, printed in ((worse, "≤ 0"), (nothing, "not measured")):
        table = attack_table({"mine": {"all": found | {"linked": linked}}})
        assert _cells(table)["Linked: risk"] == [printed]


def test_a_card_names_the_same_attacks_whatever_they_found(attacks):
    (by_set, auc), (by_weights, _) = attack_lines([*attacks["diffusion"].values()])
    assert (by_set, by_weights) == ("By the set alone", "By the generator's weights")
    assert "guessing: 0.50" in auc
    assert attack_lines([found(1.5, critic="discriminator")])[1][0] == "By the discriminator, which is not released"
    assert [what for what, _ in attack_lines([*attacks["mine"].values()])] == ["By the set alone"]


def test_the_figure_shows_every_attack_s_auc_over_its_control(attacks):
    (axis,) = attack_figure(attacks).axes
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]
    assert len(means) == 5 + 4
    assert means[0] == pytest.approx(
        np.mean([each["attacks"]["ratio"]["auc"] for each in attacks["diffusion"].values()])
    )
    bands = [patch.get_bbox().intervalx for patch in axis.patches]
    assert len(bands) == 9
    assert all(low < 0.5 < high for low, high in bands)
    assert len(axis.get_yticks()) == 5
    with pytest.raises(ValueError, match="no attack was judged"):
        attack_figure({"mine": {"all": {"attacks": {}}}})
