"""What the tests of models share."""

import resource
from contextlib import contextmanager

import pytest


@pytest.fixture
def small_files():
    """A context in which no file can grow beyond a number of bytes: to a writer, a disk that fills up."""

    @contextmanager
    def limited(size):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited
