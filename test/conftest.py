"""Fixtures that more than one room's tests use."""

import pytest
from tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a real, tiny model; see ``tiny_model.py``."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
