"""What runs inside a training image for tests of states alone: counts steps, keeps checkpoints.

Takes seconds and no torch. The walk and one test of the trainer run our real container instead.
Run as: python image.py ROOT, with ROOT what a container sees as /opt/ml.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 12
STEP_S = 0.1


def main(root: Path) -> int:
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    hyperparameters = json.loads((root / "input/config/hyperparameters.json").read_text())
    for number, run in enumerate(json.loads(hyperparameters["runs"])):
        request = json.loads((root / f"input/data/person-{number}/request.json").read_text())
        for photo in request["photos"]:
            assert (root / f"input/data/person-{number}" / photo["path"]).is_file()
        assert (root / "input/data/base/model_index.json").is_file()
        folder = root / "checkpoints" / run
        folder.mkdir(parents=True, exist_ok=True)
        saved = folder / "checkpoint.json"
        step = json.loads(saved.read_text())["step"] if saved.is_file() else 0
        begun_at = step
        while step < STEPS and not stopped:
            time.sleep(STEP_S)
            step += 1
            write(saved, {"step": step})
            preview = folder / "previews" / "one.png"
            preview.parent.mkdir(exist_ok=True)
            preview.write_bytes(b"not looked at here")
            picture = {"step": step, "prompt": "a photo", "path": str(preview)}
            write(
                folder / "status.json",
                {"phase": "learning", "step": step, "total": STEPS, "previews": [picture]},
            )
        if stopped:
            return 0
        if request["seed"] == 666:
            (root / "output/failure").write_text("Learning stopped at step 12: the loss is NaN.")
            return 1
        write(folder / "status.json", {"phase": "done", "step": STEPS, "total": STEPS})
        result = root / "model" / run
        result.mkdir(parents=True)
        write(result / "report.json", {"begun_at": begun_at})
        base = request["base"]
        write(
            result / "result.json",
            {"base_id": base["id"], "base_sha256": base["sha256"], "family": base["family"],
             "token": request["token"], "steps": STEPS, "seconds": 1.0, "adapter_bytes": 1,
             "report": {"begun_at": begun_at}},
        )  # fmt: skip
    return 0


def write(path: Path, content: dict[str, object]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)  # noqa: PTH105


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
