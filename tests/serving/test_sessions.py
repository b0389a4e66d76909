"""One owner at a time: the session's tag is what the role's policy binds calls to."""

from __future__ import annotations

import boto3
import pytest
from botocore.stub import Stubber

from serving.sagemaker import EndpointFault
from serving.sessions import MOST_OWNERS, SESSION_S, Sessions

ROLE = "arn:aws:iam::123456789012:role/avatar-draw"


@pytest.fixture
def sessions(aws, s3_url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3_url)
    return Sessions(ROLE, "us-east-1")


def key_of(client) -> str:
    return client._request_signer._credentials.access_key


def test_the_session_is_tagged_with_the_owner(sessions):
    given = {"AccessKeyId": "ASIA" + "A" * 16, "SecretAccessKey": "s", "SessionToken": "t",
             "Expiration": "2026-11-21T13:00:00Z"}  # fmt: skip
    wanted = {
        "RoleArn": ROLE, "RoleSessionName": "draw", "DurationSeconds": SESSION_S,
        "Tags": [{"Key": "owner", "Value": "ann-1"}],
    }  # fmt: skip
    with Stubber(sessions._sts) as stubbed:
        stubbed.add_response("assume_role", {"Credentials": given}, wanted)
        assert key_of(sessions.runtime("ann-1")) == given["AccessKeyId"]
        stubbed.assert_no_pending_responses()


def test_each_owner_has_a_client_and_keeps_it(sessions):
    ann, bob = sessions.runtime("ann-1"), sessions.runtime("bob-1")
    assert key_of(ann) != key_of(bob) and key_of(ann).startswith("ASIA")
    assert key_of(ann) != boto3.client("sts")._request_signer._credentials.access_key
    assert sessions.runtime("ann-1") is ann
    assert len(sessions._clients) <= MOST_OWNERS


def test_a_role_that_cannot_be_assumed_draws_nothing(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    with pytest.raises(EndpointFault, match="cannot be assumed"):
        Sessions(ROLE, "us-east-1").runtime("ann-1")
