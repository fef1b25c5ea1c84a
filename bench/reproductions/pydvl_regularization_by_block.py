"""A regularization by block is refused where its keys are the blocks, and ignored where they are not.

Documented: DirectInfluence, regularization: "In case a dictionary is provided, the keys must be a subset of
the block identifiers".
"""

import torch
from pydvl.influence.torch import DirectInfluence
from pydvl.influence.torch.util import BlockMode

LIBRARY = "pyDVL"

layer = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(layer.weight)
model = torch.nn.Sequential(layer)


def attempt(block: str) -> str:
    try:
        DirectInfluence(
            model, torch.nn.MSELoss(), regularization={block: 0.1}, block_structure=BlockMode.LAYER_WISE
        )
    except ValueError:
        return "refused"
    return "accepted"


# _build_regularization_dict raises if the keys are a subset of the blocks' names, and not if they are not.
expected = "0 accepted, no_such_block refused"
got = f"0 {attempt('0')}, no_such_block {attempt('no_such_block')}"
differs = got != expected
print(f"expected {expected}, got {got}")
