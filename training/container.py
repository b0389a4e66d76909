"""The trainer as SageMaker runs it: channels in, checkpoints synced, models out.

Run as:

python -m training.container [--root /opt/ml]

Each channel `person-N` holds one request with its photos, the channel `base` the base model. Runs
keep their state below checkpoints/, which SageMaker copies to S3 and back; finished models go to
model/<run id>. SIGTERM saves and ends; what failed is written to output/failure.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from training import dreambooth
from training.errors import TrainingError
from training.progress import read_status
from training.request import Phase
from training.result import FOLDER, RECORD

REQUEST = "request.json"
TELL_EVERY_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole program -> exit code, 0 also when a signal ended it with a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m training.container", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/opt/ml"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 times a few steps")
    given, _ = parser.parse_known_args(arguments)  # SageMaker appends `train`
    root: Path = given.root
    for name in ("checkpoints", "model", "output"):
        (root / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            requests = localised(root, Path(scratch))
        except TrainingError as error:
            return _fail(root, str(error))
        folders = [root / "checkpoints" / run for run in requests]
        left = [path for run, path in requests.items() if not _done(root / "checkpoints" / run)]
        code = _train(left, folders, given.threads) if left else dreambooth.DONE
    for folder in folders:
        if _done(folder):
            shutil.copytree(folder / FOLDER, root / "model" / folder.name, dirs_exist_ok=True)
    if code in (dreambooth.DONE, dreambooth.INTERRUPTED, dreambooth.CANCELLED):
        return 0
    if any(_done(folder) for folder in folders):
        return 0  # each person's own status tells who failed
    statuses = [read_status(folder) for folder in folders]
    failures = [status.failure for status in statuses if status and status.failure]
    return _fail(root, failures[0] if failures else "The request could not be used; see the log.")


def localised(root: Path, scratch: Path) -> dict[str, Path]:
    """Every channel's request with its paths in this container, written to `scratch`, by run id.

    Raises `TrainingError` naming the channel whose request cannot be used.
    """
    channels = sorted((root / "input" / "data").glob("person-*"))
    if not channels:
        raise TrainingError("There is no channel person-0 with a request.")
    requests: dict[str, Path] = {}
    for channel in channels:
        try:
            content = json.loads((channel / REQUEST).read_text("utf-8"))
            run = str(content["run_id"])
            content["base"]["folder"] = str(root / "input" / "data" / "base")
            content["run_folder"] = str(root / "checkpoints" / run)
            for photo in content["photos"]:
                photo["path"] = str(channel / photo["path"])
            if content.get("class_folder"):
                content["class_folder"] = str(channel / content["class_folder"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"The channel {channel.name} holds no usable request.") from error
        path = scratch / f"{channel.name}.json"
        path.write_text(json.dumps(content), "utf-8")
        requests[run] = path
    return requests


def _train(requests: Sequence[Path], folders: Sequence[Path], threads: int) -> int:
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(folders, over), daemon=True)
    teller.start()
    arguments = [part for path in requests for part in ("--request", str(path))]
    try:
        return dreambooth.main([*arguments, "--threads", str(threads)])
    finally:
        over.set()
        teller.join()
        _tell_once(folders)


def _tell(folders: Sequence[Path], over: threading.Event) -> None:
    while not over.wait(TELL_EVERY_S):
        _tell_once(folders)


def _tell_once(folders: Sequence[Path]) -> None:
    """A line for people and for the metric expressions of `training.sagemaker`."""
    for folder in folders:
        status = read_status(folder)
        if status is not None:
            loss = "" if status.loss is None else f" loss={status.loss:.5f}"
            left = "" if status.seconds_left is None else f" seconds_left={status.seconds_left:.0f}"
            print(
                f"run={folder.name} phase={status.phase} step={status.step} total={status.total}"
                f"{loss}{left}",
                flush=True,
            )


def _done(folder: Path) -> bool:
    status = read_status(folder)
    finished = status is not None and status.phase is Phase.DONE
    return finished and (folder / FOLDER / RECORD).is_file()


def _fail(root: Path, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    (root / "output" / "failure").write_text(sentence[:1024], "utf-8")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
