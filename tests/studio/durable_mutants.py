"""Breaks what keeps work from being lost, one promise at a time, and tells which tests noticed:

python -m tests.studio.durable_mutants NAME…    prints one JSON object, as `tests.mutants` does
"""

from __future__ import annotations

import json
import sys

from tests.mutants import Mutation, noticed

HERE = "tests/studio"

MUTATIONS = {
    "folder": Mutation(
        "a stored file's name is on the disk when it is answered",
        "studio.storage.local:_sync_folder",
        "os.fsync(handle)",
        "pass",
        f"{HERE}/storage/test_local.py::test_new_folders_are_synced_into_their_parents",
    ),
    "commit": Mutation(
        "SQLite brings every commit to the disk",
        "studio.database:_tune_sqlite",
        '"synchronous=FULL"',
        '"synchronous=OFF"',
        f"{HERE}/test_catalog.py::test_a_crash_of_power_loses_nothing_that_was_promised",
    ),
    "ended": Mutation(
        "a run that has ended never goes back",
        "studio.catalog:Catalog.update_run",
        "runs.c.state.not_in(OVER)",
        "runs.c.id == run_id",
        f"{HERE}/test_catalog.py::test_an_ended_run_never_goes_back[sqlite-done]",
    ),
    "claim": Mutation(
        "a dead worker's jobs are taken over once",
        "studio.work.roster:Roster.claim",
        "where(workers.c.id == dead_id, free)",
        "where(workers.c.id == dead_id)",
        f"{HERE}/work/test_roster.py::test_a_killed_worker_is_noticed_at_once_and_claimed_once",
    ),
    "struck": Mutation(
        "a worker that was taken for dead notices it",
        "studio.work.roster:Roster.beat",
        "update(workers).where(mine, workers.c.taken_by.is_(None))",
        "update(workers).where(mine)",
        f"{HERE}/work/test_roster.py::test_a_worker_elsewhere_is_dead_when_its_beats_stand_still",
    ),
    "clock": Mutation(
        "a worker elsewhere is not dead because a clock was set or we slept",
        "studio.work.roster:Roster._is_dead",
        "look - watch.looked > LOST_AFTER_S / 3",
        "False",
        f"{HERE}/work/test_roster.py::test_a_worker_elsewhere_is_dead_when_its_beats_stand_still",
    ),
    "age": Mutation(
        "nothing goes for its age because a clock was set",
        "studio.keeping.timekeeping:Timekeeper.believable",
        'if steady - known["since"] < DOUBT_S:',
        "if False:",
        f"{HERE}/keeping/test_timekeeping.py::"
        "test_a_clock_that_jumps_is_not_until_it_went_back_or_held_for_a_day",
    ),
    "process": Mutation(
        "a trainer is known by its beginning and not by a clock",
        "training.local:_started",
        "if not boot.exists():",
        "if True:",
        f"{HERE}/keeping/test_timekeeping.py::test_a_trainer_is_the_same_process_whatever_the_clock_says",
    ),
    "orphans": Mutation(
        "a run whose page was killed before it was enqueued is done all the same",
        "studio.work.workflows:DurableWorkflows.mend",
        "if run.id not in known:",
        "if False:",
        f"{HERE}/work/test_workflows.py::"
        "test_what_a_crash_left_between_records_and_workflows_is_made_good",
    ),
    "ghosts": Mutation(
        "what a worker took after it was struck off is taken over",
        "studio.work.roster:Roster.enlist_lost",
        "for worker_id in lost:",
        "for worker_id in ():",
        f"{HERE}/work/test_workflows.py::"
        "test_what_a_crash_left_between_records_and_workflows_is_made_good",
    ),
    "turns": Mutation(
        "nobody waits behind another person's twenty runs",
        "studio.work.workflows:_next_place",
        "max(mine) // ROUND + 1",
        "max(mine) // ROUND",
        f"{HERE}/work/test_workflows.py::test_everybody_gets_one_turn_a_round_whoever_asks_for_much",
    ),
    "late": Mutation(
        "a worker that wakes up too late changes nothing that is recorded",
        "studio.pictures.delivery:_attempt",
        "new_id()[:12]",
        "'once'",
        f"{HERE}/pictures/test_delivery.py::"
        "test_a_worker_that_wakes_up_too_late_changes_nothing_that_is_recorded",
    ),
    "room": Mutation(
        "a training and a drawing do not run a device out of memory together",
        "studio.work.devices:TrainingLease.share",
        'b"" if self._fits(needed) else LEAVE',
        'b""',
        f"{HERE}/work/test_devices.py::"
        "test_a_training_leaves_the_device_to_what_has_no_room_beside_it[30.0-leave]",
    ),
    "backup": Mutation(
        "a restore writes nothing of what is no backup",
        "studio.keeping.backup:_checked_names",
        "if key == name or parts[0]",
        "if False and parts[0]",
        f"{HERE}/keeping/test_backup.py::test_archives_that_are_no_backups_write_nothing[other/file]",
    ),
    "unasked": Mutation(
        "a restore replaces nothing unasked",
        "studio.keeping.backup:_restore",
        "_check_place(settings, catalog, force)",
        "pass",
        f"{HERE}/keeping/test_backup.py::"
        "test_a_backup_restored_elsewhere_is_the_same_studio_and_back_again[sqlite]",
    ),
    "forward": Mutation(
        "an older release's records come forward",
        "studio.migrations.upgrade:upgrade",
        'command.upgrade(config, "head")',
        "pass",
        f"{HERE}/test_migrations.py::test_a_studio_of_any_release_comes_forward_whole",
    ),
    "twice": Mutation(
        "a repeated step finds the avatar that it stored before",
        "studio.pictures.delivery:Delivery.avatar",
        "avatar_id = slot_id(run.id, slot)",
        "avatar_id = new_id()",
        f"{HERE}/pictures/test_delivery.py::"
        "test_an_avatar_is_stored_once_however_often_its_step_is_repeated",
    ),
    "checkpoint": Mutation(
        "a trainer that was ended goes on from its checkpoint",
        "training.checkpoint:read",
        "return None if found is None else",
        "return None if True else",
        "tests/training/test_dreambooth.py::"
        "test_a_run_that_was_terminated_continues_to_the_same_weights",
    ),
    "together": Mutation(
        "records change in one transaction: a removal that fails writes no erasure",
        "studio.catalog:Catalog.remove",
        "            if erasure is not None:",
        "            for kind, ids in doomed.items():\n"
        "                table = _TABLES[kind]\n"
        "                connection.execute(delete(table).where(table.c.id.in_(list(ids))))\n"
        "            connection.connection.commit()\n"
        "            if erasure is not None:",
        f"{HERE}/test_catalog.py::test_a_removal_that_fails_writes_no_erasure[sqlite]",
    ),
    "full": Mutation(
        "a full disk is said, with what to do",
        "studio.storage.local:storage_fault",
        "if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):",
        "if False:",
        f"{HERE}/test_outages.py::test_a_disk_that_is_full_is_said_and_nothing_is_lost",
    ),
    "away": Mutation(
        "a long job waits for a database that goes away",
        "studio.work.patience:Patient._steadily",
        "time.monotonic() - began > GIVE_UP_S",
        "True",
        f"{HERE}/work/test_patience.py::test_a_call_waits_for_the_database_and_is_made_once",
    ),
    "future": Mutation(
        "an older program does not touch the records of a newer one",
        "studio.migrations.upgrade:upgrade",
        "if found is not None and found not in known:",
        "if False:",
        f"{HERE}/test_catalog.py::"
        "test_a_database_from_the_future_is_refused_with_what_to_do[sqlite]",
    ),
}


def main() -> int:
    names = sys.argv[1:] or list(MUTATIONS)
    print(json.dumps({name: noticed(MUTATIONS[name]) for name in names}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
