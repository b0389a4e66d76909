"""Cool-down by an injected clock: five refusals within ten minutes, then a rest."""

from moderation.cooldown import Cooldown, Limits, MemoryStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_five_refusals_within_the_window_mean_a_rest() -> None:
    clock = Clock()
    cooldown = Cooldown(clock=clock)
    for _ in range(4):
        cooldown.refused("ann")
        clock.now += 60
    assert cooldown.rest_s("ann") == 0
    cooldown.refused("ann")
    assert cooldown.rest_s("ann") == 600
    assert cooldown.rest_s("bob") == 0
    clock.now += 599
    assert cooldown.rest_s("ann") == 1
    clock.now += 2
    assert cooldown.rest_s("ann") == 0


def test_slow_refusals_never_add_up() -> None:
    clock = Clock()
    cooldown = Cooldown(MemoryStore(), Limits(3, 100, 100), clock)
    for _ in range(20):
        cooldown.refused("ann")
        clock.now += 51
        assert cooldown.rest_s("ann") == 0


def test_a_rest_counts_from_the_last_refusal_that_earned_it() -> None:
    clock = Clock()
    cooldown = Cooldown(limits=Limits(2, 10, 50), clock=clock)
    cooldown.refused("ann")
    clock.now += 5
    cooldown.refused("ann")
    clock.now += 20
    assert cooldown.rest_s("ann") == 30
