"""What kinds of operation there are, by their canonical names: one vocabulary for capture, joins and rules.

Canonical names drop the number of dimensions and the overload: `aten.conv2d.default` is "conv".
"""

from __future__ import annotations

import re

#: weighted sums of their input, y = W h + b
AFFINE = frozenset({"conv", "conv_transpose", "linear"})

#: each output element is one input element, or a constant
COPIES = frozenset(
    {
        "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "movedim",
        "slice", "select", "pad", "constant_pad_nd", "flip", "roll", "expand", "repeat", "pixel_shuffle",
        "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "index_select", "_unsafe_view", "narrow",
        "unfold", "im2col", "index", "_unsafe_index", "gather", "take_along_dim", "diagonal", "rot90",
        "one_input",
    }
)  # fmt: skip

#: one input, one output of the same shape, element by element
ELEMENTWISE = frozenset(
    {
        "relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "leaky_relu", "prelu", "elu", "selu", "celu",
        "rrelu", "threshold", "softplus", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "tanh",
        "batch_norm", "dropout", "clone", "contiguous", "detach", "alias", "lift_fresh_copy", "to", "_to_copy",
        "type_as", "identity", "neg", "layer_norm", "native_layer_norm[0]", "group_norm", "native_group_norm[0]",
        "rms_norm", "_fused_rms_norm[0]", "instance_norm", "local_response_norm", "softmax", "_safe_softmax",
        "log_softmax", "log_sigmoid", "softsign", "hardshrink", "softshrink", "exp", "expm1", "log", "log1p", "sqrt",
        "rsqrt", "reciprocal", "square", "pow", "abs", "erf", "sin", "cos", "nan_to_num", "masked_fill", "sign", "sgn",
        "round", "floor", "ceil", "trunc", "exp2", "log2", "log10", "sinh", "cosh", "tan", "asin", "acos", "atan",
        "asinh", "acosh", "atanh", "erfc", "sinc", "logit",
    }
)  # fmt: skip

#: sums of what is at hand and what is added to it at an index
ADDS_AT = frozenset({"index_add", "scatter_add"})

#: what is at hand, with other values, or a number, in its place at an index; or reduced with them there
PUTS_AT = frozenset({"scatter", "index_copy", "index_fill", "scatter_reduce", "index_reduce"})

#: averages over boxes, which are their second argument: the boxes of the run are taken as constants
IN_BOXES = frozenset({"roi_align"})

#: values that do not depend on the tensors they are given
CONSTANT = frozenset(
    {
        "fill", "zero", "full_like",
        "zeros_like", "ones_like", "new_zeros", "new_ones", "new_full", "empty_like", "new_empty",
        "sym_size", "rand_like", "randn_like",
    }
)  # fmt: skip

#: weighted sums of one operand by the other, where both may depend on the image
BILINEAR = frozenset({"matmul", "mm", "bmm", "einsum", "mv", "linear", "conv"})

_ALIASES = {
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "log_sigmoid_forward": "log_sigmoid",
    "clip": "clamp",
    "swapaxes": "transpose",
    "convolution": "conv",
    "_convolution": "conv",
    "addmm": "linear",
    "_adaptive_avg_pool": "adaptive_avg_pool",
    "_to_copy": "to",
    "_unsafe_view": "view",
    "constant_pad_nd": "pad",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "concat": "cat",
    "feature_dropout": "dropout",
    "alpha_dropout": "dropout",
    "fmax": "maximum",
    "fmin": "minimum",
}


def canonical(name: str) -> str:
    """Return the canonical name of an ATen operation.

    >>> canonical("aten::conv2d"), canonical("aten::max_pool3d"), canonical("aten::relu_")
    ('conv', 'max_pool', 'relu')
    """
    name = re.sub(r"^\w+::", "", name)
    name = name.rstrip("_") or name
    name = re.sub(r"(?<=[a-z])[123]d", "", name)
    return _ALIASES.get(name, name)
