"""The door of an API that is not OpenStack's: httpx, with basic, digest, bearer or S3 authentication, or none."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import ssl
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from functools import cache
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

import httpx

from sources.dynamic.secrets import shown
from sources.dynamic.web import AskError, Reply
from sources.pollster import PermanentError

# It tells each URL, whole, at INFO: a reference in its query would be in the log.
logging.getLogger("httpx").setLevel(logging.WARNING)
_SIGNED: Final = frozenset({
    "acl", "cors", "delete", "lifecycle", "location", "logging", "notification", "partNumber", "policy", "requestPayment", "torrent", "uploadId",
    "uploads", "versionId", "versioning", "versions", "website",
})  # fmt: skip
"""Parameters of a query that S3 signs."""


@cache
def _context() -> ssl.SSLContext:
    """To make one takes longer than a poll. SSL_CERT_FILE names authorities of one's own."""
    return httpx.create_ssl_context()


class WebDoor:
    """Sends requests with httpx. A context manager: its connections are kept open inside.

    Args:
        base: the URL that is asked.
        authentication: one of basic, digest, bearer, s3, or ''.
        parameters: what that needs.

    """

    def __init__(self, base: str, authentication: str = "", parameters: Sequence[str] = ()) -> None:
        self.base = base
        try:
            if not httpx.URL(base).host:
                raise PermanentError(f"{shown(base)} names no host")
            auth, headers = _authentication(authentication, parameters)
            self._client = httpx.Client(
                verify=_context(),
                auth=auth,
                headers={"User-Agent": "nephoscope", "Accept-Encoding": "gzip", **headers},
                follow_redirects=False,
            )
        except (httpx.InvalidURL, ValueError, OSError) as error:
            raise PermanentError(f"{shown(base)}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @contextmanager
    def ask(self, url: str, headers: Mapping[str, str], wait: float) -> Iterator[Reply]:
        """Send a GET request."""
        try:
            with self._client.stream("GET", url, headers=dict(headers), timeout=wait) as answer:
                names = {k.lower(): v for k, v in answer.headers.items()}
                # In the pieces in which it comes: gathered into larger ones, an answer that drips would outlive its deadline.
                yield Reply(answer.status_code, answer.reason_phrase, names, answer.iter_bytes())
        except httpx.TimeoutException:
            raise AskError(f"{shown(url)}: no answer within {wait:.3g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, UnicodeError) as error:
            raise AskError(f"{shown(url)}: {str(error)[:200] or type(error).__name__}") from None


def _authentication(how: str, parameters: Sequence[str]) -> tuple[Any, dict[str, str]]:
    match how, list(parameters):
        case "basic", [user, password]:
            return httpx.BasicAuth(user, password), {}
        case "digest", [user, password]:
            return httpx.DigestAuth(user, password), {}
        case "bearer", [token]:
            return None, {"Authorization": f"Bearer {token}"}
        case "s3", [access, secret, host]:
            return S3Auth(access, secret, host), {}
        case "", _:
            return None, {}
    raise PermanentError(f"{how} authentication takes other parameters than the {len(parameters)} that are given")


class S3Auth(httpx.Auth):
    """Amazon's signature, version 2, as RadosGW takes it: HMAC-SHA1 over method, type, date and resource (RESTAuthentication of the S3 developer guide).

    `host` is the service's; what stands before it in a URL's host is the bucket.
    """

    def __init__(self, access: str, secret: str, host: str) -> None:
        self._access = access
        self._secret = secret.encode()
        self._host = host.partition("://")[2] or host

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request."""
        request.headers.setdefault("Date", formatdate(usegmt=True))
        request.headers["Authorization"] = f"AWS {self._access}:{self.signature(request)}"
        yield request

    def signature(self, request: httpx.Request) -> str:
        """The signature of a request that has its date."""
        headers = request.headers
        amazon = sorted((k.lower(), v) for k, v in headers.items() if k.lower().startswith("x-amz-"))
        lines = [
            request.method,
            headers.get("Content-MD5", ""),
            headers.get("Content-Type", ""),
            "" if any(k == "x-amz-date" for k, _ in amazon) else headers["Date"],
            *(f"{k}:{v.strip()}" for k, v in amazon),
        ]
        text = "\n".join(lines) + "\n" + self._resource(str(request.url))
        return base64.b64encode(hmac.new(self._secret, text.encode(), hashlib.sha1).digest()).decode()

    def _resource(self, url: str) -> str:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        service = (urlsplit(f"//{self._host}").hostname or "").lower()
        bucket = f"/{host.removesuffix('.' + service)}" if service and host.endswith("." + service) else ""
        signed = sorted((k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k in _SIGNED)
        query = "&".join(f"{k}={v}" if v else k for k, v in signed)
        return bucket + (parts.path or "/") + (f"?{query}" if query else "")
