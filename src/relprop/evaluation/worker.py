"""A worker process: `python -m relprop.evaluation.worker RUN`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from relprop.errors import RelpropError
from relprop.evaluation.local import start, work
from relprop.evaluation.setup import set_up
from relprop.evaluation.store import open_run


def serve(root: Path) -> None:
    """Work on a run until it is done, or until the process that started this one is gone."""
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    plan = open_run(root).plan
    setup = set_up(plan)
    work(start(root, plan, setup), setup)  # start: refuses if this machine would compute other rows


def _stop_with_the_parent() -> None:
    """End this process when the other end of standard input is closed, be it by a SIGKILL."""
    while os.read(0, 1):  # not sys.stdin: its lock would be held at exit
        pass
    os._exit(1)


if __name__ == "__main__":
    try:
        serve(Path(sys.argv[1]))
    except RelpropError as error:
        sys.exit(str(error))
