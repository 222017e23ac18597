"""What may ship does not depend on the processor that the tests run on."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def steady(by_size):
    """Latencies are handed in; tests/bench measures."""
