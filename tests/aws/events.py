"""Events as API Gateway sends them to a function: REST (version 1.0) and HTTP APIs (2.0).

Shapes from the API Gateway developer guide, "Lambda proxy integrations", with Cognito's claims.
"""

from __future__ import annotations

import base64
import json
from typing import Any

Event = dict[str, Any]
ISSUER = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_AbCdEfGhI"


def claims(sub: str) -> dict[str, str]:
    """What the authorizer found in an id token."""
    return {
        "sub": sub,
        "cognito:username": f"name-of-{sub}",
        "email": "ann@example.org",
        "iss": ISSUER,
        "aud": "4q2s6n0example",
        "token_use": "id",
        "exp": "Sat Nov 21 14:00:00 UTC 2026",
    }


def rest(
    method: str, path: str, body: Any = None, *, sub: str = "", encoded: bool = False,
    headers: dict[str, str] | None = None,
) -> Event:  # fmt: skip
    """A REST API's event. Without `sub` no authorizer ran."""
    sent = {"Content-Type": "application/json", "Host": "abc.execute-api.us-east-1.amazonaws.com",
            "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7", **(headers or {})}  # fmt: skip
    text = None if body is None else body if isinstance(body, str) else json.dumps(body)
    if encoded and text is not None:
        text = base64.b64encode(text.encode()).decode()
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": sent,
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "resourceId": "abc123",
            "authorizer": {"claims": claims(sub)} if sub else None,
            "resourcePath": path,
            "httpMethod": method,
            "extendedRequestId": "Xy=",
            "requestTime": "21/Nov/2026:12:00:00 +0000",
            "path": f"/live{path}",
            "accountId": "123456789012",
            "protocol": "HTTP/1.1",
            "stage": "live",
            "domainPrefix": "abc",
            "requestTimeEpoch": 1795262400000,
            "requestId": "1f7c0f3e-0000-4000-8000-000000000000",
            "identity": {"sourceIp": "203.0.113.7", "userAgent": "curl/8.5.0"},
            "domainName": "abc.execute-api.us-east-1.amazonaws.com",
            "apiId": "abc",
        },
        "body": text,
        "isBase64Encoded": encoded and text is not None,
    }


def http(
    method: str, path: str, body: Any = None, *, sub: str = "", encoded: bool = False,
    headers: dict[str, str] | None = None,
) -> Event:  # fmt: skip
    """An HTTP API's event with payload version 2.0 and a JWT authorizer."""
    sent = {"content-type": "application/json", "host": "abc.execute-api.us-east-1.amazonaws.com",
            "x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.7"}  # fmt: skip
    sent |= {name.lower(): value for name, value in (headers or {}).items()}
    text = None if body is None else body if isinstance(body, str) else json.dumps(body)
    if encoded and text is not None:
        text = base64.b64encode(text.encode()).decode()
    context: dict[str, Any] = {
        "accountId": "123456789012",
        "apiId": "abc",
        "domainName": "abc.execute-api.us-east-1.amazonaws.com",
        "domainPrefix": "abc",
        "http": {"method": method, "path": path, "protocol": "HTTP/1.1",
                 "sourceIp": "203.0.113.7", "userAgent": "curl/8.5.0"},
        "requestId": "JKJaXmPLvHcESHA=",
        "routeKey": "$default",
        "stage": "$default",
        "time": "21/Nov/2026:12:00:00 +0000",
        "timeEpoch": 1795262400000,
    }  # fmt: skip
    if sub:
        context["authorizer"] = {"jwt": {"claims": claims(sub), "scopes": None}}
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": sent,
        "requestContext": context,
        "isBase64Encoded": encoded and text is not None,
    }
    return event | ({} if text is None else {"body": text})
