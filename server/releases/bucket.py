"""The bucket that releases and channels are stored in: objects, read, written and listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.credentials import Credentials, IamAwsProvider, Provider, StaticProvider
from minio.error import MinioException, S3Error
from prometheus_client import Counter

from vireo.server.errors import NoAnswerError, VireoError
from vireo.server.releases.manifest import MAX_DOCUMENT_BYTES, shown
from vireo.server.releases.s3 import S3Settings

PARALLEL = 4
"""Concurrent transfers."""
_CHUNK = 1 << 18
"""Maximum bytes that an interrupted transfer loses."""
_PRESIGNED_FOR = timedelta(minutes=5)

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

    outcome = "refused"
    """How metrics count it."""


class StoreUnavailableError(StoreError):
    """S3 can't be reached, or fails: the same request may succeed later."""

    outcome = "unavailable"
    exit_code = NoAnswerError.exit_code


class NotInStoreError(StoreError):
    """The release or object isn't there."""

    outcome = "missing"


class ChannelChangedError(StoreError):
    """Somebody else changed the channel in the meantime; nothing was written."""


@dataclass(frozen=True)
class StoredObject:
    """One object of the bucket, as listed."""

    name: str
    size: int
    """Bytes."""
    modified: datetime


class Bucket:
    """The objects of one bucket. Safe to use from several threads.

    Methods raise StoreError, or a subclass of it, if S3 fails.
    """

    def __init__(self, settings: S3Settings) -> None:
        """Start with `settings`; no request is made yet."""
        self.settings = settings
        self.name = settings.bucket
        patience = settings.patience
        self._http = urllib3.PoolManager(
            maxsize=2 * PARALLEL,
            timeout=urllib3.Timeout(connect=patience.connect_timeout, read=patience.read_timeout),
            retries=urllib3.Retry(
                total=patience.retries,
                connect=0,  # a server that isn't there won't be in a moment either
                backoff_factor=0.2,
                status_forcelist=[500, 502, 503, 504],
                raise_on_status=False,
            ),
        )
        self._client = Minio(
            settings.endpoint,
            credentials=_credentials(settings, self._http),
            secure=settings.secure,
            region=settings.region,
            http_client=self._http,
        )

    def exists(self) -> bool:
        """Return whether the bucket exists."""
        with _explained(self.settings):
            return bool(self._client.bucket_exists(self.name))

    def make(self) -> None:
        """Create the bucket if it is missing."""
        if self.exists():
            return
        with _explained(self.settings):
            try:
                self._client.make_bucket(self.name)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def read(self, name: str, offset: int = 0, length: int = 0) -> Iterator[bytes]:
        """Yield an object's content in chunks, from byte `offset` on; nothing if it ends before.

        Args:
            name: the object.
            offset: first byte.
            length: maximum number of bytes; 0 for all.

        Raises:
            NotInStoreError: the object isn't there.
        """
        with self._opened(name, "InvalidRange", offset, length) as response:
            if response is not None:
                yield from response.stream(_CHUNK)

    def get(self, name: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> tuple[bytes, str] | None:
        """Return a small object's content and ETag, or None if it isn't there.

        At most `max_bytes + 1` bytes are read; the parser refuses an object that is larger.

        Raises:
            NotInStoreError: the bucket isn't there.
        """
        with self._opened(name, "NoSuchKey") as response:
            if response is None:
                return None
            return response.read(max_bytes + 1), response.headers["ETag"]

    @contextmanager
    def _opened(
        self, name: str, expected: str, offset: int = 0, length: int = 0
    ) -> Iterator[urllib3.BaseHTTPResponse | None]:
        """Yield the response to a GET; None if S3 answers with the error code `expected`."""
        with _explained(self.settings):
            try:
                response = self._client.get_object(self.name, name, offset, length)
            except S3Error as error:
                if error.code != expected:
                    raise
                yield None
                return
            try:
                yield response
            finally:
                response.close()
                response.release_conn()

    def put_file(self, name: str, path: Path) -> None:
        """Write the file at `path` as an object."""
        with _explained(self.settings):
            self._client.fput_object(self.name, name, str(path))

    def swap(self, name: str, body: bytes, etag: str | None) -> str | None:
        """Write an object if it is as it was read; return its new ETag, or None if it isn't.

        If the response is lost, the object itself says whether it was written: nobody else may
        write the same content.

        Args:
            name: the object.
            body: its new content.
            etag: ETag of what was read; None if nothing was there.

        Raises:
            StoreUnavailableError: S3 fails, and the object isn't known to have been written.
        """
        condition = {"If-Match": etag} if etag else {"If-None-Match": "*"}
        try:
            response = self._conditional("PUT", name, condition, body)
            with _explained(self.settings):
                return None if response is None else response.headers["ETag"]
        except StoreUnavailableError:
            found = self.get(name)
            if found is None or found[0] != body:
                raise
            return found[1]

    def remove_if(self, name: str, etag: str) -> bool:
        """Remove an object if it still has this ETag; return whether it did."""
        return self._conditional("DELETE", name, {"If-Match": etag}) is not None

    def _conditional(
        self, method: str, name: str, condition: Mapping[str, str], body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse | None:
        """Send a conditional request; return its response, None if the condition doesn't hold.

        The SDK's methods take no conditional headers; a presigned URL does. It isn't retried: a
        second attempt would find the first one's own change.
        """
        with _explained(self.settings):
            url = self._client.get_presigned_url(method, self.name, name, _PRESIGNED_FOR)
            response = self._http.request(method, url, body=body, headers=condition, retries=False)
        # 404: If-Match, and the object is gone. 409: two requests conflicted.
        if response.status in (404, 409, 412):
            return None
        if response.status not in (200, 204):
            raise _refusal(self.settings, f"HTTP {response.status}", response.status)
        return response

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix`, which ends with a slash."""
        with _explained(self.settings):
            return [
                str(entry.object_name).removeprefix(prefix).rstrip("/")
                for entry in self._client.list_objects(self.name, prefix)
                if entry.is_dir
            ]

    def objects(self, prefix: str, *, recursive: bool = False) -> list[StoredObject]:
        """Return the objects below `prefix`, by name; those of its folders too if `recursive`."""
        with _explained(self.settings):
            return [
                StoredObject(str(entry.object_name), entry.size or 0, entry.last_modified)
                for entry in self._client.list_objects(self.name, prefix, recursive=recursive)
                if not entry.is_dir and entry.last_modified is not None
            ]

    def remove(self, name: str) -> None:
        """Remove an object; do nothing if it isn't there."""
        with _explained(self.settings):
            self._client.remove_object(self.name, name)


def _credentials(settings: S3Settings, http: urllib3.PoolManager) -> Provider:
    """Return what gives each request its keys."""
    if settings.workload_identity:
        return _RoleKeys(settings, http)
    token = settings.session_token.get_secret_value()
    return StaticProvider(
        settings.access_key, settings.secret_key.get_secret_value(), token or None
    )


class _RoleKeys(IamAwsProvider):
    """Keys of the role that this pod has."""

    def __init__(self, settings: S3Settings, http: urllib3.PoolManager) -> None:
        super().__init__(http_client=http)
        self._variable = f"{settings.model_config['env_prefix']}WORKLOAD_IDENTITY"

    def retrieve(self) -> Credentials:
        """Return keys that are valid for some time yet."""
        try:
            return super().retrieve()
        except (ValueError, LookupError, OSError, urllib3.exceptions.HTTPError) as error:
            raise StoreUnavailableError(
                f"the pod's role gives no keys for S3 ({shown(str(error))}); check the role of its "
                f"service account, or unset {self._variable}"
            ) from error


@contextmanager
def _explained(settings: S3Settings) -> Iterator[None]:
    """Raise the SDK's errors as StoreErrors with a cause and a fix; count how it went."""
    outcome = "ok"
    try:
        yield
    except StoreError as error:
        outcome = error.outcome
        raise
    except (MinioException, urllib3.exceptions.HTTPError, *_MISREAD) as error:
        found = _store_error(settings, error)
        outcome = found.outcome
        raise found from error
    finally:
        REQUESTS.labels(outcome).inc()


def _store_error(settings: S3Settings, error: Exception) -> StoreError:
    """Return what the SDK's error means, and what helps."""
    where, prefix = f"S3 at {settings.endpoint}", settings.model_config["env_prefix"]
    if isinstance(error, S3Error):
        if error.code == "NoSuchBucket":
            return NotInStoreError(
                f"{where} has no bucket {settings.bucket!r}; publish a release, or set "
                f"{prefix}BUCKET to the right one"
            )
        if error.code == "NoSuchKey":
            return NotInStoreError(
                f"{error.object_name} isn't in bucket {settings.bucket}; "
                "`vireo release list` shows what is"
            )
        return _refusal(settings, shown(str(error.code)), error.response.status)
    if isinstance(error, urllib3.exceptions.HTTPError):
        cause = getattr(error, "reason", None) or error
        return StoreUnavailableError(
            f"{where} can't be reached ({cause.__class__.__name__}); "
            f"start it, or set {prefix}ENDPOINT"
        )
    return StoreUnavailableError(
        f"{where}, or a proxy in front of it, sends an invalid response "
        f"({type(error).__name__}: {shown(str(error))}); check its log, then try again"
    )


def _refusal(settings: S3Settings, code: str, status: int) -> StoreError:
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
