"""Breaks what stands between others' files, texts and tokens and the studio, promise by promise:

python -m tests.studio.input_mutants NAME…    prints one JSON object, as `tests.mutants` does
"""

from __future__ import annotations

import json
import sys

from tests.mutants import Mutation, noticed

HERE = "tests/studio"
GATE = f"{HERE}/intake/test_gate.py"


def in_the_child(promise: str, old: str, new: str, test: str) -> Mutation:
    """Breaks the program that decodes: it runs in a process of its own, from its file."""
    code = (
        "import sys\nfile = sys.argv[1]\n"
        f"exec(compile(open(file).read().replace({old!r}, {new!r}), file, 'exec'))"
    )
    start = '[sys.executable, "-S", "-P", str(program)]'
    broken = f'[sys.executable, "-S", "-P", "-c", {code!r}, str(program)]'
    return Mutation(promise, "studio.intake.gate:spawn", start, broken, f"{GATE}::{test}")


MUTATIONS = {
    "hang": Mutation(
        "a child that hangs is ended",
        "studio.intake.gate:Gate._ask",
        "threading.Timer(self.timeout_s, stop)",
        "threading.Timer(3600.0, stop)",
        f"{GATE}::test_a_child_that_hangs_is_ended",
    ),
    "decoy": Mutation(
        "a wrong name takes as long as a wrong password",
        "studio.web.accounts:Accounts.check",
        "kept = self.names().get(name)\n",
        "kept = self.names().get(name)\n        if kept is None:\n            return False\n",
        f"{HERE}/web/test_accounts.py::"
        "test_a_name_that_does_not_exist_takes_as_long_as_a_wrong_password",
    ),
    "pixels": in_the_child(
        "a small file that would decode to 170 megapixels is never decoded",
        "width * height > max_pixels or max(width, height) > MAX_SIDE_PX",
        "False",
        "test_a_small_file_that_would_decode_to_170_megapixels_is_named_and_not_decoded",
    ),
    "metadata": in_the_child(
        "nothing of a photo's metadata comes out",
        'picture = Image.new("RGB", small.size)\n    picture.paste(small)',
        "picture = small",
        "test_nothing_of_the_metadata_comes_out",
    ),
    "memory": in_the_child(
        "a child that eats memory ends alone",
        "decode.main()",
        "decode.limit_self = lambda: None\ndecode.main()",
        "test_a_child_that_runs_out_of_memory_takes_nobody_with_it",
    ),
    "sealed": in_the_child(
        "a decoder that was taken over opens no file and no connection",
        "decode.main()",
        "decode.seal_self = lambda: None\ndecode.main()",
        "test_a_decoder_that_was_taken_over_reaches_no_network_and_no_file",
    ),
    "secrets": Mutation(
        "the child that decodes knows none of our secrets",
        "studio.intake.gate:spawn",
        'env={"PYTHONPATH"',
        'env={**os.environ, "PYTHONPATH"',
        f"{GATE}::test_the_child_runs_under_its_limits_and_knows_none_of_our_secrets",
    ),
    "climb": Mutation(
        "storage keys that climb lead nowhere",
        "studio.storage.local:LocalStorage._path",
        "not all(_PART.match(part) for part in parts)",
        "False",
        f"{HERE}/storage/test_contract.py::test_keys_that_are_no_keys_are_refused[local]",
    ),
    "planted": Mutation(
        "links planted in the storage folder lead nowhere",
        "studio.storage.local:LocalStorage._path",
        "not path.parent.resolve().is_relative_to(self.root) or path.is_symlink()",
        "False",
        f"{HERE}/storage/test_local.py::test_planted_links_lead_nowhere",
    ),
    "weights": Mutation(
        "weights that are not finite are refused",
        "serving.adapter:_read_tensors",
        "not torch.isfinite(tensor).all()",
        "False",
        "tests/serving/test_adapter.py::test_values_that_are_not_finite_are_refused",
    ),
    "member": Mutation(
        "an archive's names that climb are refused",
        "serving.archive:_unpack",
        "path != member.name or path not in LIMITS",
        "False",
        "tests/serving/test_archive.py::test_a_name_that_does_not_belong_is_refused",
    ),
    "consent": Mutation(
        "only photos that a consent covers are trained",
        "studio.doors.runs:Runs._check_set",
        "if not status.consented:",
        "if False:",
        f"{HERE}/doors/test_runs.py::test_a_set_that_is_not_ready_says_what_is_missing",
    ),
    "refused": Mutation(
        "refused texts start nothing",
        "studio.doors.runs:Runs._check_text",
        "if not verdict.allowed:",
        "if False:",
        f"{HERE}/doors/test_runs.py::test_a_refused_text_starts_nothing_and_many_make_one_wait",
    ),
    "public_text": Mutation(
        "a public studio without a real check draws catalogue styles only",
        "studio.doors.runs:Runs._check_text",
        "if text.strip() and self.restricted:",
        "if False:",
        f"{HERE}/doors/test_runs.py::"
        "test_a_public_studio_without_a_real_check_draws_catalogue_styles_only",
    ),
    "public_photo": Mutation(
        "a public studio without a real check takes sample photos only",
        "studio.doors.photos:Photos.add_photo",
        "if self.restricted and upload_sha256 not in sample_hashes():",
        "if False:",
        f"{HERE}/doors/test_photos.py::test_a_public_studio_without_a_real_check_takes_samples_only",
    ),
    "token_owner": Mutation(
        "a token is revoked by whose it is only",
        "studio.doors.tokens:Tokens.revoke_token",
        "found is None or found.user_id != user_id",
        "found is None",
        f"{HERE}/test_isolation.py::"
        "test_another_users_ids_are_refused_and_change_nothing[revoke_token-bob]",
    ),
    "token_old": Mutation(
        "a token ends with its time",
        "studio.doors.tokens:Tokens.bearer",
        "not found or found[0].expired",
        "not found",
        f"{HERE}/web/test_tokens.py::test_a_revoked_an_old_and_a_made_up_token_are_nobodys",
    ),
    "token_plain": Mutation(
        "a token is kept as a hash only",
        "studio.doors.tokens:Tokens.make_token",
        "_sha256(told), stamp",
        "told, stamp",
        f"{HERE}/web/test_tokens.py::test_a_token_is_told_once_and_kept_as_a_hash",
    ),
    "setting": Mutation(
        "a setting that does not work is named by its variable",
        "studio.settings:read_settings",
        'f"{name} is {first[',
        'f"A setting is {first[',
        "tests/test_fuzz.py::test_any_setting_is_used_or_its_variable_is_named",
    ),
}


def main() -> int:
    names = sys.argv[1:] or list(MUTATIONS)
    print(json.dumps({name: noticed(MUTATIONS[name]) for name in names}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
