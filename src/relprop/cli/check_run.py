"""`relprop check-run`: the state of a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options
from relprop.errors import RunError

if TYPE_CHECKING:
    from relprop.evaluation.store import State, Store

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Run directory of `relprop evaluate`.")]


def check_run(folder: Folder, json: options.Json = False) -> int:
    """Verify every shard of a run: that it is whole, and of this plan, model, data and number.

    Nothing is computed, imported or changed. Exit code 0 if the run is finished and whole, 1 if shards are missing,
    damaged or of another run, or if the manifest is; 2 if the folder is no run directory. `relprop evaluate`, with the
    options that the run was begun with, computes what is missing or damaged.
    """
    from relprop.evaluation.store import MANIFEST, look, open_run

    try:
        store = open_run(folder)
    except RunError as error:
        if not (folder / MANIFEST).exists():
            raise
        if json:
            console.print_json({"run": str(folder), "whole": False, "problems": [str(error)]})
        else:
            console.fail(str(error))
        return 1
    state = look(store)
    if json:
        console.print_json(_document(store, state))
    else:
        _print(store, state)
    return 0 if state.finished else 1


def _document(store: Store, state: State) -> dict[str, Any]:
    return {
        "run": str(store.root),
        "whole": state.finished,
        "plan": store.plan.digest,
        "model": store.plan.model.name,
        "data": store.plan.data,
        "chunks": store.chunks,
        "chunks_whole": len(state.whole),
        "chunks_missing": list(state.missing),
        "problems": list(state.damaged.values()),
        "strangers": list(state.strangers),
    }


def _print(store: Store, state: State) -> None:
    from relprop.evaluation.plan import short_data, short_model

    plan = store.plan
    console.heading(f"{short_model(plan.model.name)} on {short_data(plan.data)}, plan {plan.digest}")
    missing = [f"{chunk:05d}" for chunk in state.missing]
    for good, text in (
        (not missing, f"{store.chunks - len(missing)} of {store.chunks} chunks are there" + _first(missing, "missing")),
        (not state.damaged, f"{len(state.whole)} shards are whole and of this run" + _first(state.damaged, "not")),
        (not state.strangers, f"{len(state.strangers)} files among them belong to no chunk"),
    ):
        console.out.print(console.verdict(good, text, text), soft_wrap=True)
    for sentence in (*state.damaged.values(), *(f"{name} belongs to no chunk of this run" for name in state.strangers)):
        console.warn(sentence)
    if missing or state.damaged:
        console.warn("`relprop evaluate` with the options of this run computes the rows of these chunks")


def _first(found: Any, word: str) -> str:
    """Say how many of a kind there are, and the first."""
    names = [*found]
    if not names:
        return ""
    shown = f", the first is {names[0]}" if isinstance(names[0], str) else ""
    return f", {len(names)} {'is' if len(names) == 1 else 'are'} {word}{shown}"
