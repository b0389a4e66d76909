"""A custom classifier at Comprehend: its CSV, its training, and the endpoint that answers.

What `avatar-studio moderate train-classifier` drives. Formats from the developer guide, "Preparing
classifier training data": multi-class, two columns `label,text`, UTF-8, no header, one document a
line, at least ten documents a label.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from moderation.aws import client

FEWEST_DOCUMENTS = 10
MOST_BYTES = 10_000
LANGUAGES = ("en", "es", "de", "it", "pt", "fr")

State = Literal["waiting", "learning", "ready", "failed"]
_TRAINING: Mapping[str, State] = {
    "SUBMITTED": "waiting", "TRAINING": "learning", "TRAINED": "ready",
    "TRAINED_WITH_WARNING": "ready", "IN_ERROR": "failed", "STOPPED": "failed",
    "STOP_REQUESTED": "failed", "DELETING": "failed",
}  # fmt: skip
_ENDPOINT: Mapping[str, State] = {
    "CREATING": "waiting", "UPDATING": "waiting", "IN_SERVICE": "ready", "FAILED": "failed",
    "DELETING": "failed",
}  # fmt: skip


class ClassifierError(RuntimeError):
    """The classifier cannot be trained or served; the text says why and what to do."""


@dataclass(frozen=True)
class Progress:
    """Where a classifier or its endpoint is; `message` is Comprehend's own, where there is one."""

    arn: str
    state: State
    message: str = ""


def training_csv(rows: Iterable[tuple[str, str]]) -> bytes:
    """(label, text) rows as Comprehend reads them.

    Line breaks become spaces and texts are cut at 10,000 bytes; empty texts are left out. Raises
    `ClassifierError` for a label that Comprehend does not take, fewer than two labels, or a label
    with fewer than ten texts.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    counts: Counter[str] = Counter()
    for label, text in rows:
        if not re.fullmatch(r"[\w ./-]{1,100}", label):
            raise ClassifierError(f"The label {label!r} cannot be used; letters and digits only.")
        flat = " ".join(text.split()).encode()[:MOST_BYTES].decode(errors="ignore")
        if flat:
            writer.writerow((label, flat))
            counts[label] += 1
    few = {label: count for label, count in counts.items() if count < FEWEST_DOCUMENTS}
    if len(counts) < 2 or few:
        raise ClassifierError(
            f"Comprehend needs two labels with {FEWEST_DOCUMENTS} texts each; "
            f"there are {dict(few or counts)}."
        )
    return stream.getvalue().encode("utf-8")


class ClassifierTraining:
    """Trains and serves one classifier. Every step may be repeated: what is there is found."""

    def __init__(
        self,
        region: str,
        *,
        role: str,
        place: str,
        endpoint_url: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """`role` may read `place`, the s3://bucket/prefix the training data goes to."""
        match = re.fullmatch(r"s3://([^/]+)/?(.*)", place)
        if match is None:
            raise ClassifierError(f"`{place}` is no place in S3, like s3://bucket/prefix.")
        self._bucket, self._prefix = match[1], match[2].strip("/")
        self._role = role
        self._comprehend = client("comprehend", region, endpoint_url, timeout_s)
        self._s3 = client("s3", region, endpoint_url, timeout_s)

    def start(self, name: str, content: bytes, *, version: str, language: str = "en") -> str:
        """Upload the data and start the training, about 40 minutes -> the classifier's ARN."""
        if language not in LANGUAGES:
            raise ClassifierError(f"`language` is {language!r}; one of {', '.join(LANGUAGES)}.")
        key = "/".join(part for part in (self._prefix, name, f"{version}.csv") if part)
        self._do(
            "store the training data",
            self._s3.put_object,
            Bucket=self._bucket,
            Key=key,
            Body=content,
            ServerSideEncryption="aws:kms",
        )
        answer = self._do(
            "start the training",
            self._comprehend.create_document_classifier,
            DocumentClassifierName=name,
            VersionName=version,
            DataAccessRoleArn=self._role,
            InputDataConfig={
                "DataFormat": "COMPREHEND_CSV",
                "S3Uri": f"s3://{self._bucket}/{key}",
            },
            LanguageCode=language,
            Mode="MULTI_CLASS",
        )
        return str(answer["DocumentClassifierArn"])

    def training(self, arn: str) -> Progress:
        """How the training is doing."""
        told = self._do(
            "look at the training",
            self._comprehend.describe_document_classifier,
            DocumentClassifierArn=arn,
        )["DocumentClassifierProperties"]
        state = _TRAINING.get(told["Status"], "learning")
        return Progress(arn, state, str(told.get("Message") or ""))

    def serve(self, name: str, arn: str, *, units: int = 1) -> str:
        """Create an endpoint, billed from now until `stop` -> its ARN.

        `units` 1 to 10: each reads 100 characters a second.
        """
        if not 1 <= units <= 10:
            raise ClassifierError(f"`units` is {units}; 1 to 10.")
        answer = self._do(
            "create the endpoint",
            self._comprehend.create_endpoint,
            EndpointName=name,
            ModelArn=arn,
            DesiredInferenceUnits=units,
        )
        return str(answer["EndpointArn"])

    def serving(self, arn: str) -> Progress:
        """Whether the endpoint answers yet."""
        told = self._do(
            "look at the endpoint", self._comprehend.describe_endpoint, EndpointArn=arn
        )["EndpointProperties"]
        state = _ENDPOINT.get(told["Status"], "waiting")
        return Progress(arn, state, str(told.get("Message") or ""))

    def stop(self, arn: str) -> None:
        """Delete the endpoint: it costs about 43 dollars a day while it exists."""
        self._do("delete the endpoint", self._comprehend.delete_endpoint, EndpointArn=arn)

    def _do(self, what: str, call: Any, **parameters: Any) -> Any:
        try:
            return call(**parameters)
        except Exception as error:
            known = (getattr(error, "response", None) or {}).get("Error", {})
            code = known.get("Code") or type(error).__name__
            raise ClassifierError(f"AWS did not {what} ({code}).") from error
