"""What is timed beside each other: each contender makes a run, a call without arguments, for one model and batch.

Each gets its own copy of the network, since some change it. Weights are random and frozen: speed does not depend on
them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

Run = Callable[[], object]

#: what a user of a library writes: (model, batch, classes) -> a run
Peer = Callable[[nn.Module, Tensor, Tensor], Run]

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


def forward(name: str, x: Tensor) -> Run:
    """The model alone."""
    model = build(name, x)

    def run() -> Tensor:
        with torch.no_grad():
            scores: Tensor = model(x)
        return scores

    return run


def gradient(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """Forward, and backward to the input: the unit that all others are measured in."""

    def run() -> Tensor | None:
        image = x.clone(memory_format=torch.preserve_format).requires_grad_()
        model(image).amax(1).sum().backward()
        return image.grad

    return run


def gradient_channels_last(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """The same, with weights and images in the other memory format."""
    last = x.contiguous(memory_format=torch.channels_last)
    return gradient(model.to(memory_format=torch.channels_last), last, target)


def ours(**options: bool) -> Peer:
    def make(model: nn.Module, x: Tensor, target: Tensor) -> Run:
        import relprop

        explainer = relprop.LRP(model, **options)
        return lambda: explainer(x)

    return make


def lrp(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """As the pages of relprop show it."""
    import relprop

    explainer = relprop.LRP(model)
    return lambda: explainer(x, target=target)


def lrp_cuts(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """The map of several layers combined."""
    from relprop.explainers import EXPLAINERS

    explainer = EXPLAINERS.build("lrp-cuts")
    return lambda: explainer(model, x, target)


def zennit(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """EpsilonPlusFlat with the ResNet canonizer, as its documentation shows."""
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer

    def run() -> object:
        with Gradient(model, EpsilonPlusFlat(canonizers=[ResNetCanonizer()])) as attributor:
            return attributor(x.clone().requires_grad_(), torch.eye(1000)[target].to(x))

    return run


def auto_lrp(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """The z⁺-rule at convolutions."""
    import autolrp

    rules = {**autolrp.BASE, "ConvolutionBackward": "zplus"}
    rows = torch.arange(len(x), device=x.device)

    def run() -> object:
        image = autolrp.tensor(x.clone())
        model(image)[rows, target].sum().lrp(config=autolrp.LRPConfig(rule=rules))
        return image.relevance

    return run


def captum_lrp(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """As it is: it raises nothing on a ResNet whose joins it does not see."""
    from captum.attr import LRP

    explainer = LRP(model)
    return lambda: explainer.attribute(x.clone(), target=target)


def guided_backprop(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    from captum.attr import GuidedBackprop

    explainer = GuidedBackprop(out_of_place(model))
    return lambda: explainer.attribute(x.clone().requires_grad_(), target=target)


def integrated_gradients(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """Eight images of the path at once, since all of them take gigabytes."""
    from captum.attr import IntegratedGradients

    explainer, at_once = IntegratedGradients(model), max(8, len(x))
    return lambda: explainer.attribute(x, target=target, n_steps=STEPS, internal_batch_size=at_once)


def grad_cam(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """At the last block, by pytorch-grad-cam."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    explainer = GradCAM(model=model, target_layers=[model.layer4[-1]])
    targets = [ClassifierOutputTarget(number) for number in target.tolist()]
    return lambda: explainer(input_tensor=x.clone().requires_grad_(), targets=targets)


def torchcam(model: nn.Module, x: Tensor, target: Tensor) -> Run:
    """Grad-CAM at the last block, by torchcam; the map has the size of that layer."""
    from torchcam.methods import GradCAM

    explainer = GradCAM(model, target_layer="layer4")

    def run() -> object:
        scores = model(x.clone().requires_grad_())
        return explainer(target.tolist(), scores)[0]

    return run


def of(peer: Peer) -> Callable[[str, Tensor], Run]:
    """The same for a network by its name and class 0."""
    return lambda name, x: peer(build(name, x), x, torch.zeros(len(x), dtype=torch.long, device=x.device))


UNIT = "gradient"

#: all, in the order of the table
CONTENDERS: dict[str, Callable[[str, Tensor], Run]] = {
    "forward": forward,
    UNIT: of(gradient),
    "gradient, channels last": of(gradient_channels_last),
    "relprop": of(ours()),
    "relprop, no ledger": of(ours(ledger=False)),
    "relprop, bf16": of(ours(bf16=True)),
    "relprop, compiled": of(ours(compile=True)),
    "relprop, compiled, bf16": of(ours(compile=True, bf16=True)),
    "captum LRP": of(captum_lrp),
    "zennit EpsilonPlusFlat": of(zennit),
    "autoLRP z+": of(auto_lrp),
    "Guided Backprop (captum)": of(guided_backprop),
    "Grad-CAM (pytorch-grad-cam)": of(grad_cam),
    (_integrated := f"Integrated Gradients (captum, {STEPS} steps)"): of(integrated_gradients),
}

#: those that take as long as many gradients, in the memory of one
SLOW = (_integrated,)

#: those of the quick table: no compiler, no peer
QUICK = ("forward", UNIT, "gradient, channels last", "relprop", "relprop, no ledger", "relprop, bf16")
