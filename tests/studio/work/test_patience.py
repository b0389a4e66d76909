"""A long job's catalog waits while the database is away."""

from __future__ import annotations

import threading

from studio.catalog import open_catalog
from studio.records import User, now
from studio.work.patience import Patient
from studio.work.shift import Shift


def test_a_call_waits_for_the_database_and_is_made_once(postgres):
    catalog = open_catalog(postgres.new_database())
    patient = Patient(catalog, Shift())
    postgres.stop()
    back = threading.Timer(2.0, postgres.start)
    back.start()
    try:
        patient.add(User("ann", "Ann", now()))
    finally:
        back.join()
    assert [user.id for user in catalog.find(User)] == ["ann"]
