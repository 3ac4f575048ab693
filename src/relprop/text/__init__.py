"""Which words made a text model say that: relevance of tokens.

    result = relprop.text.explain(model, tokenizer, "What a lovely film.")             # the predicted class
    result = relprop.text.similarity(model, tokenizer, "A man plays a guitar.", "Someone makes music.")
    result.tokens[0], result.relevance[0]                                              # one number a token
    print(result.words(0)); result.html(); rich.print(result)

`TokenLRP` captures once and explains many texts; `load` reads a model and its tokenizer.
"""

from relprop.text.load import TextModel, load
from relprop.text.lrp import TokenLRP, explain, similarity
from relprop.text.relevance import TokenRelevance
from relprop.text.tokens import Piece

__all__ = ["Piece", "TextModel", "TokenLRP", "TokenRelevance", "explain", "load", "similarity"]
