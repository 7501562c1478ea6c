"""The house: imports go one way, and what is declared twice agrees."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import generators
import segmenters
from benchmark.parsing import STAGES, parse

ROOT = Path(__file__).parents[1]

# A module may import from its own layer and from those below it.
LAYERS = [
    {"benchmark.errors", "benchmark.progress", "benchmark.files", "benchmark.names"},
    {"benchmark.config", "benchmark.parsing", "benchmark.preset_files", "benchmark.values", "benchmark.data"},
    {"benchmark.training", "benchmark.tracking"},
    {"benchmark.stages", "benchmark.report"},
    {"benchmark.table"},
    {"benchmark.tune"},
    {"benchmark.__main__"},
]
LIBRARIES = ("analysis", "generators", "segmenters")


def _modules():
    for package in ("benchmark", *LIBRARIES):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _layer(name):
    for level, prefixes in enumerate(LAYERS):
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
            return level
    return None


@pytest.mark.parametrize(
    ("module", "path"), list(_modules()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_go_one_way(module, path):
    own = module.partition(".")[0]
    for imported in _imports(path):
        package = imported.partition(".")[0]
        if own in LIBRARIES:
            assert package not in {"benchmark", *LIBRARIES} - {own}, f"{module} imports {imported}"
            assert package not in {"mlflow", "argparse", "pathlib"}, f"{module} imports {imported}"
        elif package == "benchmark" and module != "benchmark":
            assert _layer(imported) is not None, f"{module} imports {imported}, which has no layer"
            assert _layer(imported) <= _layer(module), f"{module} imports {imported}, a layer above it"


def test_only_tracking_imports_mlflow():
    users = [module for module, path in _modules() if any(name.startswith("mlflow") for name in _imports(path))]
    assert {user.rpartition(".")[0] for user in users} == {"benchmark.tracking"}


def test_nothing_unpickles_or_loads_yaml_unsafely():
    banned = re.compile(
        r"pickle\.loads?\(|weights_only=False|allow_pickle=True|yaml\.load\(|torch\.load\((?!.*weights_only)"
    )
    for module, path in _modules():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not banned.search(line), f"{module}:{number}: {line.strip()}"


def _lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_conda_environment_has_the_pins_of_the_lock():
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert set(pip) == _lock()


def test_every_dependency_is_pinned_exactly_once():
    pins = [line.partition("==")[0].lower().replace("_", "-") for line in _lock()]
    assert len(pins) == len(set(pins))
    assert all("==" in line for line in _lock())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.match(r"[\w-]+", name)[0].lower() for name in declared} <= set(pins)


def _entry_points():
    return yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def test_every_stage_and_every_model_is_an_entry_point():
    assert set(_entry_points()) == {"main", *STAGES, *generators.names(), *segmenters.names()}


@pytest.mark.parametrize("name", list(_entry_points()))
def test_every_entry_point_is_a_valid_call(name):
    entry = _entry_points()[name]
    defaults = {key: value["default"] for key, value in entry.get("parameters", {}).items()}
    program, stage, *arguments = entry["command"].format(**defaults).removeprefix("python -m ").split()
    assert program == "benchmark"
    config = parse(stage, dict(zip([key[2:] for key in arguments[::2]], arguments[1::2], strict=True)))
    if name in generators.names():
        assert config.train_generator.model == name
    if name in segmenters.names():
        assert config.train_segmenter.segmenter == name
