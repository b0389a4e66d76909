"""DreamBooth (arXiv 2208.12242) as a program: photos on disk in, personal weights out.

Run as: python -m training.dreambooth --request request.json [--request another.json …]

Several requests on one base learn together; each has its own run folder. Exit codes: 0 done,
1 failed, 2 bad request, 75 ended by a signal with a checkpoint to continue from, 76 cancelled.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from training.checks import check_request, check_together, read_request
from training.errors import DiskFull, RequestRefused, TrainingError
from training.progress import Cancelled, Control, Interrupted, Progress, read_status
from training.request import Phase, TrainingRequest

DONE, FAILED, BAD_REQUEST, INTERRUPTED, CANCELLED = 0, 1, 2, 75, 76
_LOCK = "lock"
_CONTINUES = "Stopped for now; it continues where it was."


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole program -> exit code. What went wrong is in each run's status and on stderr."""
    parser = argparse.ArgumentParser(prog="python -m training.dreambooth", description=__doc__)
    parser.add_argument("--request", type=Path, action="append", required=True)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 times a few steps")
    parser.add_argument("--parent", type=int, help="process whose end pauses this run")
    parser.add_argument("--hash-cache", type=Path, help="file that remembers weights' hashes")
    given = parser.parse_args(arguments)
    try:
        requests = [read_request(path) for path in given.request]
    except TrainingError as error:
        print(error, file=sys.stderr)
        return BAD_REQUEST
    with ExitStack() as locks:
        try:
            for request in requests:
                locks.enter_context(_locked(request))
        except TrainingError as error:
            print(error, file=sys.stderr)
            return BAD_REQUEST
        return _run(requests, given)


def _run(requests: list[TrainingRequest], given: argparse.Namespace) -> int:
    progress = [Progress(request.run_folder) for request in requests]
    controls = [Control(request.run_folder, given.parent) for request in requests]
    for control in controls:
        control.listen()
    try:
        for request in requests:
            check_request(request, given.hash_cache)
        check_together(requests)
        return _train(requests, progress, controls, given.threads)
    except Cancelled:
        _end(progress, Phase.CANCELLED, None)
        return CANCELLED
    except Interrupted:
        for each in progress:
            if not each.status.phase.terminal:
                each.note(_CONTINUES)
                each.phase(Phase.WAITING)
        return INTERRUPTED
    except TrainingError as error:
        _end(progress, Phase.FAILED, str(error))
        print(error, file=sys.stderr)
        return BAD_REQUEST if isinstance(error, RequestRefused) else FAILED
    except OSError as error:
        sentence = error.strerror or type(error).__name__
        if not isinstance(error, DiskFull):
            sentence = f"A file could not be read or written ({sentence})."
        _end(progress, Phase.FAILED, sentence)
        print(sentence, file=sys.stderr)
        return FAILED
    except Exception:
        _end(progress, Phase.FAILED, "The trainer met an error of its own; see its log.")
        logging.getLogger(__name__).exception("training failed")
        return FAILED


def _train(
    requests: list[TrainingRequest],
    progress: list[Progress],
    controls: list[Control],
    threads: int,
) -> int:
    """Everything that needs torch, whose import takes seconds."""
    for each in progress:
        each.phase(Phase.PREPARING)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for bars in (diffusers_logging, transformers_logging):
        _quiet(bars)
    warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout")
    from diffusion.load import PartsError
    from training.member import Member
    from training.session import Session

    members = [
        Member(request, told, control)
        for request, told, control in zip(requests, progress, controls, strict=True)
    ]
    session = Session(members, threads)
    try:
        results = session.run()
    except Interrupted:
        session.save_all()
        raise
    except PartsError as error:
        raise TrainingError(str(error)) from error
    return DONE if len(results) == len(requests) else FAILED


def _quiet(library_logging: Any) -> None:
    library_logging.disable_progress_bar()


@contextmanager
def _locked(request: TrainingRequest) -> Iterator[None]:
    """Hold the run folder for this process; a second run with the same id is refused."""
    try:
        request.run_folder.mkdir(parents=True, exist_ok=True)
        stream = (request.run_folder / _LOCK).open("w")
    except (OSError, ValueError) as error:
        raise RequestRefused(
            "run_folder",
            repr(str(request.run_folder)),
            f"it cannot be written ({getattr(error, 'strerror', None) or error}).",
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RequestRefused(
                "run_id", request.run_id, "this run is being trained by another process."
            ) from error
        status = read_status(request.run_folder)
        if status is not None and status.phase is Phase.DONE:
            raise RequestRefused("run_id", request.run_id, "this run is already done.")
        yield


def _end(progress: list[Progress], phase: Phase, failure: str | None) -> None:
    for each in progress:
        if not each.status.phase.terminal:
            try:
                each.end(phase, failure)
            except OSError:
                logging.getLogger(__name__).warning("the status could not be written")


if __name__ == "__main__":
    raise SystemExit(main())
