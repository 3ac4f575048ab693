"""Tiny text models with random weights, and a tokenizer of a few word pieces, all made in memory."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import relprop

transformers = pytest.importorskip("transformers")

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "film", "love", "##ly", "what", "long", "too", "it", "is", ".", "so"]
SHORT, LONG = "What a lovely film.", "It is so long so long it is too long."

SIZES = {"vocab_size": len(PIECES), "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
COMMON = SIZES | {"num_hidden_layers": 2, "num_labels": 3, "max_position_embeddings": 40, "pad_token_id": 0}
KINDS = {
    "bert": COMMON,
    "roberta": COMMON | {"bos_token_id": 2, "eos_token_id": 3},
    "distilbert": {
        "vocab_size": len(PIECES), "dim": 16, "hidden_dim": 24, "n_heads": 2, "n_layers": 2, "num_labels": 3,
        "max_position_embeddings": 40,
    },
    "albert": COMMON | {"embedding_size": 8},
    "deberta-v2": COMMON,
}  # fmt: skip


def make(kind: str = "bert", attention: str = "sdpa", *, head: bool = True, seed: int = 0, **changes):
    """A sequence classifier (or the encoder alone), whose weights are large enough for tokens to matter."""
    torch.manual_seed(seed)
    attention = "eager" if kind == "deberta-v2" else attention
    config = transformers.AutoConfig.for_model(kind, attn_implementation=attention, **KINDS[kind] | changes)
    auto = transformers.AutoModelForSequenceClassification if head else transformers.AutoModel
    model = auto.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
        elif parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


@cache
def tokenizer():
    """Word pieces, as BERT has them; in lower case."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({piece: k for k, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.decoder = decoders.WordPiece()
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    )


@cache
def lrp_of(kind: str = "bert", pooling: str | None = None) -> relprop.text.TokenLRP:
    """One engine for each kind of model, so that each is captured once."""
    return relprop.text.TokenLRP(make(kind, head=pooling is None), tokenizer(), pooling=pooling)
