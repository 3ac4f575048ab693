"""The README's Python runs, top to bottom, and its two commands are what CI runs."""

import re
from pathlib import Path

import pytest

import relprop

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_python_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 1
    names: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "largest leak" in capsys.readouterr().out
    assert (tmp_path / "explained" / "manifest.json").is_file()


def test_the_two_commands_are_there_once_each():
    commands = re.findall(r"^pip install .*$", README, flags=re.MULTILINE)
    assert commands == ['pip install -e ".[demo]" && relprop explain', 'pip install -e ".[dev]" && pytest']
    runner = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "from_readme 'relprop explain'" in runner
    assert "from_readme 'pytest'" in runner


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists(), link


def test_it_is_short():
    assert len(README.splitlines()) <= 100


def test_the_composites_that_it_lists_are_those_there_are_and_each_is_public():
    from relprop.core.composites.presets import COMPOSITES

    listed = re.search(r"^Composites: (.*?)\.$", README, flags=re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert re.findall(r"`([\w-]+)`", listed[1]) == COMPOSITES.names()
    assert {name.replace("-", "_") for name in COMPOSITES.names()} <= set(relprop.__all__)
