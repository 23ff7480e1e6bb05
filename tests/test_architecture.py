"""What DESIGN.md says of the house, held on the syntax trees, and what fairseq registers of it."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fairseq_prune"
SOURCES = [
    path
    for folder in ("fairseq_prune", "scripts", "data_prep", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# what each folder of the package may import of the package, beside itself and compat.py
BELOW_CHECKPOINTS = {"pruning", "text", "modules", "data"}
BELOW_MODELS = BELOW_CHECKPOINTS | {"checkpoints", "cuts", "evaluation", "optim"}
ARROWS = {
    "pruning": set(),
    "text": {"pruning"},
    "optim": set(),
    "modules": {"pruning", "text"},
    "data": {"text"},
    "evaluation": {"text"},
    "checkpoints": BELOW_CHECKPOINTS,
    "cuts": BELOW_CHECKPOINTS | {"checkpoints"},
    "models": BELOW_MODELS,
    "tasks": BELOW_MODELS,
    "criterions": BELOW_MODELS,
    "inference": BELOW_MODELS | {"models", "tasks", "criterions"},
    "benchmarks": BELOW_MODELS | {"models", "tasks", "criterions", "inference"},
}


def name_of(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """Full names of all that a file imports, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def folder_of(import_name):
    """`pruning` for fairseq_prune.pruning.tokens, None for what is not of the package."""
    package, _, rest = import_name.partition(".")
    return rest.split(".")[0] if package == "fairseq_prune" else None


def in_standard_library(import_name):
    spec = importlib.util.find_spec(import_name.split(".")[0])
    origin = "built-in" if spec is None else spec.origin
    if origin in ("built-in", "frozen"):
        return True
    return origin.startswith(sysconfig.get_paths()["stdlib"]) and "site-packages" not in origin


def calls(path):
    """(line, name) of each call in a file: `eval`, `torch.load`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_imports_run_one_way(path):
    folder = path.relative_to(PACKAGE).parts[0]
    used = {used for used in map(folder_of, imports(path)) if used}
    if path.parent == PACKAGE:
        allowed = used if path.stem == "__init__" else {"compat"}
    else:
        allowed = ARROWS[folder] | {folder} | ({"compat"} if folder != "pruning" else set())
    assert used <= allowed, f"{name_of(path)} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "pruning").rglob("*.py")), ids=name_of)
def test_pruning_stands_on_torch_alone(path):
    foreign = {name for name in imports(path) if name.split(".")[0] not in ("torch", "fairseq_prune")}
    assert [name for name in sorted(foreign) if not in_standard_library(name)] == []


def test_the_package_does_not_import_its_scripts():
    others = {"scripts", "data_prep", "examples", "tests"}
    found = [
        (name_of(path), name)
        for path in PACKAGE.rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] in others
    ]
    assert found == []


def test_every_folder_of_the_package_has_its_arrows():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ARROWS)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_no_file_is_two_ideas(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_runs_code_from_files(path):
    """Checkpoints come through fairseq_prune/checkpoints/loading.py, and options are not evaluated."""
    runs_code = {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "torch.hub.load"}
    found = [f"{name_of(path)}:{line}: {name}" for line, name in calls(path) if name in runs_code]
    assert found == [] or path == PACKAGE / "compat.py"


def registered():
    """(kind, name, file) of every `@register_<kind>("<name>", ...)` in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", []):
                function = ast.unparse(getattr(decorator, "func", decorator)).split(".")[-1]
                if function.startswith("register_") and isinstance(decorator, ast.Call):
                    kind = function[len("register_") :]
                    name = decorator.args[1 if kind == "model_architecture" else 0]
                    assert isinstance(name, ast.Constant), f"{name_of(path)}: name not written out"
                    yield kind, name.value, name_of(path)


REGISTRIES = """
import argparse, json, sys
from fairseq import registry, utils

def modules():
    from fairseq import criterions, models, tasks
    kinds = {kind: found["registry"] for kind, found in registry.REGISTRIES.items()}
    kinds["model"], kinds["task"] = models.MODEL_REGISTRY, tasks.TASK_REGISTRY
    kinds["model_architecture"] = models.ARCH_MODEL_REGISTRY
    return {kind: {name: cls.__module__ for name, cls in found.items()} for kind, found in kinds.items()}

user_dir, package_first = sys.argv[1], sys.argv[2] == "package first"
fairseqs_own = None
if package_first:
    sys.path.insert(0, user_dir.rpartition("/")[0])
    import fairseq_prune
else:
    fairseqs_own = modules()
utils.import_user_module(argparse.Namespace(user_dir=user_dir))
print(json.dumps([fairseqs_own, modules()]))
"""


@pytest.mark.parametrize("order", ["user-dir first", "package first"])
def test_what_we_register_is_ours_and_takes_no_name_of_fairseq(order, tmp_path):
    """For a name that is taken, fairseq-fixed quietly goes on with the class that has it."""
    output = subprocess.run(
        [sys.executable, "-c", REGISTRIES, str(PACKAGE), order],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    fairseqs_own, now = json.loads(output.splitlines()[-1])
    names = list(registered())
    assert names
    for kind, name, file in names:
        assert now[kind].get(name, "").startswith("fairseq_prune."), f"{file}: {kind} {name} is not ours"
        assert fairseqs_own is None or name not in fairseqs_own[kind], f"{file}: {kind} {name} is taken"
    ours = {
        (kind, name)
        for kind, found in now.items()
        for name, module in found.items()
        if module.startswith("fairseq_prune.") and kind != "model_architecture"
    }
    assert ours == {(kind, name) for kind, name, _ in names if kind != "model_architecture"}
