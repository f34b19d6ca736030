"""Training for these tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def denormal_numbers():
    """Commands that run in this process flush them; tests of other rooms may follow in it."""
    yield
    torch.set_flush_denormal(False)
