"""Breaks the program one promise at a time and tells which tests noticed. A program of its own:

python -m tests.mutants NAME…    prints one JSON object: each mutation with what its test said

The text of one function is changed and compiled, and the living function gets the changed code, so
that everybody who holds it runs it. The files stay as they are, and each is whole again afterwards.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

STUDIO = "tests/studio"


@dataclass(frozen=True)
class Mutation:
    """`function` (module:name) with `old` replaced by `new` breaks `promise`; `test` must fail."""

    promise: str
    function: str
    old: str
    new: str
    test: str


MUTATIONS = {
    "owner": Mutation(
        "an action answers the owner only",
        "studio.doors.owned:Owned._mine",
        "found is None or found.user_id != user_id",
        "found is None",
        f"{STUDIO}/test_isolation.py::test_another_users_ids_are_refused_and_change_nothing[rename_person-bob]",
    ),
    "fsync": Mutation(
        "what is stored is on the disk before it has its name",
        "studio.storage.local:_write_durably",
        "os.fsync(stream.fileno())",
        "pass",
        f"{STUDIO}/storage/test_local.py::test_a_write_is_synced_before_it_gets_its_name_and_its_folder_after",
    ),
    "rename": Mutation(
        "what is half written never has its name",
        "studio.storage.local:LocalStorage.put",
        "self._move(partial, target)",
        "self._make_folder(target.parent), shutil.copyfile(partial, target)",
        f"{STUDIO}/storage/test_local.py::test_a_write_is_synced_before_it_gets_its_name_and_its_folder_after",
    ),
    "cache": Mutation(
        "erasing reaches what the page has cached",
        "studio.keeping.erasure:finish",
        'gone += drop_copies(home / "tmp", erasure.sha256)',
        "pass",
        f"{STUDIO}/doors/test_erasing.py::test_everything_of_a_person_or_a_user_is_gone_from_every_store[person]",
    ),
    "elsewhere": Mutation(
        "what one machine erases goes from the disks of the others",
        "studio.keeping.copies:drop_strays",
        "gone = storage.drop_copies(recorded(catalog), UNNAMED_S)",
        "gone = 0",
        f"{STUDIO}/keeping/test_copies.py::test_what_is_erased_on_one_machine_goes_from_the_others_disk",
    ),
    "work": Mutation(
        "erasing reaches the working folders of trainings",
        "studio.keeping.erasure:finish",
        'folders = [home / "work" / run_id for run_id in filter(_ID.match, erasure.run_ids)]',
        "folders = []",
        f"{STUDIO}/doors/test_erasing.py::test_everything_of_a_person_or_a_user_is_gone_from_every_store[person]",
    ),
    "log": Mutation(
        "erasing reaches the database's own log",
        "studio.catalog:Catalog.scrub",
        'connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")',
        "pass",
        f"{STUDIO}/doors/test_erasing.py::test_everything_of_a_person_or_a_user_is_gone_from_every_store[person]",
    ),
    "route": Mutation(
        "a route that is added without a check is noticed",
        "studio.web.api:routes",
        '    @router.get("/files/{kind}/{item_id}")',
        '    @router.get("/files/any/{item_id}")\n'
        "    def anybodys(item_id: str) -> Response:\n"
        "        return _file(parts.storage.fetch(item_id), 0)\n\n"
        '    @router.get("/files/{kind}/{item_id}")',
        f"{STUDIO}/test_every_route.py::test_every_open_route_says_what_it_is_for",
    ),
    "upload": Mutation(
        "an upload is an input of its sender only",
        "studio.web.guard:Guard._theirs",
        "return self.owners.owns(thing, user)",
        "return True",
        f"{STUDIO}/web/test_app.py::test_uploads_belong_to_whoever_sent_them",
    ),
    "session": Mutation(
        "a session is its user's only",
        "studio.web.owners:Owners.claim",
        "return False",
        "return True",
        f"{STUDIO}/web/test_app.py::test_sessions_belong_to_whoever_began_them",
    ),
    "link": Mutation(
        "a link is its owner's only",
        "studio.web.api:routes",
        'if facts is None or facts["user"] != request.scope["user_name"]:',
        "if facts is None:",
        f"{STUDIO}/web/test_app.py::test_links_to_originals_are_bound_to_their_owner_and_short",
    ),
    "origin": Mutation(
        "another site's requests are refused",
        "studio.web.guard:_foreign",
        "        return True\n",
        "        return False\n",
        f"{STUDIO}/web/test_app.py::test_only_this_machine_and_this_origin",
    ),
    "header": Mutation(
        "every answer carries the headers",
        "studio.web.guard:Guard._with_headers",
        '"x-content-type-options": "nosniff",',
        "",
        f"{STUDIO}/web/test_app.py::test_every_answer_carries_the_headers",
    ),
    "throttle": Mutation(
        "guessing passwords is slow",
        "studio.web.accounts:Throttle.begin",
        "if wait_s:",
        "if False:",
        f"{STUDIO}/web/test_accounts.py::test_too_many_misses_must_wait_and_others_need_not",
    ),
    "nonce": Mutation(
        "a token of another sign-in signs nobody in",
        "studio.web.oidc:Provider._claims",
        'nonce={"essential": True, "value": nonce},',
        "",
        f"{STUDIO}/web/test_oidc.py::test_a_token_or_provider_that_breaks_a_rule_signs_nobody_in[nonce]",
    ),
    "magic": Mutation(
        "only known kinds of files reach a decoder",
        "studio.intake.gate:kind_of",
        "    return None\n",
        '    return "JPEG"\n',
        f"{STUDIO}/intake/test_gate.py::test_what_is_no_photo_is_called_what_it_is[%PDF-1.7 ...-not_a_photo-PDF]",
    ),
    "closed": Mutation(
        "a photo that could not be checked is never accepted",
        "studio.doors.photos:Photos._judged",
        "judged = PhotoJudgement(Verdict(Decision.UNAVAILABLE))",
        "judged = PhotoJudgement(Verdict(Decision.ALLOW))",
        f"{STUDIO}/doors/test_photos.py::test_a_check_that_breaks_altogether_ends_in_the_same_card",
    ),
    "retention": Mutation(
        "uploads that nobody trains on go by themselves",
        "studio.keeping.retention:_Keeper.abandoned_photos",
        "gone += self._erase_photos(photos)",
        "pass",
        f"{STUDIO}/doors/test_erasing.py::test_abandoned_uploads_go_after_their_hours_and_trained_ones_stay",
    ),
    "event": Mutation(
        "an event of the page tells and does nothing with another's ids",
        "studio.doors.owned:Owned._mine",
        "found is None or found.user_id != user_id",
        "found is None",
        f"{STUDIO}/test_every_event.py::test_no_event_tells_or_does_anything_with_anothers_ids",
    ),
    "same": Mutation(
        "not yours and not there are the same answer",
        "studio.doors.owned:Owned._mine",
        "if found is None or found.user_id != user_id:",
        "if found is None:\n            raise UserError('There is no such thing.')\n"
        "        if found.user_id != user_id:",
        f"{STUDIO}/test_isolation.py::test_odd_ids_are_not_found",
    ),
    "preview": Mutation(
        "a preview that was not judged is not served",
        "studio.doors.gallery:Gallery.file",
        ' if item_id in listed else ""',
        "",
        f"{STUDIO}/test_isolation.py::test_a_preview_that_was_not_judged_is_not_served",
    ),
    "closed_route": Mutation(
        "only the routes that the page needs are open",
        "studio.web.guard:Guard._refused",
        "not OPEN.match(path) or ",
        "",
        f"{STUDIO}/web/test_app.py::test_what_the_page_does_not_need_is_closed",
    ),
    "equal_bytes": Mutation(
        "who sends the bytes that another sent owns them, too",
        "studio.web.owners:Owners._note",
        "self._owners.setdefault(thing, set()).add(user)",
        "self._owners[thing] = {user}",
        f"{STUDIO}/web/test_owners.py::"
        "test_equal_uploads_belong_to_all_who_sent_them_until_each_forgets",
    ),
    "cookie": Mutation(
        "who keeps no cookie makes nothing",
        "studio.web.guard:Guard._refused",
        "if fresh and OWNED.match(path):",
        "if False:",
        f"{STUDIO}/web/test_app.py::test_whoever_keeps_no_cookie_makes_nothing",
    ),
    "password": Mutation(
        "a fault names the database without its password",
        "studio.database:faults_named",
        "hide_password=True",
        "hide_password=False",
        f"{STUDIO}/test_catalog.py::"
        "test_a_database_that_cannot_be_opened_is_named_without_its_password",
    ),
    "purpose": Mutation(
        "what is signed holds for one purpose",
        "studio.web.accounts:Signer._mark",
        'purpose.encode() + b"\\0" + content',
        "content",
        f"{STUDIO}/web/test_accounts.py::test_signed_statements_hold_for_one_purpose_and_a_time",
    ),
    "late_link": Mutation(
        "links and sessions end",
        "studio.web.accounts:Signer.read",
        'facts if float(facts["until"]) > time.time() else None',
        "facts",
        f"{STUDIO}/web/test_accounts.py::test_signed_statements_hold_for_one_purpose_and_a_time",
    ),
    "forged": Mutation(
        "what we did not sign is nobody's",
        "studio.web.accounts:Signer.read",
        "not hmac.compare_digest(mark, self._mark(purpose, content))",
        "False",
        f"{STUDIO}/web/test_accounts.py::test_signed_statements_hold_for_one_purpose_and_a_time",
    ),
    "plain": Mutation(
        "a password is kept as a hash only",
        "studio.web.accounts:add",
        "line = account_line(name, password)",
        'line = account_line(name, password) + "\\n#" + password',
        f"{STUDIO}/web/test_accounts.py::test_a_password_is_checked_and_never_kept",
    ),
    "stamp": Mutation(
        "a new password ends the sessions of the old one",
        "studio.web.accounts:Visitors.admitted",
        "wanted == stamp",
        "True",
        f"{STUDIO}/web/test_accounts.py::test_a_new_password_ends_the_sessions_of_the_old_one",
    ),
    "allowed": Mutation(
        "only those whom the host names come in from a provider",
        "studio.web.oidc:Provider._may_enter",
        "return not self._allowed or bool(names & self._allowed)",
        "return True",
        f"{STUDIO}/web/test_oidc.py::test_only_those_whom_the_host_names_come_in",
    ),
    "quota": Mutation(
        "what a user may ask for in a day is counted",
        "studio.doors.runs:Runs._check_quota",
        "if most and used + use.amount > most:",
        "if False:",
        f"{STUDIO}/doors/test_runs.py::test_quotas_of_a_day",
    ),
    "pace": Mutation(
        "who asks too often waits",
        "studio.web.pace:Pace.take",
        "if over > 0:",
        "if False:",
        f"{STUDIO}/web/test_app.py::test_who_uploads_or_asks_too_much_waits_and_others_do_not",
    ),
    "many": Mutation(
        "only so many files come in one request",
        "studio.web.bodies:Counted.receive",
        "self._seen += window.count(self._mark)",
        "pass",
        f"{STUDIO}/web/test_app.py::test_more_files_than_a_set_holds_are_refused_however_small",
    ),
    "cut_short": Mutation(
        "an erasure that a crash cut short is finished",
        "studio.keeping.erasure:finish_all",
        "pending = catalog.find(Erasure)",
        "pending = []",
        f"{STUDIO}/doors/test_erasing.py::test_an_erasure_cut_short_by_a_crash_is_finished_later",
    ),
    "late_writer": Mutation(
        "what a running job writes late goes, too",
        "studio.keeping.erasure:finish",
        "if settled and not any(folder.exists() for folder in folders):",
        "if True:",
        f"{STUDIO}/doors/test_erasing.py::test_what_a_running_job_writes_after_the_erasure_goes_too",
    ),
    "free_pages": Mutation(
        "not even a random id is left in the workflow store",
        "studio.keeping.forgetting:_remove",
        "workflows.client.delete_workflows(list(ids))",
        "pass",
        f"{STUDIO}/test_leaving.py::test_nothing_of_a_user_is_left_in_any_file_after_the_sweeps",
    ),
    "waiting": Mutation(
        "uploads that became nobody's photo go with an erasure",
        "studio.doors.erasing:Erasing._drop_uploads",
        "sum(erasure.drop_upload(path) for path in waiting)",
        "0",
        f"{STUDIO}/test_leaving.py::test_uploads_that_became_nobodys_photo_go_with_an_erasure[user]",
    ),
    "days": Mutation(
        "models go after their days",
        "studio.keeping.retention:_Keeper.old_models",
        'self.catalog.before(PersonalModel, "created_at", limit)',
        "[]",
        f"{STUDIO}/doors/test_erasing.py::test_models_and_avatars_go_after_their_days",
    ),
    "versions": Mutation(
        "erasing in S3 takes every version",
        "studio.storage.s3:S3Storage._versions",
        '(*page.get("Versions", ()), *page.get("DeleteMarkers", ()))',
        'page.get("DeleteMarkers", ())',
        f"{STUDIO}/storage/test_s3.py::"
        "test_erasing_takes_versions_delete_markers_and_unfinished_uploads",
    ),
    "undone": Mutation(
        "guests whose session is over leave nothing",
        "studio.keeping.retention:_Keeper.guests",
        "for user in over:",
        "for user in ():",
        f"{STUDIO}/test_leaving.py::test_a_guest_whose_session_is_over_leaves_nothing",
    ),
}


@contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """The living function runs the changed code for as long as this lasts."""
    module, name = mutation.function.split(":")
    home = importlib.import_module(module)
    living: FunctionType = inspect.unwrap(attrgetter(name)(home))
    file = Path(inspect.getfile(living))
    source = "".join(inspect.getsourcelines(living)[0])
    assert source.count(mutation.old) >= 1, f"{mutation.function} does not say {mutation.old!r}"
    text = file.read_text("utf-8")
    changed = text.replace(source, source.replace(mutation.old, mutation.new), 1)
    assert changed != text
    scratch: dict[str, Any] = dict(vars(home))
    exec(compile(changed, str(file), "exec"), scratch)
    outer, *inner = name.split(".")
    found: Callable[..., Any] = scratch[outer]
    for part in inner:
        found = getattr(found, part)
    kept = living.__code__
    living.__code__ = inspect.unwrap(found).__code__
    try:
        yield
    finally:
        living.__code__ = kept


def noticed(mutation: Mutation) -> str:
    """`failed` when its test fails with the mutation, and passes without it."""
    with redirect_stdout(sys.stderr):
        if _passes(mutation.test) is not True:
            return "the test does not pass as it is"
        with mutated(mutation):
            return "passed" if _passes(mutation.test) else "failed"


def _passes(test: str) -> bool | None:
    """Whether the test passes; None when it did not run."""
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=no", test])
    return {pytest.ExitCode.OK: True, pytest.ExitCode.TESTS_FAILED: False}.get(code)


def main() -> int:
    names = sys.argv[1:] or list(MUTATIONS)
    print(json.dumps({name: noticed(MUTATIONS[name]) for name in names}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
