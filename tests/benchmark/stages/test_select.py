"""`selected:` before a set's name, without anything trained: what it needs, and what it is called."""

import pytest

from benchmark.data import synthetic
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import fingerprint, needs, select
from benchmark.table.cells import jobs


def configured(stage, **keys):
    return parse(stage, {"preset": "smoke", **keys})


def test_a_selected_set_is_what_a_filter_leaves_of_the_whole_which_was_judged():
    config = configured("audit", synthetic="selected:stylegan2")
    parent, its_config = needs("audit", config)["synthetic"]
    assert (parent, its_config.select.synthetic) == ("select", "stylegan2")
    behind = needs(parent, its_config)
    assert {name: need.stage for name, need in behind.items()} == {
        "prepare": "prepare",
        "synthetic": "sample",
        "audit": "audit",
        "attack": "attack",
    }
    assert behind["audit"].config.audit.synthetic == behind["attack"].config.attack.synthetic == "stylegan2"
    assert synthetic.name_of(config, "selected:stylegan2") == "stylegan2 (selected)"
    assert synthetic.generator_of(config, "selected:stylegan2") == "stylegan2"


def test_the_attack_on_it_still_finds_every_training():
    config = configured("attack", synthetic="selected:stylegan2", ensemble="2")
    found = needs("attack", config)
    assert found["synthetic"].stage == "select"
    assert [found[f"train_generator_{i}"].config.train_generator.seed for i in range(2)] == [0, 1]
    assert {need.config.train_generator.model for name, need in found.items() if "train" in name} == {"stylegan2"}


@pytest.mark.parametrize("stage", ["audit", "attack", "fidelity", "train_segmenter"])
def test_it_is_another_set_than_the_whole_and_than_by_another_rule(stage):
    more = {"train_on": "synthetic"} if stage == "train_segmenter" else {}
    whole = configured(stage, synthetic="stylegan2", **more)
    left = configured(stage, synthetic="selected:stylegan2", **more)
    uncopied = left.replace({"select.keep": "uncopied"})
    assert len({fingerprint(stage, each) for each in (whole, left, uncopied)}) == 3


def test_a_release_pulls_the_same_audits_as_a_call_for_them():
    config = configured("release", synthetic="stylegan2")
    pulled = needs("release", config)
    for stage in ("audit", "attack"):
        for name, given in ((stage, "selected:stylegan2"), (f"whole_{stage}", "stylegan2")):
            called = configured(stage, synthetic=given)
            assert fingerprint(*pulled[name]) == fingerprint(stage, called)


def test_what_it_makes_is_called_as_the_table_calls_it():
    config = configured("select", synthetic="stylegan2")
    assert select.tags(config)["model"] == synthetic.name_of(config, "selected:stylegan2")


def test_what_was_filtered_is_not_filtered_again():
    with pytest.raises(UserError, match="filtered already"):
        needs("select", configured("select", synthetic="selected:stylegan2"))


def test_several_in_a_table_are_no_paths_unless_they_name_folders(tmp_path):
    keys = {"model": "progressive_gan", "train_on": "synthetic", "work_dir": str(tmp_path)}
    planned = jobs(configured("benchmark", synthetic="selected:diffusion,selected:stylegan2", **keys))
    filtered = {job.config.select.synthetic for job in planned if job.stage == "select"}
    assert filtered == {"diffusion", "stylegan2"}
    (tmp_path / "there").mkdir()
    given = f"selected:{tmp_path}/there,selected:{tmp_path}/gone"
    with pytest.raises(UserError, match=rf"synthetic: '{tmp_path}/gone' does not exist"):
        jobs(configured("benchmark", synthetic=given, **keys))


def test_what_is_selected_must_be_a_set():
    with pytest.raises(UserError, match="neither a generator"):
        fingerprint("audit", configured("audit", synthetic="selected:stylegan4"))


def test_limits_are_judged_before_segmenters_are_trained():
    pulled = list(needs("release", configured("release", synthetic="stylegan2")).values())
    stages = [need.stage for need in pulled]
    assert stages.index("judge") < stages.index("evaluate")
