"""Fixtures that more than one room's tests use."""

import pytest
from hypothesis import HealthCheck, settings
from tiny_model import write_tiny_model

# The same examples on every machine, so that a change is judged by what it changed. New ones are found
# with: pytest --hypothesis-profile=explore test/sync (some minutes).
# Neither is a test of how fast a busy machine is.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("reproducible", PATIENT, derandomize=True)
settings.register_profile("explore", PATIENT, max_examples=2000, print_blob=True)
settings.load_profile("reproducible")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a real, tiny model; see ``tiny_model.py``."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
