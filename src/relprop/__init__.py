"""Layer-wise relevance propagation through residual networks, with books that balance.

result = relprop.explain(model, x)
result.heatmap, result.score, result.ledger.gap
"""

from importlib.metadata import version as _version

from relprop.core.composite import Composite as Composite
from relprop.core.composites import (
    epsilon as epsilon,
)
from relprop.core.composites import (
    epsilon_alpha2_beta1_flat as epsilon_alpha2_beta1_flat,
)
from relprop.core.composites import (
    epsilon_gamma_box as epsilon_gamma_box,
)
from relprop.core.composites import (
    epsilon_plus_flat as epsilon_plus_flat,
)
from relprop.core.composites import (
    gamma as gamma,
)
from relprop.core.composites import (
    original as original,
)
from relprop.core.composites import (
    paper as paper,
)
from relprop.core.composites import (
    released as released,
)
from relprop.core.heatmap import quantize as quantize
from relprop.core.ledger import Ledger as Ledger
from relprop.core.lrp import LRP as LRP
from relprop.core.lrp import explain as explain
from relprop.core.relevance import Relevance as Relevance
from relprop.core.rules import rule as rule

__version__ = _version("relprop")
