"""`relprop check`: every operation of a model, the rule it gets, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relprop.core.composites.composite import Assignment
    from relprop.core.composites.presets import Family
    from relprop.core.graph.graph import Graph
    from relprop.models import LoadedModel

Name = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="As --model of the other commands; none for the bundled EfficientNet-Lite0."),
]
Steps = Annotated[bool, typer.Option("--steps", help="List every step with its line in the code, not every kind.")]
Image = Annotated[
    Path | None, typer.Option("--image", help="Explain this image too, and show the share of each branch of each join.")
]
Rules = Annotated[
    str | None,
    typer.Option(
        "--composite", "-c", metavar="SPEC", help="As of `relprop explain`; by default what suits the network."
    ),
]


def check(
    *,
    model: Name = None,
    steps: Steps = False,
    image: Image = None,
    composite: Rules = None,
    joins: options.Joins,
    network: options.Network,
    classes: options.Classes = None,
    json: options.Json = False,
) -> int:
    """Show every operation of a model and its rule; exit 1 if one has none.

    The model's computation is captured and looked at; with --image it is explained too.
    """
    from relprop.core.capture import capture
    from relprop.core.composites.presets import family_of
    from relprop.images import read_image

    rules = None if composite is None else joins.composite(composite)
    loaded = network.load(model, classes)
    example = loaded.example() if image is None else loaded.preprocess(read_image(image))[None]
    with console.waiting("capturing its computation"):
        graph = capture(loaded.model, example.to(network.chosen_device()))
    family = family_of(graph)
    rules = rules or joins.composite(family.composite().name)
    assignment = rules.survey(graph)
    rows = _rows(graph, assignment)
    looked = image is not None and not assignment.missing
    explained, shares = _joins(loaded, graph, assignment, image) if image is not None and looked else (None, [])
    if json:
        document = {"model": loaded.name, "family": family.name, "composite": rules.name}
        missing = [row for row in rows if row["rule"] is None]
        document |= {} if explained is None else {"class": explained}
        console.print_json({**document, "steps": rows, "missing": missing, "joins": shares})
    else:
        _print(loaded.name, graph, assignment, rows, steps, family)
        if shares:
            console.out.print(f"of the relevance for {console.escape(str(explained))}:", soft_wrap=True)
            console.show(_join_table(shares))
    return 1 if assignment.missing else 0


def _rows(graph: Graph, assignment: Assignment) -> list[dict[str, Any]]:
    """One row a step: name, operation, rule (None where missing), kind of join, line in the code."""
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


def _joins(loaded: LoadedModel, graph: Graph, assignment: Assignment, image: Path) -> tuple[str, list[dict[str, Any]]]:
    """The class explained, and one row a join: its branches, and what share of its relevance each gets on an image.

    A branch's share is the relevance of its value where the join alone reads it. One branch, the fork as a rule, may
    be read elsewhere too: it gets what the others leave.
    """
    from relprop.core.lrp import LRP
    from relprop.images import read_image

    joins = [*assignment.joins.values()]
    names = {index: graph.nodes[index].name for join in joins for index in (join.node, *join.branches)}
    x = loaded.preprocess(read_image(image))[None].to(next(loaded.model.parameters()).device)
    with console.waiting("explaining the image"):
        result = LRP(loaded.model, assignment.composite, keep=[*dict.fromkeys(names.values())])(x)
    total = {index: float(result.at(name).double().sum()) for index, name in names.items()}
    rows = []
    for join in joins:
        whole = total[join.node]
        alone = [len(graph.consumers[branch]) == 1 for branch in join.branches]
        shares = [total[b] / whole if a and whole else None for a, b in zip(alone, join.branches, strict=True)]
        if shares.count(None) == 1 and whole:
            rest = 1 - sum(share for share in shares if share is not None)
            shares = [rest if share is None else share for share in shares]
        kinds, branches = _branches(assignment, join.node) or [], [names[branch] for branch in join.branches]
        rows.append({"join": names[join.node], "branches": branches, "kinds": kinds, "shares": shares})
    return loaded.class_name(int(result.target[0])), rows


def _join_table(joins: list[dict[str, Any]]) -> Any:
    """One line a branch: the join's name at its first."""
    made = console.table("join", "branch", "kind", ">share")
    for row in joins:
        for line, (branch, kind, share) in enumerate(zip(row["branches"], row["kinds"], row["shares"], strict=True)):
            name = "" if line else console.escape(row["join"])
            made.add_row(name, console.escape(branch), kind, "?" if share is None else f"{share:.1%}")
    return made


def _print(
    name: str, graph: Graph, assignment: Assignment, rows: list[dict[str, Any]], steps: bool, family: Family
) -> None:
    console.heading(f"{name} · {assignment.composite.name} · {len(rows)} steps")
    console.out.print(f"{family.name}; takes {family.composite().name} by default: {family.source}", soft_wrap=True)
    console.show(_step_table(rows) if steps else _kind_table(rows))
    for line in _lines(rows):
        console.out.print(line, soft_wrap=True)


def _step_table(rows: list[dict[str, Any]]) -> Any:
    made = console.table("step", "operation", "rule", "branches", "where")
    for row in rows:
        line = console.escape(row["source"])
        made.add_row(console.escape(row["name"]), row["op"], _rule(row), ", ".join(row["branches"] or ()), line)
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
        none = len(kinds) - identity - projection
        more = f", {none} of equal branches, none of them a skip" if none else ""
        lines.append(
            f"{len(kinds)} residual joins: {identity} with an identity skip, {projection} with a projection{more}"
        )
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
