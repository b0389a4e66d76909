"""Orders, tickets and results of an asynchronous endpoint in S3, by owner, person and model.

A ticket says where an order's results will lie, so that another worker finds them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from serving.bucket import Place, erase, object_at, read, versions
from serving.errors import EngineError
from serving.published import PLACE, TARGET
from serving.request import GenerationRequest
from serving.sagemaker import EndpointFault, client, encryption, explain

LEFTOVER_S = 24 * 3600.0


@dataclass(frozen=True)
class AsyncSettings:
    """`orders` is the s3://bucket/prefix/ of orders and results, which the endpoint's configuration
    names, too; `base_id` and `base_sha256` the base that its container holds.

    Seconds: `poll_s` between looks at first, `line_s` in which a machine must have taken the order
    (60 to 21600), `drawing_s` that one order may take (up to 3600).
    """

    name: str
    orders: str
    base_id: str
    base_sha256: str
    region: str = "us-east-1"
    kms_key: str = ""
    endpoint_url: str = ""
    per_order: int = 8
    poll_s: float = 2.0
    line_s: int = 2 * 3600
    drawing_s: int = 1800


@dataclass
class Ticket:
    """An order in the making: where it lies, where its results will, and until when to look."""

    key: str
    requests: tuple[GenerationRequest, ...]
    output: str = ""
    failure: str = ""
    until: float = field(default=0.0)


class Orders:
    """Orders, tickets and results in S3, by owner, person and model."""

    def __init__(self, settings: AsyncSettings) -> None:
        self.settings = settings
        self.place = Place.parse(settings.orders)
        self._s3 = client("s3", settings.region, settings.endpoint_url, attempts=4)
        self._encryption = encryption(settings.kms_key)

    def key(self, target: str, name: str) -> str:
        return f"in/{target.removesuffix('.tar.gz')}/{name}"

    def put(self, packed: Path, key: str) -> None:
        self._s3.upload_file(
            str(packed), self.place.bucket, self.place.prefix + key, ExtraArgs=self._encryption
        )

    def note(self, ticket: Ticket) -> None:
        """Write down where the results will lie, for a worker that starts again."""
        told = {"output": ticket.output, "failure": ticket.failure, "until": ticket.until}
        self._s3.put_object(
            Bucket=self.place.bucket, Key=f"{self.place.prefix}{ticket.key}.ticket",
            Body=json.dumps(told).encode(), **self._encryption,
        )  # fmt: skip

    def find(self, ticket: Ticket) -> bool:
        """Whether the order is in line already; where its results will lie is filled in."""
        content = read(self._s3, self.place.bucket, f"{self.place.prefix}{ticket.key}.ticket")
        if content is None:
            return False
        try:
            told = json.loads(content)
            ticket.output, ticket.failure = str(told["output"]), str(told["failure"])
            ticket.until = float(told["until"])
        except (ValueError, KeyError, TypeError):
            return False
        return time.time() < ticket.until

    def clear(self, key: str, *results: str) -> None:
        """Erase an order, its ticket and its results, and what older ones of its model left."""
        erase(self._s3, self.place.bucket, self.place.prefix + key)
        for uri in filter(None, results):
            erase(self._s3, *object_at(uri))
        self._sweep(key.removeprefix("in/").rpartition("/")[0])

    def withdraw(self, place: str) -> int:
        """Erase orders and results of a user, a person or a model (`user/person/model.tar.gz`).

        Raises `EndpointFault` if anything was kept.
        """
        if not TARGET.fullmatch(place) and not PLACE.fullmatch(place):
            raise EndpointFault(f"`{place}` is no place of a user, a person or a model.")
        with asking(self.settings.name):
            return sum(
                erase(
                    self._s3, self.place.bucket,
                    f"{self.place.prefix}{part}/{place.removesuffix('.tar.gz')}/",
                )
                for part in ("in", "out", "failed")
            )  # fmt: skip

    def _sweep(self, below: str) -> None:
        """A cancelled order's result may come after everybody stopped looking: it goes here."""
        for part in ("in", "out", "failed"):
            prefix = f"{self.place.prefix}{part}/{below}/"
            for entry in list(versions(self._s3, self.place.bucket, prefix)):
                if time.time() - entry["LastModified"].timestamp() > LEFTOVER_S:
                    self._s3.delete_object(
                        Bucket=self.place.bucket, Key=entry["Key"], VersionId=entry["VersionId"]
                    )


def gone(name: str) -> EndpointFault:
    return EndpointFault(
        f"The endpoint {name} is not in service. Run: avatar-studio aws async status --name {name}"
    )


@contextmanager
def asking(endpoint: str) -> Iterator[None]:
    """Any fault of boto3 becomes an `EngineError` fit for a person."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        response = getattr(error, "response", None) or {}
        if str(response.get("Error", {}).get("Code", "")).startswith("Validation"):
            raise gone(endpoint) from error
        raise explain(error, endpoint)[0] from error
