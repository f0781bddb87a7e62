"""Properties, agreement with torch's modules, and errors of ``conv2d_bn_act``, beyond what its OpSpec generates."""

import pytest
import torch

from cifarfast.kernels import conv2d_bn_act
from cifarfast.kernels.batch_norm.sample_inputs import with_gaps
from cifarfast.kernels.testing.check import assert_matches
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sample", ["3x3", "residual silu stride 2", "eval"])
def test_parameters_with_gaps(sample: str, spec: OpSpec, implementation: str) -> None:
    case = spec.cases[sample]
    assert_matches(spec, with_gaps(case)(SampleMaker(torch.float32, implementation)))
    with torch.no_grad():  # in eval the batch norm is folded
        found, expected = (
            conv2d_bn_act(**c(SampleMaker(torch.float32, implementation))) for c in (with_gaps(case), case)
        )
    torch.testing.assert_close(found, expected)


def test_counts_once(implementation: str) -> None:
    """However many blocks of channels there are."""
    make = SampleMaker(torch.float32, implementation)
    x, conv_weight = make.randn(2, 8, 4, 4), make.randn(264, 8, 1, 1)
    count = torch.tensor(3, device=implementation)
    buffers = (torch.zeros(264, device=implementation), torch.ones(264, device=implementation))
    for batch in range(2):
        conv2d_bn_act(x, conv_weight, *buffers, num_batches_tracked=count, training=True)
        assert count.item() == 4 + batch


def _arguments(**changes: object) -> dict[str, object]:
    arguments = {
        "x": torch.zeros(2, 8, 5, 5),
        "conv_weight": torch.zeros(16, 8, 3, 3),
        "running_mean": torch.zeros(16),
        "running_var": torch.ones(16),
    }
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"residual": torch.zeros(2, 8, 5, 5)},
            r"residual must have the shape of the convolution's result \[2, 16, 3, 3\], got \[2, 8, 5, 5\]",
        ),
        (
            {"x": torch.zeros(1, 8, 3, 3), "training": True},
            r"x must give the convolution's result more than one value per channel in training, "
            r"got \[1, 16, 1, 1\] of x \[1, 8, 3, 3\]",
        ),
        (
            {"running_var": torch.zeros(8)},
            r"running_var must be \[16\] for the convolution's result \[2, 16, 3, 3\], got \[8\]",
        ),
    ],
)
def test_mistakes_are_those_of_the_result(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}$"):
        conv2d_bn_act(**_arguments(**changes))
