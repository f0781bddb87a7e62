"""Fixtures for all tests: real image data, and skipping what needs a GPU."""

import os

import pytest
import torch
from mistakes import fails  # noqa: F401 - a fixture
from real_images import real_data  # noqa: F401 - a fixture

# torch.compile keeps programs between processes, and runs them again after an op's signature has changed
os.environ.setdefault("TORCH_COMPILE_FORCE_DISABLE_CACHES", "1")
torch.compiler.config.force_disable_caches = True


# references in fp32 are computed in fp32, and the same twice
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
