"""What the documents show can be pasted: Python compiles, programs and files exist, options are known."""

import ast
import os
import re
import shlex
from pathlib import Path

import hydra
import pytest
from fairseq import options
from fairseq.dataclass.initialize import add_defaults, hydra_init

import fairseq_prune.registration  # noqa: F401 (registers what commands name)

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
PATH = re.compile(r"(common\.user_dir|task\.data|checkpoint\.save_dir|\w+\.\w+_path)=")
PROGRAM = re.compile(r"(?:scripts|data_prep|examples)/[\w/]+\.(?:py|sh)")


def blocks(page, language):
    """The fenced blocks of a language in a page."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands(page):
    """The words of each shell command, without comments, with continued lines joined."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def names(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_python_compiles(page):
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def anchors(page):
    """What a link to a place in a page may name: its headings, as GitHub and mkdocs write them in addresses."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_to_headings(page):
    links = re.findall(r"\]\(([^)#:]*)#([^)]*)\)", page.read_text(encoding="utf-8"))
    dead = [
        f"{path}#{anchor}"
        for path, anchor in links
        if anchor not in anchors((page.parent / path) if path else page)
    ]
    assert dead == []


def parser_source(program):
    """The text of a program and of the modules of this package that it imports, which name its options."""
    seen, waiting = "", [program]
    done = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        text = path.read_text(encoding="utf-8")
        seen += text
        for name in re.findall(r"fairseq_prune(?:\.\w+)+", text):
            for end in range(2, len(name.split(".")) + 1):
                module = ROOT.joinpath(*name.split(".")[:end]).with_suffix(".py")
                if module.is_file():
                    waiting.append(module)
        if "from _cli" in text or "import _cli" in text:
            waiting.append(ROOT / "scripts" / "_cli.py")
    return seen


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_name_programs_and_options_that_exist(page):
    wrong = []
    for words in commands(page):
        program = next((word for word in words if PROGRAM.fullmatch(word)), None)
        if program is None:
            continue
        path = ROOT / program
        if not path.is_file():
            wrong.append(f"{program}: no such file")
        elif path.suffix == ".py":
            source = parser_source(path)
            options = {word.split("=")[0] for word in words if word.startswith("--")}
            wrong += [
                f"{program} {name}" for name in options if not re.search(rf'"{name}"|\b{name[2:]}\b', source)
            ]
    assert wrong == []


def of_program(page, *programs):
    """The arguments of each command of these programs."""
    for words in commands(page):
        for program in programs:
            if program in words:
                yield words[words.index(program) + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_are_complete(page):
    assert [words for words in commands(page) if "..." in words] == []


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_fairseq_parses_its_commands(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    parsers = {
        "fairseq-train": options.get_training_parser,
        "fairseq-generate": options.get_generation_parser,
    }
    for program, parser in parsers.items():
        for words in of_program(page, program):
            place = words.index("--user-dir")  # which fairseq imports once a process
            assert Path(words[place + 1]).is_dir()
            options.parse_args_and_arch(parser(), words[:place] + words[place + 2 :])


@pytest.mark.skipif(not hasattr(hydra, "compose"), reason="hydra 1.0 composes in an experimental module")
@pytest.mark.parametrize("page", PAGES, ids=names)
def test_hydra_composes_its_commands(page):
    hydra_init()
    for words in of_program(page, "fairseq-hydra-train"):
        words = [word.replace("$PWD", str(ROOT)) for word in words]
        given = {
            words[place]: words[place + 1] for place in range(len(words)) if words[place].startswith("--")
        }
        keys = [word for word in words if "=" in word]
        # hydra works in a folder of its own
        paths = [
            key
            for key in keys
            if re.match(r"(common\.user_dir|task\.data|checkpoint\.save_dir|\w+\.\w+_path)=", key)
        ]
        assert [key for key in paths if not os.path.isabs(key.partition("=")[2])] == []
        with hydra.initialize_config_dir(str(ROOT / given["--config-dir"]), version_base="1.1"):
            add_defaults(hydra.compose(given["--config-name"], keys))
