"""What `speed.py` measured, one row a contender and one column a cell, as Markdown.

    python benchmarks/speed_tables.py speed50.json speed18.json > tables.md

Three tables: time in gradients of the same cell, peak memory of tensors in that gradient's, and seconds an image of an
explanation, which would be the same in a row if cost were linear in the batch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from peers import CONTENDERS, UNIT

Row = dict[str, Any]


def cells(files: list[str]) -> dict[tuple[str, int], dict[str, Row]]:
    """Rows by contender, by (model, batch), networks by depth."""
    found: dict[tuple[str, int], dict[str, Row]] = {}
    for file in files:
        for rows in json.loads(Path(file).read_text())["cells"].values():
            found[rows[0]["model"], rows[0]["batch"]] = {row["run"]: row for row in rows}
    return dict(sorted(found.items(), key=lambda item: (len(item[0][0]), item[0][0], item[0][1])))


def pivot(found: dict[tuple[str, int], dict[str, Row]], figure: str) -> list[str]:
    """One table: `gradients`, or `peak` in the gradient's."""
    heads = [f"{model.replace('resnet', 'ResNet-')}, {batch}" for model, batch in found]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    for name in CONTENDERS:
        shown = [_shown(rows.get(name, {}), rows[UNIT], figure) for rows in found.values()]
        if any(shown):
            lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


def _shown(row: Row, unit: Row, figure: str) -> str:
    if figure == "gradients":
        if "gradients" in row:
            return f"{row['gradients']:.2f}"
        return "no memory" if "memory" in row.get("failed", "") else "not run" if row else ""
    return f"{row['peak'] / unit['peak']:.2f}" if "peak" in row else ""


def linear(found: dict[tuple[str, int], dict[str, Row]]) -> list[str]:
    """Milliseconds an image: of the gradient and of an explanation."""
    batches = sorted({batch for _, batch in found})
    lines = ["| ms an image | " + " | ".join(f"batch {batch}" for batch in batches) + " |"]
    lines.append("|---|" + "--:|" * len(batches))
    for model in dict.fromkeys(model for model, _ in found):
        for name in (UNIT, "relprop", "relprop, compiled"):
            rows = [found.get((model, batch), {}).get(name, {}) for batch in batches]
            times = [
                f"{row['seconds'] / batch * 1e3:.0f}" if "seconds" in row else ""
                for row, batch in zip(rows, batches, strict=True)
            ]
            if any(times):
                lines.append(f"| {model.replace('resnet', 'ResNet-')}, {name} | " + " | ".join(times) + " |")
    return lines


def main() -> None:
    """Print the tables."""
    found = cells(sys.argv[1:])
    for lines in (pivot(found, "gradients"), pivot(found, "peak"), linear(found)):
        print("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
