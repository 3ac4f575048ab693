"""Load a model: by name, from a checkpoint, or from an exported program.

load_model()                                             the bundled EfficientNet-Lite0, no network needed
load_model("resnet50")                                   torchvision, ImageNet weights
load_model("timm:resnet50d")                             timm
load_model("weights.pth", arch="resnet18")               a checkpoint
load_model("resnet20.th", arch="cifar-resnet20")         a checkpoint of one of our CIFAR ResNets
load_model("model.pt2", trust=True)                      an exported program
load_model("my_package.nets:make")                       whatever a factory of yours returns
load_model("random:resnet50")                            untrained, to look at its structure
"""

from relprop.models.load import DEFAULT_MODEL, load_model, model_names
from relprop.models.loaded import LoadedModel

__all__ = ["DEFAULT_MODEL", "LoadedModel", "load_model", "model_names"]
