"""What is installed is what is locked: same packages, same versions, and a hash for each file."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "locks"
# Ours, what a fresh environment comes with, and what a build of torch for another CUDA brings.
FREE = re.compile(r"^(avatar-studio|pip|wheel|triton|nvidia-.*|cuda-.*)$")
# Extras that a host or developer adds by hand; each with its own pin in pyproject or a document.
EXTRAS = {"alt-profanity-check", "better-profanity", "nudenet", "onnxruntime", "flatbuffers",
          "protobuf", "coloredlogs", "humanfriendly", "uv"}  # fmt: skip


def name_of(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries() -> dict[str, tuple[str, int]]:
    """Every locked package: its version and how many hashes it has."""
    found = {}
    for lock in ("run.txt", "test.txt", "torch.txt", "cuda.txt"):
        text = (LOCKS / lock).read_text("utf-8")
        for entry in re.split(r"\n(?=[A-Za-z])", text)[1:]:
            name, version = re.match(r"([\w.-]+)==([\w.+]+)", entry).groups()
            assert name_of(name) not in found, f"{name} is locked twice"
            found[name_of(name)] = (
                version,
                len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)),
            )
    return found


def test_every_installed_package_is_locked_in_this_version():
    locked, wrong = entries(), []
    for found in metadata.distributions():
        name = name_of(found.metadata["Name"])
        if FREE.match(name) or name in EXTRAS:
            continue
        version = locked.get(name, ("no version", 0))[0]
        if version != found.version.partition("+")[0]:
            wrong.append(f"{name} {found.version} is installed, {version} is locked")
    assert not wrong, "\n".join(sorted(wrong)) + "\nRun `make lock` after changing constraints.txt."


def test_every_entry_has_hashes_and_the_version_of_the_constraints():
    pins = dict(re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / "constraints.txt").read_text(), re.M))
    pinned = {name_of(name): version for name, version in pins.items()}
    assert len(entries()) > 100
    for name, (version, hashes) in entries().items():
        assert hashes >= 1, f"{name} has no hash"
        assert pinned.get(name, version) == version, f"{name}: lock and constraints differ"


def test_every_build_of_torch_that_an_install_may_find_is_known():
    """Four Pythons, on Linux for two processors, Windows and macOS; with CUDA and without."""
    texts = [(LOCKS / name).read_text("utf-8") for name in ("torch.txt", "torch-cpu.txt")]
    builds = re.findall(r"--hash=sha256:([0-9a-f]{64})", "".join(texts))
    assert len(builds) == len(set(builds)) >= 4 * 7
    whole, small = (re.search(r"^torch==(\S+)", text, re.M)[1] for text in texts)
    assert small == f"{whole}+cpu"
    listed = re.findall(r"^[\w.-]+==[\w.]+$", (LOCKS / "cuda.in").read_text("utf-8"), re.M)
    cuda = {f"{name}=={version}" for name, (version, _) in entries().items()}
    assert len(listed) > 10 and cuda.issuperset(listed)


def test_no_lock_names_where_it_came_from():
    for lock in LOCKS.glob("*.txt"):
        assert "://" not in lock.read_text("utf-8") and "--index" not in lock.read_text("utf-8")


def test_a_changed_file_is_not_installed(tmp_path):
    """The point of the hashes, seen with pip itself: one wrong digit, and nothing is installed."""
    wheel = tmp_path / "empty_thing-1.0-py3-none-any.whl"
    _write_wheel(wheel)
    lock = tmp_path / "lock.txt"
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path),
           "--target", str(tmp_path / "into"), "--require-hashes", "--no-deps", "-r", str(lock)]  # fmt: skip
    for digest, code in ((_sha256(wheel), 0), ("0" * 64, 1)):
        lock.write_text(f"empty-thing==1.0 --hash=sha256:{digest}\n")
        ended = subprocess.run(pip, capture_output=True, text=True, timeout=120)
        assert (ended.returncode != 0) == (code != 0), ended.stderr
    assert "HASHES" in ended.stderr.upper()


def test_an_audit_that_could_not_ask_is_no_clean_bill(tmp_path, monkeypatch, capsys):
    """Without pip-audit or without its service, the answer is neither yes nor a traceback."""
    monkeypatch.syspath_prepend(str(LOCKS))
    import audit

    pins = audit.locked()
    assert "torch==2.13.0" in pins and any(pin.startswith("gradio==") for pin in pins)
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexit 1\n")
    silent.chmod(0o755)
    monkeypatch.setattr(audit.sys, "executable", str(silent))
    assert audit.main() == audit.NOT_ASKED
    assert "NOT AUDITED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', 4),
        ('{"dependencies": []}', 4),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0),
        ('{"dependencies": [{"name": "a", "version": "1", '
         '"vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}', 1),
    ],
)  # fmt: skip
def test_what_the_service_says_is_what_the_audit_says(tmp_path, monkeypatch, said, code):
    monkeypatch.syspath_prepend(str(LOCKS))
    import audit

    speaking = tmp_path / "python"
    speaking.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    speaking.chmod(0o755)
    monkeypatch.setattr(audit.sys, "executable", str(speaking))
    monkeypatch.setattr(audit, "locked", lambda: ["a==1"])
    monkeypatch.setattr(audit, "asked", lambda pins, ask=audit.asked: ask(pins) if pins else [])
    assert audit.main() == code


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_wheel(path: Path) -> None:
    import zipfile

    about = "empty_thing-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("empty_thing.py", "")
        wheel.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: empty-thing\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
