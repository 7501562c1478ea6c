"""Whether a set may leave, from audits and attacks written by hand."""

import json
from types import SimpleNamespace

import pytest

from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import fingerprint, judge
from tests import attacked


def audit():
    levels = ("tau95", "tau99")
    return {
        "copied_share": dict.fromkeys(levels, 0.0),
        "honest_share": dict.fromkeys(levels, 0.1),
        "n_null_subjects": 12,
        "controls": {kind: {"copied": {"tau99": 1.0}} for kind in ("exact", "mirrored", "blurred")},
    }


@pytest.fixture
def judged(tmp_path):
    """judged(attack, whole_attack, left of 100 slices, **keys) → the headline and the verdicts."""

    def judged(attack, whole_attack, left=95, **keys):
        found = {"audit": audit(), "whole_audit": audit(), "attack": attack, "whole_attack": whole_attack}
        folders = {name: tmp_path / name for name in found}
        for name, content in found.items():
            folders[name].mkdir(exist_ok=True)
            (folders[name] / f"{name.removeprefix('whole_')}.json").write_text(json.dumps(content))
        config = parse("release", {"preset": "smoke", "synthetic": "stylegan2", **keys})
        selected = SimpleNamespace(headline={"samples": left, "whole": 100})
        tracked = SimpleNamespace(log_artifact=lambda path: None)
        task = SimpleNamespace(config=config, folders=folders, folder=tmp_path, tracked=tracked)
        task.inputs = {"select": selected}
        headline = judge.run(task)
        return headline, json.loads((tmp_path / "verdicts.json").read_text())

    return judged


CALM, FOUND = attacked.found(0.0), attacked.found(3.0)


def test_what_the_filter_hid_from_the_attacks_is_found_before_it(judged):
    headline, verdicts = judged(CALM, CALM)
    assert headline["not_kept"] == []
    assert [each["value"] for each in verdicts if "filter" in each["name"]] == [pytest.approx(0.05)]
    with pytest.raises(UserError, match=r"images: p of the attack distance is .*at least 0.05 is needed"):
        judged(CALM, FOUND)


def test_without_a_filter_there_is_no_limit_on_it(judged):
    _, verdicts = judged(CALM, CALM, left=100, keep="all")
    assert not [each for each in verdicts if "filter" in each["name"]]


def test_a_generator_that_was_shown_patients_more_often_may_not_leave(judged):
    with pytest.raises(UserError, match="images: number of patients shown more often on purpose is 6, at most 0"):
        judged(attacked.found(0.0, canaries=3), attacked.found(0.0, canaries=3))


def test_a_sent_set_leaves_by_force_alone(judged, tmp_path):
    with pytest.raises(UserError, match="whom its generator learned from is not known"):
        judged(CALM, CALM, synthetic=str(tmp_path))
    headline, _ = judged(CALM, CALM, synthetic=str(tmp_path), force="true")
    assert len(headline["not_kept"]) == 7


def test_another_limit_is_another_release(tmp_path):
    (tmp_path / "terms").write_text("terms")
    given = {"preset": "smoke", "synthetic": "stylegan2", "licence": str(tmp_path / "terms")}
    configs = [
        parse("release", given | more) for more in ({}, {"most_auc": "0.7"}, {"force": "true"}, {"weights": "1"})
    ]
    assert len({fingerprint("release", config) for config in configs}) == len(configs)
