"""What is timed beside each other: each contender makes a run, a call without arguments, for one model and batch.

Each builds its own copy of the network, since some change it. Weights are random and frozen: speed does not depend
on them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

import relprop

Run = Callable[[], object]

#: steps of Integrated Gradients, as in the paper's comparison
STEPS = 50


def build(name: str, like: Tensor) -> nn.Module:
    """A network with random weights and frozen parameters."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval().requires_grad_(False).to(like.device)


def out_of_place(model: nn.Module) -> nn.Module:
    """Captum cannot hook in-place activations."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def classes(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.long, device=x.device)


def forward(name: str, x: Tensor) -> Run:
    """The model alone."""
    model = build(name, x)

    def run() -> Tensor:
        with torch.no_grad():
            scores: Tensor = model(x)
        return scores

    return run


def gradient(name: str, x: Tensor) -> Run:
    """Forward, and backward to the input: the unit that all others are measured in."""
    model = build(name, x)

    def run() -> Tensor | None:
        image = x.clone(memory_format=torch.preserve_format).requires_grad_()
        model(image).amax(1).sum().backward()
        return image.grad

    return run


def gradient_channels_last(name: str, x: Tensor) -> Run:
    """The same, with weights and images in the other memory format."""
    model = build(name, x).to(memory_format=torch.channels_last)
    last = x.contiguous(memory_format=torch.channels_last)

    def run() -> Tensor | None:
        image = last.clone(memory_format=torch.preserve_format).requires_grad_()
        model(image).amax(1).sum().backward()
        return image.grad

    return run


def ours(**options: bool) -> Callable[[str, Tensor], Run]:
    def make(name: str, x: Tensor) -> Run:
        lrp = relprop.LRP(build(name, x), **options)
        return lambda: lrp(x)

    return make


def zennit(name: str, x: Tensor) -> Run:
    """EpsilonPlusFlat with the ResNet canonizer, as its documentation shows."""
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer

    model, onehot = build(name, x), torch.eye(1000, device=x.device)[classes(x)]

    def run() -> object:
        with Gradient(model, EpsilonPlusFlat(canonizers=[ResNetCanonizer()])) as attributor:
            return attributor(x.clone().requires_grad_(), onehot)

    return run


def auto_lrp(name: str, x: Tensor) -> Run:
    """The z⁺-rule at convolutions."""
    import autolrp

    model, rules = build(name, x), {**autolrp.BASE, "ConvolutionBackward": "zplus"}
    rows = torch.arange(len(x), device=x.device)

    def run() -> object:
        image = autolrp.tensor(x.clone())
        model(image)[rows, classes(x)].sum().lrp(config=autolrp.LRPConfig(rule=rules))
        return image.relevance

    return run


def captum_lrp(name: str, x: Tensor) -> Run:
    """As it is: it raises nothing on a ResNet whose joins it does not see."""
    from captum.attr import LRP

    explainer = LRP(build(name, x))
    return lambda: explainer.attribute(x.clone(), target=classes(x))


def guided_backprop(name: str, x: Tensor) -> Run:
    from captum.attr import GuidedBackprop

    explainer = GuidedBackprop(out_of_place(build(name, x)))
    return lambda: explainer.attribute(x.clone().requires_grad_(), target=classes(x))


def integrated_gradients(name: str, x: Tensor) -> Run:
    from captum.attr import IntegratedGradients

    explainer, chunk = IntegratedGradients(build(name, x)), max(8, len(x))
    return lambda: explainer.attribute(x, target=classes(x), n_steps=STEPS, internal_batch_size=chunk)


def grad_cam(name: str, x: Tensor) -> Run:
    """At the last block, by pytorch-grad-cam."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = build(name, x)
    explainer = GradCAM(model=model, target_layers=[model.layer4[-1]])
    targets = [ClassifierOutputTarget(0)] * len(x)
    return lambda: explainer(input_tensor=x.clone().requires_grad_(), targets=targets)


UNIT = "gradient"

#: all, in the order of the table
CONTENDERS: dict[str, Callable[[str, Tensor], Run]] = {
    "forward": forward,
    UNIT: gradient,
    "gradient, channels last": gradient_channels_last,
    "relprop": ours(),
    "relprop, no ledger": ours(ledger=False),
    "relprop, bf16": ours(bf16=True),
    "relprop, compiled": ours(compile=True),
    "relprop, compiled, bf16": ours(compile=True, bf16=True),
    "captum LRP": captum_lrp,
    "zennit EpsilonPlusFlat": zennit,
    "autoLRP z+": auto_lrp,
    "Guided Backprop (captum)": guided_backprop,
    "Grad-CAM (pytorch-grad-cam)": grad_cam,
    (_integrated := f"Integrated Gradients (captum, {STEPS} steps)"): integrated_gradients,
}

#: those that take as long as many gradients, in the memory of one
SLOW = (_integrated,)

#: those of the quick table: no compiler, no peer
QUICK = ("forward", UNIT, "gradient, channels last", "relprop", "relprop, no ledger", "relprop, bf16")
