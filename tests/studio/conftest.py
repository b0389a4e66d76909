"""What the studio's tests share: one Postgres for the whole session, where its programs are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.studio.postgres import Postgres, missing


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running Postgres. Skips, with what to install, where there is none."""
    if missing():
        pytest.skip(
            f"NOT TESTED ON POSTGRES: {', '.join(missing())} not found. `make test` as root installs "
            "it on Debian; otherwise install the package `postgresql`."
        )
    with Postgres() as server:
        yield server
