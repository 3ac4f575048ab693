"""Tables read from the registries and from the command line when the site is built, so that they cannot go stale.

```{registry} relprop.metrics:METRICS      name, options, what it is; for metrics also unit and direction
```
```{defaults}                              the rule of every operation
```
```{commands}                              usage, arguments and options of every command, a section each
```
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

_CODE = re.compile(r"(`[^`]*`)")


def cell(text: object) -> str:
    """Escape what Markdown would read as markup, outside of code."""
    parts = _CODE.split(" ".join(str(text).split()))
    return "".join(p.replace("|", r"\|") if p.startswith("`") else re.sub(r"([*_|<>\[\]$])", r"\\\1", p) for p in parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def options(factory: Any) -> str:
    """Name the options of a member, with their defaults, as a spec gives them."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = []
    for name, p in inspect.signature(factory).parameters.items():
        if p.kind not in kinds:
            found.append(f"`{name}`" if p.default is p.empty else f"`{name}={_value(p.default)}`")
    return ", ".join(found) or "none"


def _value(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", None) or f"{value}".lower()


def registry_table(place: str) -> str:
    """Describe the members of the registry at `module:NAME`."""
    module, _, name = place.partition(":")
    registry = getattr(import_module(module), name)
    if name == "METRICS":
        return _metrics_table(registry)
    if name == "RULES":
        return table(
            ["rule", "options", "what it does", "must conserve"],
            [
                [f"`{n}`", options(registry.get(n)), cell(_summary(registry, n)), _conserves(registry, n)]
                for n in registry
            ],
        )
    return table(
        [registry.kind, "options", "what it is"],
        [[f"`{n}`", options(registry.get(n)), cell(_summary(registry, n))] for n in registry],
    )


def _summary(registry: Any, name: str) -> str:
    """First sentence of the docstring: up to a blank line."""
    return " ".join((inspect.getdoc(registry.get(name)) or "").split("\n\n", 1)[0].split())


def _conserves(registry: Any, name: str) -> str:
    box = {"z-box": (-1.0, 1.0)}.get(name, ())
    return "yes" if registry.get(name)(*box).conserves else "no: absorbs"


def _metrics_table(registry: Any) -> str:
    better = {True: "higher", False: "lower", None: "neither"}
    rows = []
    for name in registry:
        metric = registry.get(name)
        directions = ", ".join(f"`{row}` ({better[metric.higher_is_better[row]]})" for row in metric.rows)
        facts = f"{cell(_summary(registry, name))} Rows: {directions}. Unit: {cell(metric.unit)}."
        rows.append([f"`{name}`", options(metric), f"{facts} From: {cell(metric.reference)}."])
    return table(["metric", "options", "what it measures; its rows, and which end is better"], rows)


def defaults_table() -> str:
    """Describe the rule that each operation takes where a composite says nothing else."""
    from relprop.core.rules import DEFAULTS

    by_rule: dict[str, list[str]] = defaultdict(list)
    for op, rule in DEFAULTS.items():
        by_rule[rule.name].append(op)
    return table(
        ["rule", "operations"],
        [[cell(rule), ", ".join(f"`{op}`" for op in sorted(ops))] for rule, ops in by_rule.items()],
    )


def command_text(name: str) -> str:
    """Describe one command as Markdown: what it does, then its arguments and options."""
    from typer.main import get_command

    from relprop.cli import app

    command: Any = get_command(app).commands[name]  # type: ignore[attr-defined]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join(["relprop", name, "[OPTIONS]", *(_metavar(p) for p in arguments)])
    text = [f"```text\n{usage}\n```", "", cell_text(command.help), ""]
    rows = [[_spelling(p), f"{cell(p.help or '')} {_default(p)}"] for p in command.params if not p.hidden]
    return "\n".join([*text, table(["option", "what it does"], rows)])


def cell_text(text: str) -> str:
    """Escape a help text, keeping its paragraphs."""
    return "\n\n".join(cell(paragraph) for paragraph in text.split("\n\n"))


def _metavar(argument: Any) -> str:
    shown = argument.metavar or argument.name.upper()
    return shown if argument.required else f"[{shown}]"


def _spelling(p: Any) -> str:
    if p.param_type_name == "argument":
        return f"`{_metavar(p)}`"
    value = "" if getattr(p, "is_flag", False) else f" {p.metavar or p.name.upper()}"
    return ", ".join(f"`{opt}{value if opt.startswith('--') else ''}`" for opt in [*p.opts, *p.secondary_opts])


def _default(p: Any) -> str:
    """Say what is taken where the option is not given; nothing for a switch that is off."""
    if p.required:
        return "Required."
    if isinstance(getattr(p, "show_default", None), str):
        return f"Default: {cell(p.show_default)}."
    if p.default is None or p.default is False or p.default == []:
        return ""
    return "On by default." if p.default is True else f"Default: `{p.default}`."


class _Markdown(Directive):
    """A directive whose content is made, then parsed where it stands."""

    has_content = False
    required_arguments: ClassVar[int] = 1
    optional_arguments = 0

    def text(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the text in place."""
        holder = nodes.container(classes=["made-table"])
        self.state.nested_parse(StringList(self.text().splitlines(), source=self.name), self.content_offset, holder)
        return [holder]


class RegistryTable(_Markdown):
    """`{registry} module:NAME`."""

    def text(self) -> str:
        """Describe the registry."""
        return registry_table(self.arguments[0])


class DefaultsTable(_Markdown):
    """`{defaults}`."""

    required_arguments: ClassVar[int] = 0

    def text(self) -> str:
        """Describe the default rules."""
        return defaults_table()


class Commands(Directive):
    """`{commands}`: a section for each."""

    def run(self) -> list[nodes.Node]:
        """Parse what the command line says of itself."""
        from relprop.cli import COMMANDS

        return [self.section(name) for name in COMMANDS]

    def section(self, name: str) -> nodes.section:
        """Describe one command."""
        made = nodes.section(ids=[f"relprop-{name}"], names=[f"relprop {name}"])
        made += nodes.title("", f"relprop {name}")
        lines = StringList(command_text(name).splitlines(), source=name)
        self.state.nested_parse(lines, self.content_offset, made)
        return made


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("registry", RegistryTable)
    app.add_directive("defaults", DefaultsTable)
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
