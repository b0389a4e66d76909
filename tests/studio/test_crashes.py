"""kill -9 of web, worker and trainer at random, seeded moments, on SQLite and on Postgres.

Learning and drawing are toys here, so that dozens of kills fit into seconds; everything that must
survive is the real one. Real training under kills: `test_kill.py`.
"""

from __future__ import annotations

import pytest

from tests.studio.house import open_house
from tests.studio.storm import Storm, check

pytestmark = pytest.mark.timeout(1800)

KILLS = 16
SOAK_KILLS = 150


@pytest.fixture(params=["sqlite", "postgres"])
def parts(request, tmp_path):
    """A studio on each kind of database, at toy budgets."""
    changes: dict[str, object] = {"min_photos": 3, "threads": 1, "log_level": "WARNING"}
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
        changes |= {"database_url": url, "workflow_database_url": url}
    opened = open_house(tmp_path / "home", **changes)
    yield opened
    opened.studio.close()
    opened.close()


def test_dozens_of_kills_cost_time_and_nothing_else(parts):
    with Storm(parts, seed=2026) as storm:
        storm.rage(KILLS)
        storm.calm()
        check(storm)
        assert sum(storm.kills.values()) == KILLS and len(storm.kills) == 3


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_kills(parts, seed):
    with Storm(parts, seed, workers=1 + seed % 3) as storm:
        storm.rage(SOAK_KILLS)
        storm.calm()
        check(storm)
