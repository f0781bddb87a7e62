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


# slow tests of these files are long ones: together they take more than half an hour of processor time
LONG = ("test_mutate", "test_kernel_report", "test_launcher", "test_replace_modules", "test_fused_models")
LONG_TESTS = ("test_more_random_inputs", "test_for_norm_compiles_with_inductor")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = getattr(item, "originalname", item.name)
        if item.get_closest_marker("slow") and (item.path.stem in LONG or name in LONG_TESTS):
            item.add_marker(pytest.mark.long)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
