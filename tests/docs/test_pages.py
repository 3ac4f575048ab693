"""Every Python block of the documentation runs, page by page; every command in it names what exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import InvalidRequirement, Requirement

from commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs" / "tutorials").glob("*.ipynb"))
PYTHON = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
SHELL = re.compile(
    r"^```(?:bash|sh|console)\n(.*?)^```|^((?:    (?:relprop|pip) [^\n]*\n)+)", flags=re.DOTALL | re.MULTILINE
)
WITH_CODE = [page for page in PAGES if PYTHON.search((ROOT / page).read_text(encoding="utf-8"))]


def shell_lines(page: str) -> list[list[str]]:
    """The words of every command on a page, comments left out."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for match in SHELL.finditer(text) for line in (match[1] or match[2]).splitlines()]
    parts = [part for line in lines for part in line.split("&&")]
    words = [shlex.split(part, comments=True) for part in parts]
    return [found for found in words if found]


def commands(page: str) -> list[list[str]]:
    """The words of every `relprop` command on a page."""
    return [words for words in shell_lines(page) if words[0] == "relprop"]


def complaint(words: list[str]) -> str | None:
    """Why a `relprop` command line cannot be parsed, or None. Nothing is run, and no file is looked for."""
    if len(words) > 1 and words[1] not in COMMANDS.commands and not words[1].startswith("-"):
        return f"there is no command {words[1]!r}"
    if len(words) < 2 or words[1].startswith("-"):
        return None
    command = COMMANDS.commands[words[1]]
    try:
        command.make_context(words[1], words[2:], parent=None)
    except Exception as error:
        if "does not exist" not in str(error):
            return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("page", [page for page in WITH_CODE if page != "README.md"])  # which test_readme.py runs
def test_the_python_of_a_page_runs_top_to_bottom(page, tmp_path, monkeypatch):
    text = (ROOT / page).read_text(encoding="utf-8")
    for library in ("transformers", "quantus", "timm", "zennit", "gradio"):
        if re.search(rf"^(import|from) {library}\b", text, flags=re.MULTILINE):
            pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for match in PYTHON.finditer(text):
        before = "\n" * text.count("\n", 0, match.start(1))  # so that a traceback shows the line of the page
        exec(compile(before + match[1], str(ROOT / page), "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_existing_commands_and_options(page):
    for words in commands(page):
        assert (why := complaint(words)) is None, f"{page}: {shlex.join(words)}: {why}"


def no_install(words: list[str]) -> str | None:
    """Why what `pip install` is told cannot be installed from a clone, or None. Nothing is installed."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    if words[1:2] != ["install"]:
        return "pip is only told to install"
    for word in words[2:]:
        local = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", word)
        if local is not None:
            if missing := set((local[1] or "").split(",")) - {""} - set(extras):
                return f"there is no extra {', '.join(sorted(missing))}"
        elif not word.startswith("-"):
            try:
                name = Requirement(word).name
            except InvalidRequirement as error:
                return str(error)
            if name == "relprop":
                return "no registry has relprop: a clone is installed as . or .[EXTRAS]"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_a_shell_block_is_a_command_that_works_in_a_clone(page):
    for words in shell_lines(page):
        assert words[0] in ("relprop", "pip", "pytest", "python", "curl"), f"{page}: {shlex.join(words)}"
        if words[0] == "pip":
            assert no_install(words) is None, f"{page}: {shlex.join(words)}: {no_install(words)}"


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS])
def test_a_command_for_later_says_so_and_there_is_no_address_to_fill_in(page):
    text = (ROOT / page).read_text(encoding="utf-8").replace('\\"', '"')
    assert "git clone" not in text
    for found in re.finditer(r"pip install (-\S+ )*[\"']?relprop", text):
        before = " ".join(re.sub(r'\\n",|"', " ", text[: found.start()]).split())
        assert re.search(r"[Oo]nce relprop is published:( `)?$", before), f"{page}: {found[0]}"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('pip install "relprop[demo]"', "no registry has relprop"),
        ("pip install relprop", "no registry has relprop"),
        ("pip install relprop>=0.1", "no registry has relprop"),
        ('pip install ".[dmeo]"', "there is no extra dmeo"),
        ("pip install <the clone>", "Expected"),
        ("pip instal .", "only told to install"),
    ],
)
def test_what_cannot_be_installed_is_noticed(line, why):
    assert why in str(no_install(shlex.split(line)))


@pytest.mark.parametrize("line", ["pip install .", 'pip install -e ".[demo,web]"', "pip install --no-deps numpy"])
def test_what_can_be_installed_passes(line):
    assert no_install(shlex.split(line)) is None


def test_the_page_on_installing_names_every_extra_of_a_user():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs/howto/install.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert set(named) == set(extras) - {"docs", "bench"}


def test_a_wrong_command_line_is_noticed():
    assert complaint(["relprop", "explain", "a.jpg", "--target", "3"]) is None
    assert "no command" in str(complaint(["relprop", "explian", "a.jpg"]))
    assert "--tragte" in str(complaint(["relprop", "explain", "a.jpg", "--tragte", "3"]))
    assert "probabilty" in str(complaint(["relprop", "explain", "a.jpg", "--start", "probabilty"]))
    assert len(commands("docs/howto/own-resnet.md")) >= 5


def test_the_glossary_calls_what_other_libraries_have_by_its_name():
    lrp_rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    core, rules, layer = (pytest.importorskip(f"zennit.{part}") for part in ("core", "rules", "layer"))
    quantus = pytest.importorskip("quantus")
    text = (ROOT / "docs/explanation/glossary.md").read_text(encoding="utf-8")
    places = {
        lrp_rules: ("PropagationRule", "Alpha1_Beta0_Rule", "EpsilonRule", "GammaRule"),
        core: ("Hook", "BasicHook", "Composite"),
        rules: ("ZPlus", "Epsilon", "Gamma"),
        layer: ("Sum",),
        quantus: ("PixelFlipping", "RegionPerturbation"),
    }
    for place, names in places.items():
        for name in names:
            assert f"`{name}`" in text
            assert hasattr(place, name), f"{place.__name__} has no {name}"


def test_every_registry_has_a_table_in_the_reference():
    text = (ROOT / "docs/reference/choices.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^```\{registry\} (\S+)$", text, flags=re.MULTILINE))
    source = (path for path in (ROOT / "src").rglob("*.py"))
    made = {
        m
        for path in source
        for m in re.findall(r"^([A-Z]+): Registry\[", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    assert {place.split(":")[1] for place in named} == made


def test_every_public_name_is_in_the_reference():
    import relprop

    text = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    assert [name for name in relprop.__all__ if not re.search(rf":: relprop\.{name}\b", text)] == []
