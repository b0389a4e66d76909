"""The server refuses what AWS refuses, and breaks as it was told to."""

from __future__ import annotations

import io
import time

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image

from tests.aws.server import Fault

QUICK = Config(
    connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1, "mode": "standard"}
)


def picture(form: str = "PNG", size: tuple[int, int] = (96, 96)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 150, 100)).save(stream, form)
    return stream.getvalue()


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"Bytes": b"not a picture"}, "InvalidImageFormatException"),
        ({"Bytes": picture("WEBP")}, "InvalidImageFormatException"),
        ({"Bytes": picture("GIF")}, "InvalidImageFormatException"),
        ({"Bytes": picture()[:200]}, "InvalidImageFormatException"),
        ({"Bytes": picture(size=(79, 200))}, "InvalidParameterException"),
        ({"Bytes": picture(size=(10_001, 80))}, "ImageTooLargeException"),
        ({"Bytes": b"x" * 5_242_881}, "ValidationException"),
        ({"S3Object": {"Bucket": "photos", "Name": "a.png"}}, "InvalidS3ObjectException"),
        ({"S3Object": {"Bucket": "no such bucket!", "Name": "a"}}, "ValidationException"),
    ],
)
def test_rekognition_refuses_a_bad_picture(aws, image, expected):
    client = boto3.client("rekognition", config=QUICK)
    with pytest.raises(ClientError) as error:
        client.detect_moderation_labels(Image=image)
    assert code(error) == expected


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("detect_moderation_labels", {"Image": {"Bytes": picture()}, "MinConfidence": 150}),
        ("detect_faces", {"Image": {"Bytes": picture()}, "Attributes": ["EVERYTHING"]}),
        (
            "compare_faces",
            {
                "SourceImage": {"Bytes": picture()},
                "TargetImage": {"Bytes": picture()},
                "QualityFilter": "BEST",
            },
        ),
    ],
)
def test_values_that_botocore_lets_through_are_refused(aws, operation, parameters):
    client = boto3.client("rekognition", config=QUICK)
    with pytest.raises(ClientError) as error:
        getattr(client, operation)(**parameters)
    assert code(error) == "ValidationException"


def test_compare_faces_without_a_face_is_an_invalid_parameter(aws):
    aws.rekognition.faces = lambda picture: []
    client = boto3.client("rekognition", config=QUICK)
    with pytest.raises(client.exceptions.InvalidParameterException):
        client.compare_faces(
            SourceImage={"Bytes": picture()}, TargetImage={"Bytes": picture("JPEG")}
        )


@pytest.mark.parametrize(
    ("segments", "language", "expected"),
    [
        (["word"] * 11, "en", ("ValidationException", "InvalidRequestException")),
        (["é" * 513], "en", ("TextSizeLimitExceededException",)),
        (["word"], "de", ("UnsupportedLanguageException",)),
        (["word"], "xx", ("ValidationException",)),
    ],
)
def test_comprehend_refuses_texts_over_its_limits(aws, segments, language, expected):
    client = boto3.client("comprehend", config=QUICK)
    with pytest.raises(ClientError) as error:
        client.detect_toxic_content(
            TextSegments=[{"Text": text} for text in segments], LanguageCode=language
        )
    assert code(error) in expected


def test_classify_needs_an_endpoint_in_service(aws):
    client = boto3.client("comprehend", config=QUICK)
    arn = "arn:aws:comprehend:us-east-1:123456789012:document-classifier-endpoint/prompts"
    with pytest.raises(client.exceptions.ResourceUnavailableException):
        client.classify_document(Text="a cat", EndpointArn=arn)
    with pytest.raises(ClientError) as error:
        client.classify_document(Text="a cat", EndpointArn="prompts")
    assert code(error) == "ValidationException"


def test_unsigned_expired_and_unknown_calls_are_refused(aws, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "expired")
    client = boto3.session.Session().client("rekognition", config=QUICK)
    with pytest.raises(ClientError) as error:
        client.detect_faces(Image={"Bytes": picture()})
    assert code(error) == "ExpiredTokenException"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    with pytest.raises(ClientError) as error:
        boto3.session.Session().client("rekognition", config=QUICK).list_collections()
    assert code(error) == "UnknownOperationException"


def test_a_good_answer_carries_the_scripted_labels(aws):
    aws.rekognition.labels = lambda picture: [("Violence", 91.0), ("Weapons", 40.0)]
    client = boto3.client("rekognition", config=QUICK)
    answer = client.detect_moderation_labels(Image={"Bytes": picture()})
    assert [label["Name"] for label in answer["ModerationLabels"]] == ["Violence"]
    lower = client.detect_moderation_labels(Image={"Bytes": picture()}, MinConfidence=30)
    assert [label["TaxonomyLevel"] for label in lower["ModerationLabels"]] == [1, 2]
    assert aws.calls("DetectModerationLabels") == 2
    assert aws.server.calls[0].region == "us-east-1"


@pytest.mark.parametrize("kind", ["timeout", "reset", "half", "drip", "slow", "garbage"])
def test_planned_faults_reach_the_client(aws, kind):
    aws.server.faults.faults.append(Fault(kind, "DetectFaces", times=1, seconds=0.3))
    if kind in ("timeout", "slow"):
        aws.server.faults.faults[0] = Fault(kind, "DetectFaces", times=1, seconds=5)
    client = boto3.client("rekognition", config=QUICK)
    begun = time.monotonic()
    with pytest.raises((BotoCoreError, ClientError, UnicodeDecodeError, ValueError)):
        # A dripping body never runs into the read limit, so the caller has to stop it.
        if kind == "drip":
            aws.server.closing.set()
        client.detect_faces(Image={"Bytes": picture()})
    assert time.monotonic() - begun < 4


def test_a_fault_comes_after_and_for_as_many_calls_as_planned(aws):
    aws.server.faults.add("error", "DetectFaces", after=1, times=2, code="ThrottlingException")
    client = boto3.client("rekognition", config=QUICK)
    outcome = []
    for _ in range(4):
        try:
            client.detect_faces(Image={"Bytes": picture()})
            outcome.append("ok")
        except ClientError as error:
            outcome.append(error.response["Error"]["Code"])
    assert outcome == ["ok", "ThrottlingException", "ThrottlingException", "ok"]
