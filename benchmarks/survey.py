"""Which of timm's architectures can be explained, and how well relevance is conserved there: one member a family.

    python benchmarks/survey.py                          # goes on where it stopped; results in survey.jsonl
    python benchmarks/survey.py --only swin_transformer  # these families again
    python benchmarks/survey.py --table                  # the results so far, as Markdown

A family is a file of timm's. Its member here is a small one; a family that this list does not know is taken by its
shortest name. Weights are random: batch norms take the statistics of the images, and what is initialised at or near
zero (classifiers, last layers of blocks, layer scales) gets numbers, or else nothing would flow. Each network runs in a
process of its own, so that a crash or a hang ends one line and not the survey. Of two images, the second is explained
alone too ("batch against single": how far the two maps are apart, relative), and in float64.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    pass

#: a small member of each family, where the shortest name is not one
MEMBERS = {
    "byoanet": "halonet_h1", "byobnet": "mobileone_s1", "cait": "cait_xxs24_224", "coat": "coat_tiny",
    "convit": "convit_tiny", "convmixer": "convmixer_768_32", "convnext": "convnext_atto", "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240", "cspnet": "cs3darknet_focus_s", "cspnext": "cspnext_tiny", "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224", "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "mobilenetv2_035",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0", "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb", "fasternet": "fasternet_t0", "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf", "gcvit": "gcvit_xxtiny", "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "lcnetv2": "lcnetv2_small", "levit": "levit_128s",
    "lowformer": "lowformer_b0", "mambaout": "mambaout_femto", "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformerv2_s12", "mlp_mixer": "gmlp_ti16_224", "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_300m", "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny", "nest": "nest_tiny",
    "nextvit": "nextvit_small", "nfnet": "eca_nfnet_l0", "pit": "pit_ti_224", "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny", "regnet": "regnetx_002", "repghost": "repghostnet_050", "repvit": "repvit_m0_9",
    "res2net": "res2net50_14w_8s", "resnest": "resnest14d", "resnet": "resnet10t", "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100", "selecsls": "selecsls42b", "senet": "legacy_seresnet18", "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1", "sknet": "skresnet18", "starnet": "starnet_s050", "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224", "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224", "tiny_vit": "tiny_vit_5m_224", "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m", "twins": "twins_svt_small", "vgg": "vgg11", "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224", "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224", "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224", "volo": "volo_d1_224", "vovnet": "ese_vovnet19b_slim_dw",
    "xcit": "xcit_nano_12_p16_224",
}  # fmt: skip


def families() -> dict[str, str]:
    """The member that stands for each family."""
    import timm

    names: dict[str, list[str]] = {}
    for name in timm.list_models():
        if not name.startswith("test_"):
            family = timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
            names.setdefault(family, []).append(name)
    return {
        family: MEMBERS[family] if MEMBERS.get(family) in members else min(members, key=len)
        for family, members in sorted(names.items())
    }


def sane(model: nn.Module, x: Tensor) -> nn.Module:
    """Numbers for what begins at zero, and batch norms settled on `x`."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_vector = parameter.numel() == max(parameter.shape, default=1)
            if not is_vector and parameter.abs().max() < 1e-2:
                parameter.normal_(std=0.02)
            elif is_vector and parameter.abs().max() < 1e-2 and not name.endswith("bias"):
                parameter.fill_(0.5)  # layer scales, and last batch norms of blocks
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        model(x)
        for norm in norms:
            norm.eval()
            if norm.running_var is not None:
                norm.running_var.clamp_(min=1e-3)  # of one number an image, two images tell no variance
    return model


def measure(name: str) -> dict[str, Any]:
    """Build, explain, time: one line of the survey."""
    import timm

    import relprop

    model = timm.create_model(name).eval().requires_grad_(False)
    config: dict[str, Any] = model.default_cfg
    size = config["input_size"] if config.get("fixed_input_size") else config.get("min_input_size", (3, 128, 128))
    x = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    try:
        model(x)
    except Exception:  # whatever a network says of a size that it does not take
        x = torch.randn(2, *config["input_size"], generator=torch.Generator().manual_seed(0))
    model = sane(model, x)
    begin = time.perf_counter()
    lrp = relprop.LRP(model)
    result = lrp(x)
    row: dict[str, Any] = {"model": name, "size": x.shape[-1], "capture": time.perf_counter() - begin}
    assert result.ledger is not None
    row |= {"composite": result.composite}
    row |= {"gap": result.ledger.gap, "absorbed": result.ledger.absorbed}
    one = x[1:]
    alone = lrp(one, target=result.target[1:]).relevance
    row["apart"] = float((alone - result.relevance[1:]).abs().sum() / alone.abs().sum())
    model, one = model.double(), one.double()
    row["gap64"] = relprop.explain(model, one).ledger.gap  # type: ignore[union-attr]
    return row


def survey(out: Path, only: list[str] | None, seconds: int) -> None:
    """Measure every family that is not in the file yet, one process each, and append its line."""
    known = {row["family"] for row in rows(out)}
    for family, name in families().items():
        if (only is None and family in known) or (only is not None and family not in only):
            continue
        row: dict[str, Any] = {"family": family, "model": name}
        try:
            command = [sys.executable, "-W", "ignore", __file__, "--one", name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
            lines = done.stdout.strip().splitlines()
            row |= json.loads(lines[-1]) if lines else {"error": done.stderr.strip().splitlines()[-1][:600]}
        except subprocess.TimeoutExpired:
            row["error"] = f"not done after {seconds} s"
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def rows(out: Path) -> list[dict[str, Any]]:
    """The last line of each family."""
    if not out.exists():
        return []
    found = [json.loads(line) for line in out.read_text().splitlines()]
    return [*{row["family"]: row for row in sorted(found, key=lambda row: row["family"])}.values()]


def holds(row: dict[str, Any]) -> bool:
    """Whether a network is captured and conserves."""
    return "error" not in row and row["gap"] <= 1e-5 and row["gap64"] <= 1e-12 and row["apart"] <= 1e-3


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: what holds, then what does not, with reasons."""
    good, bad = [row for row in found if holds(row)], [row for row in found if not holds(row)]
    lines = [f"{len(good)} of {len(found)} families are captured and conserve.", ""]
    lines += ["| family | model | px | gap, float32 | gap, float64 | absorbed | batch against single |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {r['family']} | {r['model']} | {r['size']} | {r['gap']:.1e} | {r['gap64']:.1e} | {r['absorbed']:.1e} "
        f"| {r['apart']:.1e} |"
        for r in good
    ]
    if bad:
        lines += ["", "| not | model | why |", "|---|---|---|"]
        lines += [f"| {r['family']} | {r['model']} | {_why(r)} |" for r in bad]
    return "\n".join(lines)


def _why(row: dict[str, Any]) -> str:
    if "error" in row:
        return str(row["error"]).replace("|", "/").replace("\n", " ")[:300]
    return f"gap {row['gap']:.1e} in float32, {row['gap64']:.1e} in float64, batch against single {row['apart']:.1e}"


def main() -> None:
    """Survey, or print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("survey.jsonl"))
    parser.add_argument("--only", nargs="+", metavar="FAMILY")
    parser.add_argument("--seconds", type=int, default=900, help="for one network at most")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        try:
            print(json.dumps(measure(options.one)))
        except Exception as error:  # one network's failure is its line in the survey
            print(json.dumps({"error": f"{type(error).__name__}: {error}"[:900]}))
        return
    if not options.table:
        survey(options.out, options.only, options.seconds)
    print(table(rows(options.out)))


if __name__ == "__main__":
    main()
