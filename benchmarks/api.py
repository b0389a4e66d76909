"""What moderation adds to a request of the picture API: python -m benchmarks.api [--quick]

Requests go through the API's own routes, the studio's own drawing code, records and storage, and
are judged by Rekognition and Comprehend over HTTP on the repository's AWS server: first without
delay, then with AWS's published 200 ms for a prompt and 500 ms for a picture. Only the drawer is
simulated: it sleeps as long as a picture takes. Prices are those of `avatar-studio aws costs`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from serving.request import Engine, GenerationRequest, Rendered
from studio.cloud.costs import costs
from studio.parts import build
from studio.records import Person, PersonalModel, User, new_id, now
from studio.rest.routes import routes
from studio.settings import Settings
from studio.work.drawing import Drawing
from studio.work.shift import Shift
from tests.aws.fixtures import point_boto3_at
from tests.aws.server import AwsServer
from tests.aws.server.comprehend import Comprehend
from tests.aws.server.rekognition import Rekognition

PICTURE_S, QUICK_S = 15.0, 3.0
PROMPT_DELAY_S, PICTURE_DELAY_S = 0.2, 0.5
COUNTS = (1, 4)
USER = "bench"


@dataclass
class TimedDrawer:
    """Draws by waiting."""

    seconds: float

    def generate(self, requests: Sequence[GenerationRequest], **_hooks: Any) -> Iterator[Rendered]:
        for request in requests:
            time.sleep(self.seconds)
            noise = np.random.default_rng(request.seed).integers(0, 255, (128, 128, 3), np.uint8)
            picture = Image.fromarray(noise)
            yield Rendered(request.id, picture, request.seed, 30, self.seconds)


@dataclass
class OneDrawer:
    """The engines of a worker that has one."""

    engine: Engine

    def get(self, base_id: str) -> Engine:
        return self.engine

    def needed_gb(self, base_id: str) -> float:
        return 0.0

    def rest(self) -> None:
        """Nothing is loaded."""


class AtOnce:
    """Runs begin in a thread of this process."""

    drawing: Drawing

    def start_generate(self, run_id: str, *, user_id: str = "") -> None:
        threading.Thread(target=self.drawing.draw, args=(run_id,), daemon=True).start()

    def ahead(self, run_id: str) -> int:
        return 0


def seconds_of(client: TestClient, count: int) -> float:
    """How long a request takes until its pictures are there."""
    began = time.perf_counter()
    answer = client.post("/v1/avatars", json={"prompt": "at the lake", "count": count})
    took = time.perf_counter() - began
    if answer.status_code != 200 or len(answer.json()["pictures"]) != count:
        raise SystemExit(f"The API answered {answer.status_code}: {answer.text[:300]}")
    return took


def opened(home: Path, picture_s: float) -> TestClient:
    """A studio with one user and one model, behind the API's routes."""
    parts = build(Settings(home=home, moderation="aws", device="cpu"))
    user = User(new_id(), USER, now())
    person = Person(new_id(), user.id, "Alex", now())
    key = f"users/{user.id}/people/{person.id}/models/m"
    model = PersonalModel(
        id=new_id(), user_id=user.id, person_id=person.id, version=1, name="Alex",
        base_id="starter-3", base_sha256="0" * 64, family="starter", token="sks", key=key,
        adapter_bytes=1, steps=1, seconds=1.0, report={}, created_at=now(),
    )  # fmt: skip
    for record in (user, person, model):
        parts.catalog.add(record)
    parts.storage.put(f"{key}/adapter.json", b"{}")
    workflows: Any = AtOnce()
    engines: Any = OneDrawer(TimedDrawer(picture_s))
    workflows.drawing = Drawing(parts, Shift(), engines)
    parts.studio.workflows = workflows
    app = FastAPI()
    app.include_router(routes(parts.studio, wait_s=600))

    async def signed(scope: Any, receive: Any, send: Any) -> None:
        scope["user_name"] = USER
        await app(scope, receive, send)

    return TestClient(signed)


def measured(picture_s: float) -> list[dict[str, float]]:
    """Each number of pictures without and with AWS's delays."""
    rows = []
    with (
        AwsServer() as server,
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as home,
    ):
        server.add("RekognitionService", Rekognition())
        server.add("Comprehend_20171127", Comprehend())
        point_boto3_at(patch, server.url)
        client = opened(Path(home), picture_s)
        seconds_of(client, 1)  # clients, threads and connections are made at the first
        for count in COUNTS:
            server.faults.clear()
            without = seconds_of(client, count)
            server.faults.add("slow", "DetectToxicContent", seconds=PROMPT_DELAY_S)
            server.faults.add("slow", "DetectModerationLabels", seconds=PICTURE_DELAY_S)
            added = max(0.0, seconds_of(client, count) - without)
            usual = count * PICTURE_S
            rows.append(
                {
                    "pictures": count,
                    "without_s": round(without, 3),
                    "added_s": round(added, 3),
                    "serial_s": PROMPT_DELAY_S + count * PICTURE_DELAY_S,
                    "share": round(added / (usual + added), 4),
                }
            )
    return rows


def prices() -> dict[str, float]:
    """US dollars for a thousand pictures, each of its own prompt."""
    with tempfile.TemporaryDirectory() as home:
        sheet = costs(Settings(home=Path(home)), endpoint_instance="ml.g5.xlarge")
    lines = {line["what"]: float(line["dollars"]) for line in sheet["costs"]}
    moderated = lines["picture moderated"] + lines["prompt moderated"]
    return {
        "drawn": lines["picture drawn"],
        "moderated": round(moderated, 4),
        "share": round(moderated / (moderated + lines["picture drawn"]), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api")
    parser.add_argument("--quick", action="store_true", help="pictures of 3 seconds instead of 15")
    picture_s = QUICK_S if parser.parse_args().quick else PICTURE_S
    rows = measured(picture_s)
    print(f"Pictures of {picture_s:g} s; share of a request with pictures of {PICTURE_S:g} s")
    print("pictures  without s  added s  one after the other s  share")
    for row in rows:
        print(
            f"{row['pictures']:8.0f}  {row['without_s']:9.2f}  {row['added_s']:7.3f}  "
            f"{row['serial_s']:21.1f}  {row['share']:5.1%}"
        )
    dollars = prices()
    print(
        f"1000 pictures: {dollars['drawn']:.2f} dollars drawn, {dollars['moderated']:.2f} "
        f"moderated ({dollars['share']:.0%})"
    )
    print(json.dumps({"picture_s": picture_s, "rows": rows, "dollars_per_1000": dollars}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
