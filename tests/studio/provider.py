"""A small OpenID Connect provider that keeps the rules, and breaks one when it is told to."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT, SECRET = "studio", "a secret of the studio"


class Provider:
    """One account signs in at a time: `claims` is who. `broken` names a rule that is not kept."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.claims: dict[str, Any] = {"sub": "ann-at-the-provider"}
        self.broken = ""
        self.key = RSAKey.generate_key(2048, {"kid": "first"})
        self._codes: dict[str, dict[str, str]] = {}

    def rotate(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4)})

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        def configuration() -> dict[str, Any]:
            return {
                "issuer": "https://other.example" if self.broken == "issuer" else self.address,
                "authorization_endpoint": f"{self.address}/authorize",
                "token_endpoint": "http://example.com/token"
                if self.broken == "plain"
                else f"{self.address}/token",
                "userinfo_endpoint": f"{self.address}/userinfo",
                "jwks_uri": f"{self.address}/keys",
            }

        @app.get("/keys")
        def keys() -> dict[str, Any]:
            return {"keys": [self.key.as_dict(private=False)]}

        @app.get("/authorize")
        def authorize(request: Request) -> RedirectResponse:
            asked = dict(request.query_params)
            assert asked["client_id"] == CLIENT and asked["response_type"] == "code"
            assert asked["code_challenge_method"] == "S256" and "openid" in asked["scope"]
            code = secrets.token_hex(8)
            self._codes[code] = asked
            answer = {"code": code, "state": asked["state"], "iss": self.address}
            if self.broken == "refused":
                answer = {"error": "access_denied", "state": asked["state"]}
            if self.broken == "mixed up":
                answer["iss"] = "https://other.example"
            return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 303)

        @app.post("/token")
        def token(
            request: Request,
            code: str = Form(),
            redirect_uri: str = Form(),
            code_verifier: str = Form(),
        ) -> JSONResponse:
            asked = self._codes.pop(code, None)
            digest = hashlib.sha256(code_verifier.encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            given = request.headers.get("authorization", "")
            wanted = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
            if given != wanted:
                return JSONResponse({"error": "invalid_client"}, 401)
            kept = asked and asked["code_challenge"] == challenge
            if not kept or redirect_uri != asked["redirect_uri"]:
                return JSONResponse({"error": "invalid_grant"}, 400)
            return JSONResponse({"access_token": "for userinfo", "id_token": self._token(asked)})

        @app.get("/userinfo")
        def userinfo(request: Request) -> JSONResponse:
            if request.headers.get("authorization") != "Bearer for userinfo":
                return JSONResponse({}, 401)
            return JSONResponse(
                {**self.claims, "email": "ann@team.example", "email_verified": True}
            )

        return app

    def _token(self, asked: dict[str, str]) -> str:
        claims = {
            "iss": self.address, "aud": CLIENT, "exp": int(time.time()) + 300,
            "nonce": asked["nonce"], **self.claims,
        }  # fmt: skip
        wrong = {
            "nonce": {"nonce": "of another sign-in"}, "audience": {"aud": "another client"},
            "expired": {"exp": int(time.time()) - 3600}, "token issuer": {"iss": "https://x.example"},
            "no subject": {"sub": None}, "many": {"aud": [CLIENT, "another client"]},
        }  # fmt: skip
        claims |= wrong.get(self.broken, {})
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.broken == "shared secret":
            return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET.ljust(32)))
        key = RSAKey.generate_key(2048) if self.broken == "another key" else self.key
        signed = jwt.encode({"alg": "RS256", "kid": self.key.kid or ""}, claims, key)
        if self.broken == "unsigned":
            return ".".join([_part(b'{"alg":"none"}'), signed.split(".")[1], ""])
        return signed


def _part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
