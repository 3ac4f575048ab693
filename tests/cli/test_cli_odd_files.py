"""Names and files that are unusual, or meant to harm: each costs itself alone, and a sentence."""

from __future__ import annotations

import json
import os
import resource

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from relprop.cli import app, console
from relprop.documents import printable, text_of

ODD = b"odd\xff\x1b[31m\n.png".decode("utf-8", "surrogateescape")


def relprop(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        app([str(argument) for argument in arguments], prog_name="relprop")
    said = capsys.readouterr()
    return int(exit.value.code or 0), said.out, said.err


@pytest.fixture
def odd(folder):
    """Beside the three photographs: a name that is no text, a link to itself, one to nowhere, a pipe."""
    Image.open(folder / "a.png").save(folder / ODD)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("there is none.png")
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.mark.parametrize("recursive", [(), ("--recursive",)])
def test_one_bad_name_does_not_stop_the_others(capsys, model, odd, recursive):
    code, out, _ = relprop(capsys, "explain", odd, *model, "--format", "npy", "--json", *recursive)
    found = json.loads(out)
    assert code == 1
    assert [one["image"].rpartition("/")[2] for one in found["images"]] == ["a.png", "b.png", "c.png", text_of(ODD)]
    why = {one["image"].rpartition("/")[2]: one["error"] for one in found["failures"]}
    assert why.keys() == {"loop.png", "nowhere.png", "pipe.png"}
    assert why["loop.png"].endswith("cannot be read: Too many levels of symbolic links")
    assert "there is no file" in why["nowhere.png"]
    assert "is a pipe, device or socket, not a regular file" in why["pipe.png"]


def test_a_report_and_maps_of_names_that_are_no_text(tmp_path, capsys, model, odd):
    code, out, err = relprop(capsys, "report", odd, *model, "-e", "none", "--out", tmp_path / "r.html")
    assert code == 1
    assert "odd\\udcff" in (tmp_path / "r.html").read_text(encoding="utf-8")
    code, out, err = relprop(capsys, "explain", odd / ODD, *model, "--out", tmp_path / "maps")
    assert (code, "\x1b" in out + err) == (0, False)
    assert "odd\\udcff\\x1b[31m\\n" in out
    code, _, err = relprop(capsys, "report", tmp_path / "maps", "--out", tmp_path / "again.html")
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "PIPE"],
        ["report", "PIPE"],
        ["explain", "--model", "PIPE"],
        ["explain", "--model", "PIPE.pt", "--arch", "resnet18"],
        ["explain", "--classes", "PIPE"],
        ["evaluate", "--data", "parquet:PIPE"],
        ["evaluate", "--data", "folder:PIPE"],
        ["evaluate", "--data", "folder:.", "-e", "lrp-cuts:reading=PIPE.json"],
        ["summary", "PIPE"],
        ["check-run", "PIPE"],
    ],
)
def test_a_pipe_on_the_command_line_does_not_hang(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    for suffix in ("", ".pt", ".json"):
        os.mkfifo(tmp_path / f"PIPE{suffix}")
    code, _, err = relprop(capsys, *arguments)
    assert (code, err.count("error:")) == (2, 1), err


def test_terminals_obey_no_name_and_no_metadata(capsys, tmp_path):
    path = tmp_path / "\x1b]0;title\x07\x9b31m\u202e.png"
    code, out, err = relprop(capsys, "explain", path)
    assert code == 2
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out + err)
    assert "\\x1b]0;title\\x07\\x9b31m\\u202e" in err
    console.out.print("\x1b[2J")
    table = console.table("name")
    table.add_row("\x1b[2J")
    console.show(table)
    console.write("\x1b[2J")
    console.print_json({"\x1b": "\x1b\udcff"})
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\udcff" not in json.loads(said[said.index("{") :]).values()


def test_text_is_left_as_it_is():
    for text in ("ein Bär", "a\tb\n", "z⁺ → R", "日本"):
        assert printable(text) == text_of(text) == text


@pytest.mark.parametrize("files", ["png", "npy"])
def test_a_full_disk_is_said_with_a_path(tmp_path, capsys, model, folder, files):
    """Files of this process may hold 1,000 bytes, which the system reports as it reports a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "maps"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        code, _, err = relprop(capsys, "explain", folder / "a.png", *model, "--format", files, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    assert f"error: {out}" in " ".join(err.split())
    assert "File too large" in err


def test_names_without_end_are_shortened(capsys, tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "long.safetensors", {"arch": json.dumps("a" * 10**6)})
    code, out, err = relprop(capsys, "check", tmp_path / "long.safetensors")
    assert (code, out) == (2, "")
    assert "no model is named 'aaa" in err
    assert "aaa...aaa" in err
    assert len(err) < 1000


def test_class_names_of_another_form_are_not_called_bad_json(capsys, tmp_path, model, folder):
    (tmp_path / "names.json").write_text("[1, 2, 3]")
    code, _, err = relprop(capsys, "explain", folder / "a.png", *model, "--classes", tmp_path / "names.json")
    assert code == 2
    assert "names.json must be a list of names" in err
    assert "no JSON" not in err
