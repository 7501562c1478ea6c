"""What the command line accepts, refuses, and where it puts it."""

import subprocess
import sys

import pytest
import yaml

from benchmark import parsing
from benchmark.config import Config
from benchmark.errors import UserError
from benchmark.parsing import parse, resolve_model
from benchmark.preset_files import PRESETS


def test_a_bare_key_goes_to_the_called_stage_before_the_stages_it_pulls():
    config = parse("train_segmenter", {"preset": "smoke", "images": "100", "seed": "3"})
    smoke = parse("train_segmenter", {"preset": "smoke"})
    assert config.train_segmenter.images == 100
    assert config.train_segmenter.seed == 3
    assert config.train_generator == smoke.train_generator
    assert config.prepare.seed == 0


def test_a_key_that_the_stage_lacks_goes_to_the_nearest_stage_that_has_it():
    config = parse("evaluate", {"preset": "smoke", "images": "100", "model": "diffusion"})
    assert config.train_segmenter.images == 100
    assert config.train_generator.model == "diffusion"
    assert config.train_generator.images != 100


def test_a_budget_for_the_whole_table_reaches_generators_and_segmenters():
    config = parse("benchmark", {"preset": "smoke", "images": "100"})
    assert config.train_segmenter.images == config.train_generator.images == 100


def test_a_dotted_key_names_one_stage():
    config = parse("evaluate", {"preset": "smoke", "train_generator.images": "77"})
    assert config.train_generator.images == 77
    assert config.train_segmenter.images != 77


def test_the_command_line_beats_the_preset_which_beats_the_defaults(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text(yaml.safe_dump({"extends": "smoke", "sample": {"samples": 5}, "prepare": {"seed": 4}}))
    config = parse("sample", {"preset": str(preset), "prepare.seed": "9"})
    assert config.sample.samples == 5
    assert config.prepare.seed == 9
    assert config.prepare.image_size == parse("sample", {"preset": "smoke"}).prepare.image_size
    assert config.audit == Config().audit


def test_lists_are_comma_separated():
    config = parse("benchmark", {"preset": "smoke", "model": "diffusion, stylegan3", "augment": "true,false"})
    assert config.analyze.model == ("diffusion", "stylegan3")
    assert config.analyze.augment == (True, False)


@pytest.mark.parametrize(
    ("stage", "given", "says"),
    [
        ("train_generator", {"imges": "1"}, "did you mean 'images'"),
        ("train_generator", {"channel_base": "64"}, "did you mean 'stylegan3.channel_base'"),
        ("train_generator", {"images": "0"}, "greater than or equal to 1"),
        ("train_generator", {"images": "many"}, "train_generator.images"),
        ("train_generator", {"model": "stylegan9"}, "stylegan3"),
        ("train_generator", {"samples": "5"}, "unknown key 'samples'"),  # sampling comes after training
        ("prepare", {"strict": "perhaps"}, "prepare.strict"),
        ("prepare", {"image_size": "65"}, "multiple of 8"),
        ("prepare", {"preset": "demoo"}, "did you mean 'demo'"),
        ("benchmark", {"train_segmenter.seed": "1"}, "unknown key"),  # the table sets it: repeats and seed
        ("benchmark", {"segmenter": "unet,vnet"}, "vnet"),
        ("trian_generator", {}, "did you mean 'train_generator'"),
        ("prepare", {"models.x": "1"}, "unknown key"),
        ("prepare", {"device": "tpu"}, "device"),
    ],
)
def test_what_is_wrong_is_refused_by_name(stage, given, says):
    with pytest.raises(UserError) as refusal:
        parse(stage, {"preset": "smoke", **given})
    assert says in str(refusal.value)


def test_a_model_key_is_checked_against_the_model():
    with pytest.raises(UserError, match=r"did you mean 'channel_base'"):
        resolve_model(parse("train_generator", {"preset": "smoke", "stylegan3.chanel_base": "64"}), "stylegan3")
    with pytest.raises(UserError, match=r"stylegan3\.channel_base.*got '-1'"):
        resolve_model(parse("train_generator", {"preset": "smoke", "stylegan3.channel_base": "-1"}), "stylegan3")
    widths = parse("train_segmenter", {"preset": "smoke", "unet.widths": "4,8,16"})
    assert resolve_model(widths, "unet")["widths"] == [4, 8, 16]


@pytest.mark.parametrize("content", ["prepare: 3", "prepre: {}", "prepare: {data_: x}", "- 1", "prepare: ["])
def test_a_preset_that_is_not_one_is_refused_with_its_path(tmp_path, content):
    preset = tmp_path / "bad.yaml"
    preset.write_text(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        parse("prepare", {"preset": str(preset)})


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_is_valid_down_to_its_models(preset):
    config = parse("benchmark", {"preset": preset})
    for name in config.models:
        resolve_model(config, name)


def test_every_key_has_a_description():
    for stage in parsing.STAGES:
        for section, key, field in parsing.reachable(stage):
            assert field.description, f"{section}.{key}"
    for key in parsing.model_keys():
        model, name = key.split(".")
        assert parsing.model_fields(model)[name].description, key


def _command(*arguments):
    return subprocess.run([sys.executable, "-m", "benchmark", *arguments], capture_output=True, text=True)


def _imported(call):
    """The packages that a call has imported when it ends, however deep."""
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in call.stderr.splitlines()}


def test_help_lists_every_key_without_importing_torch():
    call = [sys.executable, "-X", "importtime", "-m", "benchmark", "train_generator"]
    listed = subprocess.run([*call, "--help"], capture_output=True, text=True)
    assert listed.returncode == 0
    for key in ("model", "images", "batch_size", "data", "split", "preset", "work_dir", "device", "workers", "json"):
        assert f"--{key} " in listed.stdout
    refused = subprocess.run([*call, "--imges", "3"], capture_output=True, text=True)
    assert refused.returncode == 2
    for imported in (_imported(listed), _imported(refused)):
        assert {"benchmark", "pydantic"} <= imported  # nested imports are seen
        assert not imported & {"torch", "mlflow", "numpy", "pandas"}


def test_help_with_a_model_lists_its_keys():
    listed = _command("train_generator", "--model", "stylegan3", "--help")
    assert "--stylegan3.channel_base" in listed.stdout


def test_help_gives_a_default_and_what_this_call_has():
    lines = {
        line.split()[0]: line
        for line in _command("train_generator", "--images", "777", "--help").stdout.split("\n")
        if line
    }
    assert lines["--images"].endswith("default: 1000000; in this call: 777")
    assert lines["--model"].endswith("default: stylegan3")
    own = _command("train_generator", "--model", "stylegan2", "--preset", "cpu", "--help").stdout
    assert "default: logistic; in this call: wasserstein" in own


def test_who_stops_reading_help_gets_no_traceback():
    call = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    call.stdout.close()
    assert call.stderr.read() == ""
    assert call.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train_generator", "--imges", "3"], "did you mean 'images'"),
        (["train_generator", "images", "3"], "expected --key value"),
        (["train_generator", "--images", "3", "--images", "4"], "given twice"),
        (["no_such_stage"], "unknown stage"),
    ],
)
def test_a_wrong_call_ends_with_2_and_one_line(arguments, says):
    refused = _command(*arguments)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_the_overview_names_every_stage():
    overview = _command("--help")
    assert overview.returncode == 0
    assert all(stage in overview.stdout for stage in parsing.STAGES)
