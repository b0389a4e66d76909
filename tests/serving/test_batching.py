"""The rule for when sharing a batch pays."""

from __future__ import annotations

import pytest

from diffusion.load import load_parts
from serving.batching import batch_rows, largest_that_pays, measure


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0}, 1),  # no gain at all: nobody should wait for others
        ({1: 1.0, 2: 1.1, 4: 1.3, 8: 2.5}, 4),  # the eighth row costs as much as it brings
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}, 16),
        ({1: 1.0, 2: 1.95, 4: 3.0}, 4),  # two hardly help, four do
        ({1: 1.0}, 1),
    ],
)
def test_a_size_must_pay_for_its_wait(seconds, rows):
    assert largest_that_pays(seconds) == rows


def test_measuring_really_draws_each_size(bases):
    parts = load_parts(bases["sd15"].folder, "sd15")
    sizes = []
    parts.unet.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    seconds = measure(parts, [1, 4])
    assert set(seconds) == {1, 4}
    assert all(value > 0 for value in seconds.values())
    assert set(sizes) == {2, 8}
    assert 1 <= batch_rows(parts, most=2) <= 2
