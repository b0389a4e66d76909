"""Comprehend: toxicity of short English texts, and custom classifiers that are really trained.

A custom classifier reads its CSV from S3 and counts words, which is enough for a client to see
whether it wrote what Comprehend reads.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.aws.server.shapes import Refused

TOXIC_LABELS = (
    "GRAPHIC", "HARASSMENT_OR_ABUSE", "HATE_SPEECH", "INSULT", "PROFANITY", "SEXUAL",
    "VIOLENCE_OR_THREAT",
)  # fmt: skip
SEGMENT_BYTES = 1_024
TOTAL_BYTES = 10_240
ACCOUNT = "123456789012"
FEWEST_DOCUMENTS = 10


def by_words(text: str) -> dict[str, float]:
    """The default script: a few plain words stand for each label."""
    words = set(re.findall(r"\w+", text.lower()))
    signs = {
        "SEXUAL": {"naked", "nude", "porn"},
        "GRAPHIC": {"gore", "beheaded"},
        "PROFANITY": {"damn"},
        "INSULT": {"idiot"},
        "VIOLENCE_OR_THREAT": {"kill"},
    }
    return {label: 0.97 if words & signs.get(label, set()) else 0.02 for label in TOXIC_LABELS}


@dataclass
class Classifier:
    arn: str
    parameters: dict[str, Any]
    states: list[str]
    message: str | None = None
    counts: dict[str, Counter[str]] = field(default_factory=dict)


@dataclass
class Comprehend:
    """`fetch` reads an object of S3 by its URI. State lists are walked one describe at a time."""

    scores: Callable[[str], dict[str, float]] = by_words
    fetch: Callable[[str], bytes] | None = None
    name: str = "comprehend"
    training_states: tuple[str, ...] = ("SUBMITTED", "TRAINING", "TRAINED")
    endpoint_states: tuple[str, ...] = ("CREATING", "IN_SERVICE")
    classifiers: dict[str, Classifier] = field(default_factory=dict)
    endpoints: dict[str, tuple[str, list[str]]] = field(default_factory=dict)

    def answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        handlers = {
            "DetectToxicContent": self._toxic,
            "ClassifyDocument": self._classify,
            "CreateDocumentClassifier": self._create_classifier,
            "DescribeDocumentClassifier": self._describe_classifier,
            "CreateEndpoint": self._create_endpoint,
            "DescribeEndpoint": self._describe_endpoint,
            "DeleteEndpoint": self._delete_endpoint,
        }
        if operation not in handlers:
            raise Refused("UnknownOperationException", operation)
        return handlers[operation](parameters)

    def _toxic(self, parameters: dict[str, Any]) -> dict[str, Any]:
        segments = [segment["Text"] for segment in parameters["TextSegments"]]
        if len(segments) > 10:
            raise Refused("InvalidRequestException", "at most 10 text segments are allowed")
        if parameters["LanguageCode"] != "en":
            raise Refused("UnsupportedLanguageException", parameters["LanguageCode"])
        sizes = [len(text.encode()) for text in segments]
        if max(sizes) > SEGMENT_BYTES or sum(sizes) > TOTAL_BYTES:
            raise Refused("TextSizeLimitExceededException", f"sizes in bytes: {sizes}")
        results = []
        for text in segments:
            scores = self.scores(text)
            results.append(
                {
                    "Labels": [{"Name": name, "Score": score} for name, score in scores.items()],
                    "Toxicity": max(scores.values()),
                }
            )
        return {"ResultList": results}

    def _classify(self, parameters: dict[str, Any]) -> dict[str, Any]:
        arn = parameters["EndpointArn"]
        if arn not in self.endpoints or self.endpoints[arn][1][0] != "IN_SERVICE":
            raise Refused("ResourceUnavailableException", "The endpoint is not in service")
        if len(parameters.get("Text", "").encode()) > 10_000:
            raise Refused("TextSizeLimitExceededException", "over 10000 bytes")
        classifier = self.classifiers[self.endpoints[arn][0]]
        words = re.findall(r"\w+", parameters["Text"].lower())
        logits = {}
        for label, counts in classifier.counts.items():
            total = sum(counts.values())
            logits[label] = sum(math.log((counts[word] + 1) / (total + 2)) for word in words)
        top = max(logits.values())
        weights = {label: math.exp(max(value - top, -50)) for label, value in logits.items()}
        return {
            "Classes": [
                {"Name": label, "Score": weight / sum(weights.values())}
                for label, weight in sorted(weights.items(), key=lambda item: -item[1])
            ]
        }

    def _create_classifier(self, parameters: dict[str, Any]) -> dict[str, Any]:
        arn = (
            f"arn:aws:comprehend:us-east-1:{ACCOUNT}:document-classifier/"
            f"{parameters['DocumentClassifierName']}/version/{parameters.get('VersionName', '1')}"
        )
        if arn in self.classifiers:
            raise Refused("ResourceInUseException", f"{arn} exists")
        classifier = Classifier(arn, parameters, list(self.training_states))
        self._train(classifier)
        self.classifiers[arn] = classifier
        return {"DocumentClassifierArn": arn}

    def _train(self, classifier: Classifier) -> None:
        assert self.fetch is not None, "this Comprehend was given no S3 to read from"
        source = classifier.parameters["InputDataConfig"]["S3Uri"]
        try:
            rows = list(csv.reader(io.StringIO(self.fetch(source).decode("utf-8"))))
        except (KeyError, UnicodeDecodeError) as error:
            classifier.states, classifier.message = ["IN_ERROR"], f"{source}: {error}"
            return
        for row in rows:
            if len(row) != 2 or not row[0] or "\n" in row[1] or len(row[1].encode()) > 10_000:
                classifier.states, classifier.message = ["IN_ERROR"], f"bad row {row[:1]}"
                return
            words = re.findall(r"\w+", row[1].lower())
            classifier.counts.setdefault(row[0], Counter()).update(words)
        documents = Counter(row[0] for row in rows)
        if len(documents) < 2 or min(documents.values()) < FEWEST_DOCUMENTS:
            classifier.states = ["IN_ERROR"]
            classifier.message = f"too few documents for a label: {dict(documents)}"

    def _describe_classifier(self, parameters: dict[str, Any]) -> dict[str, Any]:
        arn = parameters["DocumentClassifierArn"]
        if arn not in self.classifiers:
            raise Refused("ResourceNotFoundException", arn)
        classifier = self.classifiers[arn]
        return {
            "DocumentClassifierProperties": {
                "DocumentClassifierArn": arn,
                "Status": _next(classifier.states),
                "LanguageCode": classifier.parameters["LanguageCode"],
                "Message": classifier.message,
                "SubmitTime": datetime.now(UTC),
            }
        }

    def _create_endpoint(self, parameters: dict[str, Any]) -> dict[str, Any]:
        model = parameters.get("ModelArn", "")
        if model not in self.classifiers or self.classifiers[model].states[0] != "TRAINED":
            raise Refused("ResourceUnavailableException", f"{model} is not trained")
        arn = (
            f"arn:aws:comprehend:us-east-1:{ACCOUNT}:document-classifier-endpoint/"
            f"{parameters['EndpointName']}"
        )
        if arn in self.endpoints:
            raise Refused("ResourceInUseException", f"{arn} exists")
        self.endpoints[arn] = (model, list(self.endpoint_states))
        return {"EndpointArn": arn}

    def _describe_endpoint(self, parameters: dict[str, Any]) -> dict[str, Any]:
        arn = parameters["EndpointArn"]
        if arn not in self.endpoints:
            raise Refused("ResourceNotFoundException", arn)
        return {
            "EndpointProperties": {
                "EndpointArn": arn,
                "Status": _next(self.endpoints[arn][1]),
                "DesiredInferenceUnits": 1,
            }
        }

    def _delete_endpoint(self, parameters: dict[str, Any]) -> dict[str, Any]:
        if self.endpoints.pop(parameters["EndpointArn"], None) is None:
            raise Refused("ResourceNotFoundException", parameters["EndpointArn"])
        return {}


def _next(states: list[str]) -> str:
    """The present state; the following describe sees the one after it."""
    return states.pop(0) if len(states) > 1 else states[0]
