"""M3L's rule for which sensors a sample keeps: every non-empty subset of what it has is equally likely."""

from __future__ import annotations

import torch
from torch import Tensor


def random_subsets(available: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a non-empty subset of each sample's modalities.

    The published rule for two modalities (mask the first, the second, or nothing, each with probability
    1/3) is the case of two of: uniform over the 2^n - 1 non-empty subsets of the n available modalities.

    Args:
        available: bool ``[B, M]``, at least one a sample.
        generator: source of randomness; torch's global one by default.

    Returns:
        bool ``[B, M]``, a subset of ``available``.
    """
    count = available.sum(dim=1)
    share = torch.rand(len(available), generator=generator).to(available.device)
    # A number 1 .. 2^n - 1, whose bits say which of the sample's n modalities stay.
    code = 1 + (share * (2**count - 1)).long()
    bit = available.long().cumsum(dim=1) - 1
    return available & ((code[:, None] >> bit.clamp(min=0)) & 1).bool()
