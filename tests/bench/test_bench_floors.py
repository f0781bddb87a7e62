"""The floor model gives the published floors: FLOP, bytes and milliseconds an epoch of 50,000 images on an H200."""

import pytest

from bench.floors import NOMINAL_H200, floors
from bench.measure import Rates

PUBLISHED = {
    ("wrn16_8", "a"): (9.29, 43.6, 963),
    ("wrn16_8", "b"): (9.29, 31.5, 823),
    ("wrn16_8", "c"): (9.29, 22.5, 650),
    ("pyramidnet110_a150_shakedrop", "a"): (10.7, 152, 2077),
    ("pyramidnet110_a150_shakedrop", "b"): (10.7, 102, 1501),
    ("pyramidnet110_a150_shakedrop", "c"): (10.7, 63, 938),
}


@pytest.mark.parametrize(("arch", "variant"), PUBLISHED)
def test_published_floors(arch: str, variant: str) -> None:
    gigaflops, megabytes, ms = PUBLISHED[arch, variant]
    floor = floors(arch)[variant]
    assert floor.flops / 1e9 == pytest.approx(gigaflops, rel=3e-3)
    assert floor.bytes / 1e6 == pytest.approx(megabytes, rel=6e-3)
    assert 1e3 * floor.step_seconds(50_000, NOMINAL_H200) == pytest.approx(ms, rel=1e-3)


def test_asam_is_two_passes_and_faster_rates_are_less_time() -> None:
    floor = floors("wrn16_8")["b"]
    one, two = (floor.step_seconds(128, NOMINAL_H200, passes=passes) for passes in (1, 2))
    assert two == pytest.approx(2 * one)
    twice = Rates(2 * NOMINAL_H200.flops_per_second, 2 * NOMINAL_H200.bytes_per_second)
    assert floor.step_seconds(128, twice) == pytest.approx(one / 2)
    # with endless bandwidth arithmetic is what is left
    arithmetic = floor.step_seconds(128, Rates(1e12, 1e30))
    assert arithmetic == pytest.approx(128 * floor.flops / 1e12)


@pytest.mark.parametrize("arch", ["lenet", "pyramidnet272_a200"])
def test_unknown_blocks_are_refused(arch: str) -> None:
    with pytest.raises(ValueError, match=arch):
        floors(arch)
