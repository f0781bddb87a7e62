"""The moving average: exact ends, agreement with torch, decays from the device."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifarfast.kernels import FlatScalar, flat_ema, flat_scalars

SETTINGS = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(n=st.integers(1, 3000), decay=st.floats(0, 1), seed=st.integers(0, 100))
def test_properties(n: int, decay: float, seed: int, implementation: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, master = (torch.randn(n, generator=generator).to(implementation) for _ in range(2))
    scalars = flat_scalars(lr=0.1, ema_decay=decay, device=implementation)
    ema = start.clone()
    flat_ema(ema, master, scalars)
    torch.testing.assert_close(ema.double(), start.double().lerp(master.double(), 1 - decay), rtol=3e-7, atol=3e-7)
    same = master.clone()
    flat_ema(same, master, scalars)
    assert torch.equal(same, master)
    for end, expected in ((0.0, master), (1.0, start)):
        scalars[FlatScalar.EMA_DECAY] = end
        ema = start.clone()
        flat_ema(ema, master, scalars)
        assert torch.equal(ema, expected)
