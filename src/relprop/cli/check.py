"""`relprop check`: every operation of a model, the rule it gets, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relprop.core.composite import Assignment
    from relprop.core.graph import Graph

Name = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="As --model of the other commands; none for the bundled EfficientNet-Lite0."),
]
Steps = Annotated[bool, typer.Option("--steps", help="List every step with its place in the code, not every kind.")]


def check(
    model: Name = None,
    steps: Steps = False,
    composite: options.Composite = "paper",
    split: options.Split = None,
    identity: options.Identity = None,
    arch: options.Arch = None,
    size: options.Size = None,
    mean: options.Mean = None,
    std: options.Std = None,
    device: options.Device = "auto",
    trust: options.Trust = False,
    json: options.Json = False,
) -> int:
    """Show every operation of a model and its rule; exit 1 if one has none.

    Nothing is explained: the model's computation is captured and looked at.
    """
    from relprop.core.capture import capture

    rules = options.composite(composite, split, identity)
    loaded = options.load(model, arch=arch, size=size, mean=mean, std=std, device=device, trust=trust)
    with console.waiting("capturing its computation"):
        graph = capture(loaded.model, options.example(loaded).to(options.choose_device(device)))
    assignment = rules.survey(graph)
    rows = _rows(graph, assignment)
    if json:
        document = {"model": loaded.name, "composite": rules.name, "route": graph.route}
        console.print_json({**document, "steps": rows, "missing": [row for row in rows if row["rule"] is None]})
    else:
        _print(loaded.name, graph, assignment, rows, steps)
    return 1 if assignment.missing else 0


def _rows(graph: Graph, assignment: Assignment) -> list[dict[str, Any]]:
    """One row a step: name, operation, rule (None where missing), kind of join, place in the code."""
    missing = {node.index for node in assignment.missing}
    return [
        {
            "name": node.name,
            "op": node.op,
            "rule": None if node.index in missing else assignment.describe(node),
            "branches": _branches(assignment, node.index),
            "source": node.source,
        }
        for node in graph.steps
    ]


def _branches(assignment: Assignment, index: int) -> list[str] | None:
    """Say what each branch of a join is; None for a step that is no join."""
    if index not in assignment.joins:
        return None
    join = assignment.joins[index]
    kinds = zip(join.skips, join.identities, strict=True)
    return ["identity skip" if same else "projection skip" if skip else "main" for skip, same in kinds]


def _print(name: str, graph: Graph, assignment: Assignment, rows: list[dict[str, Any]], steps: bool) -> None:
    console.heading(f"{name} · {assignment.composite.name} · captured by {graph.route}, {len(rows)} steps")
    console.show(_step_table(rows) if steps else _kind_table(rows))
    for line in _lines(rows):
        console.out.print(line, soft_wrap=True)


def _step_table(rows: list[dict[str, Any]]) -> Any:
    made = console.table("step", "operation", "rule", "branches", "where")
    for row in rows:
        place = console.escape(row["source"])
        made.add_row(console.escape(row["name"]), row["op"], _rule(row), ", ".join(row["branches"] or ()), place)
    return made


def _kind_table(rows: list[dict[str, Any]]) -> Any:
    """One line for each operation and rule, with its count and the first steps."""
    kinds: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["op"], row["rule"]), []).append(row)
    made = console.table("operation", ">steps", "rule", "at")
    for (op, _), members in kinds.items():
        made.add_row(op, str(len(members)), _rule(members[0]), console.escape(_first(row["name"] for row in members)))
    return made


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return what the table comes to: the joins, then either success or every step without a rule."""
    kinds = [tuple(row["branches"]) for row in rows if row["branches"]]
    lines = []
    if kinds:
        identity = sum("identity skip" in kind for kind in kinds)
        projection = sum("projection skip" in kind for kind in kinds)
        lines.append(f"{len(kinds)} residual joins: {identity} with an identity skip, {projection} with a projection")
    missing = [row for row in rows if row["rule"] is None]
    lines += [
        f"[{console.BAD}]{console.escape(row['op'])}[/] at {console.escape(row['name'])}"
        f"  [{console.QUIET}]{console.escape(row['source'])}[/]"
        for row in missing
    ]
    every = f"every one of {len(rows)} steps has a rule"
    some = f"{len(missing)} of {len(rows)} steps have no rule; map them: "
    some += ", ".join(f"paper().override(rules={{{op!r}: pass_through}})" for op in sorted({r["op"] for r in missing}))
    return [*lines, console.verdict(not missing, every, some)]


def _rule(row: dict[str, Any]) -> str:
    return f"[{console.BAD}]none[/]" if row["rule"] is None else console.escape(row["rule"])


def _first(names: Iterable[str], shown: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:shown]) + (", ..." if len(listed) > shown else "")
