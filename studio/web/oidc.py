"""Sign-in by an OpenID Connect provider: the authorization code flow with PKCE and a checked token.

Knows no cookie and no record of ours: it says where a browser must go, and who came back.
Follows OpenID Connect Core 1.0 (section 3.1), RFC 7636 (PKCE) and RFC 9207 (issuer in the answer).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from studio.errors import BackendError, UserError

PREFIX = "oidc-"
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Signatures that only the provider can make: nothing that a client secret or nobody signs."""
TIMEOUT_S = 10.0
KEEP_S = 3600.0
REFETCH_S = 30.0
LEEWAY_S = 60
MAX_ANSWER_BYTES = 1_000_000
BEGUN_S = 600.0
"""How long somebody may take at the provider."""


@dataclass(frozen=True)
class Begun:
    """Where to send the browser, and what it must bring back besides the provider's answer."""

    address: str
    facts: dict[str, str]


def name_of(issuer: str, subject: str) -> str:
    """Our name for a provider's account; it tells nothing of whose that is."""
    digest = hashlib.sha256(f"{issuer.rstrip('/')}\0{subject}".encode()).digest()[:16]
    return PREFIX + base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Provider:
    """One provider and our account with it. Safe to use from many threads.

    `allowed` limits who may come in: subjects, checked e-mail addresses, or `@domain`; empty for
    everybody whom the provider signs in.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str = "",
        scopes: str = "openid",
        allowed: frozenset[str] = frozenset(),
    ) -> None:
        self.issuer = issuer.rstrip("/")
        self.client_id = client_id
        self._secret = client_secret
        self._scopes = scopes
        self._allowed = allowed
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def begin(self, back: str) -> Begun:
        """`back` is our own address that the provider sends the browser to afterwards.

        Raises `BackendError` when the provider cannot be asked.
        """
        facts = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        challenge = hashlib.sha256(facts["verifier"].encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": back,
            "scope": self._scopes,
            "state": facts["state"],
            "nonce": facts["nonce"],
            "code_challenge": base64.urlsafe_b64encode(challenge).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        where = self._endpoint("authorization_endpoint")
        return Begun(f"{where}{'&' if '?' in where else '?'}{urlencode(asked)}", facts)

    def finish(self, back: str, answer: Mapping[str, str], facts: Mapping[str, str] | None) -> str:
        """Our name for who signed in; the same for the same account, and it tells nothing of them.

        Raises `UserError` when they were refused or their answer is not theirs or too old, and
        `BackendError` when the provider does not answer as it must.
        """
        if facts is None or not hmac.compare_digest(
            answer.get("state", "").encode(), facts["state"].encode()
        ):
            raise UserError("This sign-in was not begun here, or took too long.", "Begin again.")
        if "iss" in answer and answer["iss"].rstrip("/") != self.issuer:
            raise UserError("This answer is from another provider.", "Begin again.")
        if "code" not in answer:
            raise UserError("The provider did not sign you in.", "Begin again.")
        tokens = self._tokens(back, answer["code"], facts["verifier"])
        claims = self._claims(str(tokens.get("id_token", "")), facts["nonce"])
        if self._allowed and "email" not in claims:
            claims = {**self._about(str(tokens.get("access_token", "")), claims["sub"]), **claims}
        if not self._may_enter(claims):
            raise UserError(
                "Your account may not use this studio.", "Ask its host (AVATAR_OIDC_ALLOWED)."
            )
        return name_of(self.issuer, claims["sub"])

    def _tokens(self, back: str, code: str, verifier: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "code_verifier": verifier,
        }
        known = self._metadata().get("token_endpoint_auth_methods_supported", [])
        basic = bool(self._secret) and (not known or "client_secret_basic" in known)
        if not basic:
            form |= {"client_id": self.client_id}
            form |= {"client_secret": self._secret} if self._secret else {}
        sign_in = httpx.BasicAuth(self.client_id, self._secret) if basic else None
        return self._ask("POST", self._endpoint("token_endpoint"), data=form, auth=sign_in)

    def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        rules = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_S,
            iss={"essential": True, "values": [self.issuer, f"{self.issuer}/"]},
            aud={"essential": True, "value": self.client_id},
            sub={"essential": True},
            exp={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            try:
                found = jwt.decode(token, self._keys(), algorithms=list(ALGORITHMS))
            except (JoseError, ValueError):
                # The provider may have changed its keys since we asked for them.
                found = jwt.decode(token, self._keys(anew=True), algorithms=list(ALGORITHMS))
            rules.validate(found.claims)
        except (JoseError, ValueError) as fault:
            raise BackendError(f"{self.issuer} sent a token that does not hold: {fault}") from fault
        claims: dict[str, Any] = dict(found.claims)
        audience = claims["aud"]
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != self.client_id:
            raise BackendError(f"{self.issuer} sent a token that was made for another client.")
        return claims

    def _about(self, token: str, subject: str) -> dict[str, Any]:
        """What the provider says of the account besides the token."""
        bearer = {"authorization": f"Bearer {token}"}
        found = self._ask("GET", self._endpoint("userinfo_endpoint"), headers=bearer)
        return found if found.get("sub") == subject else {}

    def _may_enter(self, claims: Mapping[str, Any]) -> bool:
        email = str(claims.get("email", "")).casefold() if claims.get("email_verified") else ""
        domain = f"@{email.rpartition('@')[2]}" if "@" in email else ""
        names = {str(claims["sub"]), email, domain} - {""}
        return not self._allowed or bool(names & self._allowed)

    def _metadata(self) -> dict[str, Any]:
        found = self._kept(f"{self.issuer}/.well-known/openid-configuration")
        if str(found.get("issuer", "")).rstrip("/") != self.issuer:
            raise BackendError(
                f"{self.issuer} says that it is {found.get('issuer')!r}. Correct "
                "AVATAR_OIDC_ISSUER."
            )
        return found

    def _endpoint(self, name: str) -> str:
        where = str(self._metadata().get(name, ""))
        if not _safe(where):
            raise BackendError(f"{self.issuer} names no safe {name}: {where!r}.")
        return where

    def _keys(self, *, anew: bool = False) -> KeySet:
        return KeySet.import_key_set(self._kept(self._endpoint("jwks_uri"), anew=anew))  # type: ignore[arg-type]

    def _kept(self, where: str, *, anew: bool = False) -> dict[str, Any]:
        """An answer that is kept for an hour; asked for again at most twice a minute."""
        moment = time.monotonic()
        with self._lock:
            asked_at, found = self._known.get(where, (-KEEP_S, {}))
            if moment - asked_at < (REFETCH_S if anew else KEEP_S):
                return found
            found = self._ask("GET", where)
            self._known[where] = (moment, found)
            return found

    def _ask(self, method: str, where: str, **more: Any) -> dict[str, Any]:
        try:
            if not _safe(where):
                raise ValueError("it must be an https address")
            with httpx.stream(method, where, timeout=TIMEOUT_S, **more) as answer:
                content = b""
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > MAX_ANSWER_BYTES:
                        raise ValueError("its answer is too large")
            if answer.status_code != 200:
                raise ValueError(f"it answered {answer.status_code}")
            found = httpx.Response(200, content=content).json()
            if not isinstance(found, dict):
                raise ValueError("its answer is no JSON object")
        except (httpx.HTTPError, ValueError) as fault:
            raise BackendError(f"The sign-in provider at {where} failed: {fault}.") from fault
        return found


def _safe(where: str) -> bool:
    """Encrypted, or on this machine."""
    try:
        parts = urlsplit(where)
    except ValueError:
        return False
    here = parts.hostname in ("127.0.0.1", "localhost", "::1")
    return parts.scheme == "https" or (parts.scheme == "http" and here)
