"""Two processes share each batch and make the steps that one process makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_helpers import losses_of_a_run

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from training_helpers import losses_of_a_run

sys.stdout.write(f"{losses_of_a_run(*sys.argv[2:4], devices=2)}\\n")  # one write: two processes share the pipe
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch lacks torch.distributed")
@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    for index in range(32):
        folder = tmp_path / "data" / ("dull", "vivid")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (7 * index, 200 - 5 * index, 90 + 60 * (index % 2))).save(folder / f"{index}.png")
    script = tmp_path / "script.py"  # a file: the second process runs it again
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, Path(__file__).parent, tmp_path / "data", tmp_path / "two"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted([losses_of_a_run(tmp_path / "data", tmp_path / "one", 1), "[]"])
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)
    assert one["fc.weight"].abs().min() > 1e-3
