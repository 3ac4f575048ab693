"""Every Python block of the documentation runs, page by page; every command in it names what exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from relprop.cli import app

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
SHELL = re.compile(
    r"^```(?:bash|sh|console)\n(.*?)^```|^((?:    (?:relprop|pip) [^\n]*\n)+)", flags=re.DOTALL | re.MULTILINE
)
WITH_CODE = [page for page in PAGES if PYTHON.search((ROOT / page).read_text(encoding="utf-8"))]


def commands(page: str) -> list[list[str]]:
    """The words of every `relprop` and `pip` command on a page."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for match in SHELL.finditer(text) for line in (match[1] or match[2]).splitlines()]
    parts = [part for line in lines for part in line.split("&&")]
    words = [shlex.split(part, comments=True) for part in parts]
    return [found for found in words if found and found[0] in ("relprop", "pip")]


def complaint(words: list[str]) -> str | None:
    """Why a `relprop` command line cannot be parsed, or None. Nothing is run, and no file is looked for."""
    group: Any = get_command(app)
    if len(words) > 1 and words[1] not in group.commands and not words[1].startswith("-"):
        return f"there is no command {words[1]!r}"
    if len(words) < 2 or words[1].startswith("-"):
        return None
    command = group.commands[words[1]]
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
        if words[0] == "relprop":
            assert complaint(words) is None, f"{page}: {shlex.join(words)}: {complaint(words)}"


@pytest.mark.parametrize("page", PAGES)
def test_extras_that_are_installed_exist(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for words in commands(page):
        for named in re.findall(r"(?:relprop|\.)\[([\w,]+)\]", shlex.join(words)):
            assert set(named.split(",")) <= set(extras), f"{page}: {shlex.join(words)}"


def test_a_wrong_command_line_is_noticed():
    assert complaint(["relprop", "explain", "a.jpg", "--target", "3"]) is None
    assert "no command" in str(complaint(["relprop", "explian", "a.jpg"]))
    assert "--tragte" in str(complaint(["relprop", "explain", "a.jpg", "--tragte", "3"]))
    assert "probabilty" in str(complaint(["relprop", "explain", "a.jpg", "--start", "probabilty"]))
    assert len(commands("docs/howto/own-resnet.md")) >= 5


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
