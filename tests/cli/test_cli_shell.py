"""Exit codes, sentences, and how fast the command line answers."""

import json
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from relprop import cli
from relprop.cli import console
from relprop.errors import ConservationError, InputError

SCRIPT = [sys.executable, "-c", "from relprop.cli import main; main()"]


def run(*arguments: str, **options):
    return subprocess.run([*SCRIPT, *arguments], capture_output=True, text=True, timeout=120, **options)


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from relprop.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'torchvision', 'PIL', 'timm', 'pyarrow', 'polars', 'ray'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in cli.COMMANDS:
        assert command in done.stdout


def test_version():
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("relprop 0.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--foo"], "error: No such option: --foo (see: relprop --help)\n"),
        (
            ["explian"],
            "error: No such command 'explian'. Did you mean 'explain', 'explain-text'? (see: relprop --help)\n",
        ),
        (["explain", "--modle", "x"], "error: No such option: --modle"),
        (["explain", "--batch-size", "0"], "error: Invalid value for '--batch-size'"),
        (["explain", "--start", "odds"], "'odds' is not one of 'probability', 'logit'"),
    ],
)
def test_misuse_is_one_sentence_and_2(arguments, sentence):
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_without_a_command_the_help_is_shown():
    done = CliRunner().invoke(cli.app, [])
    assert done.exit_code == 2
    assert "Commands" in done.output
    assert "error" not in done.stderr


def outcome(command):
    """Run `command` in the real application under the name "probe"."""
    made = typer.Typer(cls=cli._Commands, pretty_exceptions_enable=False)
    made.callback()(cli._top)
    made.command("probe")(command)
    return CliRunner().invoke(made, ["probe"])


def raising(error):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("bird.png is no [image]"), 2, "error: bird.png is no [image]\n"),
        (ConservationError("layer1 keeps half"), 1, "error: layer1 keeps half\n"),
        (
            FileNotFoundError(2, "No such file or directory", "a/b.npy"),
            2,
            "error: a/b.npy: No such file or directory\n",
        ),
        (PermissionError(13, "Permission denied", "/out"), 2, "error: /out: Permission denied\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 2, "error: the device ran out of memory; try"),
        (IndexError("7"), 70, "error: this is a defect of relprop, please report it: IndexError: 7"),
    ],
)
def test_every_error_is_a_sentence_and_a_code(error, code, sentence, monkeypatch):
    monkeypatch.delenv("RELPROP_DEBUG", raising=False)
    done = outcome(raising(error))
    assert done.exit_code == code
    assert sentence in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(("given", "code"), [(0, 0), (1, 1), (None, 0)])
def test_a_command_returns_its_exit_code(given, code):
    def command():
        return given

    assert outcome(command).exit_code == code


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("RELPROP_DEBUG", "1")
    done = outcome(raising(InputError("no")))
    assert isinstance(done.exception, InputError)


def test_a_reader_that_leaves_costs_no_traceback():
    code = (
        "import typer; from relprop import cli\n"
        "made = typer.Typer(cls=cli._Commands); made.callback()(cli._top)\n"
        "@made.command()\n"
        "def flood():\n"
        "    for line in range(100000): print('x' * 100)\n"
        "made(['flood'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == cli.CLOSED_PIPE


def test_tables_are_whole_where_standard_output_is_a_file(capsys):
    made = console.table("image", ">gap")
    made.add_row("x" * 200, "1e-7")
    console.show(made)
    assert "x" * 200 in capsys.readouterr().out


def test_json_has_no_number_that_json_does_not_know(capsys):
    console.print_json({"gap": float("nan"), "rows": (1, 2.5, True, None, "a")})
    assert json.loads(capsys.readouterr().out) == {"gap": None, "rows": [1, 2.5, True, None, "a"]}


def test_an_interrupt_ends_with_130(tmp_path):
    code = (
        "import os, signal, typer; from relprop import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have told its jobs to ignore it
        "made = typer.Typer(cls=cli._Commands); made.callback()(cli._top)\n"
        "@made.command()\n"
        "def stop(): os.kill(os.getpid(), signal.SIGINT)\n"
        "made(['stop'])"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RELPROP_DEBUG"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
