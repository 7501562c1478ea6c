"""The house: imports go one way, and what is declared twice agrees."""

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

import generators
import segmenters
from benchmark.parsing import STAGES, parse

ROOT = Path(__file__).parents[1]

PAGE = (ROOT / "docs" / "architecture.md").read_text()

# A module may import from its own layer and from those above it in this list.
LAYERS = [
    {"errors", "progress", "files", "names", "cores"},
    {"config", "parsing", "preset_files", "values", "data"},
    {"training", "tracking"},
    {"stages", "report", "release"},
    {"table", "tune", "studies"},
    {"__main__"},
]
LIBRARIES = ("analysis", "generators", "segmenters")
PACKAGES = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for package in ("benchmark", *LIBRARIES)
    for path in (ROOT / package).rglob("__init__.py")
)


def _modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("benchmark", *LIBRARIES)
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def _imports(source: str, nested: bool = True) -> set[str]:
    """What a module imports, `package.module.name` where a name is taken; `nested`: inside functions, too."""
    tree = ast.parse(source)
    found = set()
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _layer(module: str) -> int | None:
    room = module.split(".")[1]
    return next((level for level, rooms in enumerate(LAYERS) if room in rooms), None)


def test_imports_inside_functions_are_seen():
    source = "import a\ndef f():\n    if x:\n        from b.c import d\n"
    assert _imports(source) == {"a", "b.c.d"}
    assert _imports(source, nested=False) == {"a"}


@pytest.mark.parametrize("module", _modules())
def test_imports_go_one_way(module):
    own = module.partition(".")[0]
    for imported in _imports(_modules()[module].read_text()):
        package = imported.partition(".")[0]
        if own in LIBRARIES:
            assert package not in {"benchmark", *LIBRARIES} - {own}, f"{module} imports {imported}"
            assert package not in {"mlflow", "argparse", "pathlib"}, f"{module} imports {imported}"
        elif package == "benchmark" and module != "benchmark":
            assert _layer(imported) is not None, f"{module} imports {imported}, which has no layer"
            assert _layer(imported) <= _layer(module), f"{module} imports {imported}, a layer below it"


def test_nothing_imports_in_a_circle():
    modules = _modules()
    graph = {
        module: {
            imported if imported in modules else imported.rpartition(".")[0]
            for imported in _imports(path.read_text(), nested=False)
        }
        & modules.keys()
        for module, path in modules.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_only_tracking_imports_mlflow():
    users = {
        module
        for module, path in _modules().items()
        if any(name.partition(".")[0] == "mlflow" for name in _imports(path.read_text()))
    }
    assert users
    assert all(user.startswith("benchmark.tracking.") for user in users)


def test_every_room_is_installed_and_named_on_the_page():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(p.replace("/", ".") for p in PACKAGES)
    rooms = re.findall(r"^\| `([\w/]+)/` \|", PAGE, re.MULTILINE)
    assert sorted(rooms) == PACKAGES


def test_every_arrow_on_the_page_is_the_one_that_is_tested():
    lines = [re.findall(r"`(\w+)`", line) for line in re.findall(r"^\d\. (.*)", PAGE, re.MULTILINE)]
    assert len(lines) == len(LAYERS)
    for named, rooms in zip(lines[:-1], LAYERS[:-1], strict=True):
        assert named
        assert set(named) <= rooms


STEPS = re.findall(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", PAGE, re.MULTILINE)


def test_every_step_on_the_page_is_there():
    assert len(STEPS) >= 20
    for file, name in STEPS:
        body = ast.parse((ROOT / file).read_text()).body
        assert name in {getattr(node, "name", None) for node in body}, f"{file} has no {name}"


def test_no_module_keeps_state_that_calls_change():
    """What a call works with is handed to it; containers that a module keeps are constants."""
    for module, path in _modules().items():
        source = path.read_text()
        tree = ast.parse(source)
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree)), f"{module}: global"
        assert "contextvars" not in {name.partition(".")[0] for name in _imports(source)}, f"{module}: contextvars"
        kept = {target.id for node in tree.body for target in _targets(node)}
        for node in ast.walk(tree):
            for changed in _written(node):
                assert changed not in kept, f"{module}:{node.lineno}: writes to {changed}, which the module keeps"


def _targets(node):
    """The plain names that a statement assigns to."""
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [target for target in targets if isinstance(target, ast.Name)]


def _written(node):
    """Names of what a node changes in place: its items, its attributes, or itself by one of its methods."""
    changing = {"append", "extend", "add", "update", "setdefault", "pop", "popitem", "clear", "insert", "remove"}
    if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
        changed = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in changing:
        changed = node.func.value
    else:
        return []
    return [changed.id] if isinstance(changed, ast.Name) else []


def test_nothing_unpickles_or_loads_yaml_unsafely():
    banned = re.compile(
        r"pickle\.loads?\(|weights_only=False|allow_pickle=True|torch\.load\((?!.*weights_only)"
        r"|yaml\.load\((?!.*yaml\.BaseLoader)"  # which makes texts, lists and mappings alone
    )
    for module, path in _modules().items():
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
