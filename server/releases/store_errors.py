"""S3 failures, each with its cause and its fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import MinioException, S3Error
from prometheus_client import Counter

from vireo.server.errors import VireoError
from vireo.server.releases.fields import shown
from vireo.server.releases.s3 import S3Settings

_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden")
_MISREAD = (ParseError, ValueError, LookupError, TypeError, AttributeError)
"""What the SDK raises for a response that isn't S3's: invalid or incomplete XML, bytes that aren't
text, a missing header."""
_FAILING = (408, 429)
"""HTTP statuses below 500 that say nothing about the request itself: timeouts and rate limits."""

REQUESTS = Counter(
    "vireo_s3_requests",
    "Uses of the storage of releases, by outcome: ok, missing, refused or unavailable.",
    ["outcome"],
)
for _outcome in ("ok", "missing", "refused", "unavailable"):  # so that each is exported as 0
    REQUESTS.labels(_outcome)


class StoreError(VireoError):
    """S3 can't do what was requested; the message names the cause and the fix."""


class StoreUnavailableError(StoreError):
    """S3 can't be reached, or fails: the same request may succeed later."""


class NotInStoreError(StoreError):
    """The release or object isn't there."""


class ChannelChangedError(StoreError):
    """Somebody else changed the channel in the meantime; nothing was written."""


@contextmanager
def explained(settings: S3Settings) -> Iterator[None]:
    """Raise the SDK's errors as StoreErrors with a cause and a fix; count how it went."""
    outcome = "ok"
    try:
        with _explained(settings):
            yield
    except NotInStoreError:
        outcome = "missing"
        raise
    except StoreError as error:
        outcome = "unavailable" if isinstance(error, StoreUnavailableError) else "refused"
        raise
    finally:
        REQUESTS.labels(outcome).inc()


@contextmanager
def _explained(settings: S3Settings) -> Iterator[None]:
    where, prefix = f"S3 at {settings.endpoint}", settings.model_config["env_prefix"]
    try:
        yield
    except S3Error as error:
        if error.code == "NoSuchBucket":
            raise NotInStoreError(
                f"{where} has no bucket {settings.bucket!r}; publish a release, or set "
                f"{prefix}BUCKET to the right one"
            ) from error
        if error.code == "NoSuchKey":
            raise NotInStoreError(
                f"{error.object_name} isn't in bucket {settings.bucket}; "
                "`vireo release list` shows what is"
            ) from error
        raise refusal(settings, shown(str(error.code)), error.response.status) from error
    except urllib3.exceptions.HTTPError as error:
        cause = getattr(error, "reason", None) or error
        raise StoreUnavailableError(
            f"{where} can't be reached ({cause.__class__.__name__}); "
            f"start it, or set {prefix}ENDPOINT"
        ) from error
    except (MinioException, *_MISREAD) as error:
        raise StoreUnavailableError(
            f"{where}, or a proxy in front of it, sends an invalid response "
            f"({type(error).__name__}: {shown(str(error))}); check its log, then try again"
        ) from error


def refusal(settings: S3Settings, code: str, status: int) -> StoreError:
    """Return the error for an unexpected response with this error code and HTTP status."""
    prefix = settings.model_config["env_prefix"]
    answer = f"S3 at {settings.endpoint} responds {code} for bucket {settings.bucket!r}"
    if status in _FAILING or status >= 500:
        return StoreUnavailableError(f"{answer}; check its log, then try again")
    if code in _REFUSED or status in (401, 403):
        return StoreError(
            f"S3 at {settings.endpoint} refuses the key {settings.access_key!r} ({code}); check "
            f"{prefix}ACCESS_KEY and {prefix}SECRET_KEY, and what the key may do in "
            f"bucket {settings.bucket!r}"
        )
    return StoreError(f"{answer}; check its log")
