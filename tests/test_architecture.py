"""What docs/architecture.md says of the package, held on the syntax trees, and what fairseq registers of it."""

import ast
import importlib.util
import json
import os
import re
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

PAGE = ROOT / "docs" / "architecture.md"
ROWS = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
# what each room may import of the package, beside itself and compat.py
ARROWS = {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in ROWS}
LONG = 300  # lines


# what the files beside the rooms may import
BESIDE_ROOMS = {
    "__init__": {"registration", "inference"},
    "__main__": {"cli"},
    "command_line": {"errors", "files"},
}
# what every room may import, except pruning
SHARED = {"constants", "compat", "errors", "registration", "files", "command_line"}


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


def in_package():
    return sorted(PACKAGE.rglob("*.py"))


def test_imports_run_one_way():
    found = []
    for path in in_package():
        used = {used for used in map(folder_of, imports(path)) if used}
        room = path.relative_to(PACKAGE).parts[0]
        if path.parent == PACKAGE:
            allowed = BESIDE_ROOMS.get(path.stem, {"compat"})
        else:
            allowed = ARROWS[room] | {room} | (SHARED if room != "pruning" else set())
        found += [f"{name_of(path)} imports {other}" for other in sorted(used - allowed)]
    assert found == []


def test_pruning_stands_on_torch_alone():
    foreign = [
        f"{name_of(path)} imports {name}"
        for path in sorted((PACKAGE / "pruning").rglob("*.py"))
        for name in imports(path)
        if name.split(".")[0] not in ("torch", "fairseq_prune") and not in_standard_library(name)
    ]
    assert foreign == []


def test_the_package_does_not_import_its_scripts():
    others = {"scripts", "data_prep", "examples", "tests"}
    found = [
        f"{name_of(path)} imports {name}"
        for path in in_package()
        for name in imports(path)
        if name.split(".")[0] in others
    ]
    assert found == []


def test_every_room_of_the_package_is_on_the_page():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ARROWS)


def test_arrows_never_run_in_a_circle():
    below = {room: set(allowed) for room, allowed in ARROWS.items()}
    while below:
        free = {room for room, allowed in below.items() if not allowed}
        assert free, f"these rooms import each other: {sorted(below)}"
        below = {room: allowed - free for room, allowed in below.items() if room not in free}


def test_a_long_file_says_why_it_is_long():
    wrong = []
    for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        reason = "Over 300 lines:" in (ast.get_docstring(ast.parse(text)) or "")
        if len(text.splitlines()) > LONG and not reason:
            wrong.append(name_of(path))
    assert wrong == []


def test_names_of_test_files_are_unique():
    """pytest imports them without their folders, and stops at the second of a name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_nothing_runs_code_from_files():
    """Checkpoints come through fairseq_prune/checkpoints/loading.py, and options are not evaluated."""
    runs_code = {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "torch.hub.load"}
    found = [
        f"{name_of(path)}:{line}: {name}"
        for path in SOURCES
        if path != PACKAGE / "compat.py"
        for line, name in calls(path)
        if name in runs_code
    ]
    assert found == []


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
from importlib import import_module

def modules():
    from fairseq import criterions, models, registry, tasks
    kinds = {kind: found["registry"] for kind, found in registry.REGISTRIES.items()}
    kinds["model"], kinds["task"] = models.MODEL_REGISTRY, tasks.TASK_REGISTRY
    kinds["model_architecture"] = models.ARCH_MODEL_REGISTRY
    return {kind: {name: cls.__module__ for name, cls in found.items()} for kind, found in kinds.items()}

user_dir, order = sys.argv[1], sys.argv[2]
fairseqs_own = None
if order == "user-dir first":
    from fairseq import utils
    fairseqs_own = modules()
elif order == "package first":
    from fairseq import utils
    import fairseq_prune
else:
    import_module(order)
    from fairseq import utils
utils.import_user_module(argparse.Namespace(user_dir=user_dir))
print(json.dumps([fairseqs_own, modules()]))
"""


# what is imported before fairseq: light, or what imports fairseq itself
BEFORE_FAIRSEQ = ("fairseq_prune", "fairseq_prune.models.whisper")


@pytest.mark.parametrize("order", ["user-dir first", "package first", *BEFORE_FAIRSEQ])
def test_what_we_register_is_ours_and_takes_no_name_of_fairseq(order, tmp_path):
    """For a name that is taken, fairseq-fixed quietly goes on with the class that has it."""
    output = subprocess.run(
        [sys.executable, "-c", REGISTRIES, str(PACKAGE), order],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
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
