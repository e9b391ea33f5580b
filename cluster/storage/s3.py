"""Blobs on S3 or a server that speaks its protocol; the only module that imports boto3.

Credentials and region are found as boto3 finds them: environment, AWS files, instance role.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cluster.storage.blobs import DIGEST, Blob, StorageUnavailable, checked_digest, digest_of, require_equal
from doseeng.errors import JobError

ABSENT: Final = frozenset({"404", "NoSuchKey", "NotFound"})
CHUNK: Final = 1 << 20
CONNECT_S: Final = 10
READ_S: Final = 60
RENEW_S: Final = 3600.0
"""A blob that is put again is made young again only when it is older: it costs a request that writes."""


@dataclass(frozen=True, slots=True)
class S3Blobs:
    """The blobs of one site: objects PREFIX/ab/cdef... of a bucket. endpoint: "" for AWS.

    An object is visible when it is complete, and the server checks the SHA-256 of what it was sent. A blob is at most
    5 GiB, S3's limit for one upload. `delete` with an age is not safe against a `put` of the same bytes in the instant
    between its look and its deletion: S3 has no rename.
    """

    bucket: str
    prefix: str
    endpoint: str = ""

    def put(self, data: bytes | Path) -> Blob:
        """As `BlobStore.put`."""
        sha256, size = digest_of(data)
        key, checksum = self._key(sha256), base64.b64encode(bytes.fromhex(sha256)).decode()
        with self._asking(sha256):
            found = self._head(key)
            if found is not None and found["ContentLength"] == size and _age_s(found["LastModified"]) < RENEW_S:
                return Blob(sha256, size)
            if isinstance(data, bytes):
                self._client.put_object(Bucket=self.bucket, Key=key, Body=data, ChecksumSHA256=checksum)
            else:
                with data.open("rb") as file:
                    self._client.put_object(Bucket=self.bucket, Key=key, Body=file, ChecksumSHA256=checksum)
        return Blob(sha256, size)

    def get(self, sha256: str) -> bytes:
        """As `BlobStore.get`."""
        with self._asking(sha256):
            data: bytes = self._client.get_object(Bucket=self.bucket, Key=self._key(sha256))["Body"].read()
        require_equal(sha256, hashlib.sha256(data).hexdigest(), self._where)
        return data

    def copy_to(self, sha256: str, path: Path) -> Path:
        """As `BlobStore.copy_to`."""
        digest = hashlib.sha256()
        with self._asking(sha256):
            body = self._client.get_object(Bucket=self.bucket, Key=self._key(sha256))["Body"]
            with path.open("wb") as target:
                for chunk in body.iter_chunks(CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
        if digest.hexdigest() != sha256:
            path.unlink()
        require_equal(sha256, digest.hexdigest(), self._where)
        return path

    def has(self, sha256: str) -> bool:
        """As `BlobStore.has`."""
        with self._asking(sha256):
            return self._head(self._key(sha256)) is not None

    def delete(self, sha256: str, older_than_s: float = 0.0) -> bool:
        """As `BlobStore.delete`."""
        key = self._key(sha256)
        with self._asking(sha256):
            found = self._head(key)
            if found is None or (older_than_s and _age_s(found["LastModified"]) < older_than_s):
                return False
            self._client.delete_object(Bucket=self.bucket, Key=key)
        return True

    def older_than(self, age_s: float) -> Iterator[Blob]:
        """As `BlobStore.older_than`."""
        return (blob for blob, modified in self._listed() if _age_s(modified) >= age_s)

    def __iter__(self) -> Iterator[Blob]:
        """As `BlobStore.__iter__`."""
        return (blob for blob, _ in self._listed())

    @property
    def _client(self) -> Any:
        return _client(self.endpoint)

    @property
    def _where(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def _key(self, sha256: str) -> str:
        digest = checked_digest(sha256)
        return f"{self.prefix}/{digest[:2]}/{digest[2:]}"

    def _head(self, key: str) -> Any:
        try:
            return self._client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if _code(error) in ABSENT:
                return None
            raise

    def _listed(self) -> Iterator[tuple[Blob, datetime]]:
        with self._asking():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
            for page in pages:
                for entry in page.get("Contents", ()):
                    digest = entry["Key"].removeprefix(f"{self.prefix}/").replace("/", "")
                    if DIGEST.fullmatch(digest):
                        yield Blob(digest, entry["Size"]), entry["LastModified"]

    @contextmanager
    def _asking(self, sha256: str = "") -> Iterator[None]:
        """Errors of S3 as ours."""
        try:
            yield
        except ClientError as error:
            if _code(error) == "NoSuchKey":
                raise JobError(
                    f"blob {sha256} is not in {self._where}; it was removed by a retention rule, or never put at this "
                    "site: restore it from a backup, or bring what it was made from again"
                ) from error
            raise StorageUnavailable(
                f"{self._where}: the server refused ({_code(error)}); check the bucket, its space and the credentials"
            ) from error
        except BotoCoreError as error:
            raise StorageUnavailable(
                f"{self._where}: the server cannot be asked ({type(error).__name__}); check storage.endpoint, the "
                "network and the credentials"
            ) from error


_making: Final = threading.Lock()


def _client(endpoint: str) -> Any:
    # boto3 makes clients in one thread at a time; made, they are safe to share.
    with _making:
        return _made_client(endpoint)


@lru_cache(maxsize=8)
def _made_client(endpoint: str) -> Any:
    config = Config(
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        max_pool_connections=32,
    )
    return boto3.client("s3", endpoint_url=endpoint or None, config=config)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _age_s(modified: datetime) -> float:
    return (datetime.now(UTC) - modified).total_seconds()
