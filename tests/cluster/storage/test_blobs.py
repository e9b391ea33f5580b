"""Blobs in a folder and on an S3 server: one body of tests for both."""

import errno
import hashlib
import multiprocessing
import os
import pickle
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from cluster.service.config import ServiceConfig
from cluster.storage import s3
from cluster.storage.blobs import Blob, BlobStore, StorageUnavailable
from cluster.storage.files import INCOMING, FileBlobs
from cluster.storage.open import open_blobs
from cluster.storage.s3 import S3Blobs
from doseeng.errors import ConfigError, JobError

DATA = b"dose" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """A real HTTP server that speaks S3."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="doseeng")
        yield endpoint
        server.stop()


@pytest.fixture(params=["files", "s3"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> ServiceConfig:
    storage = {}
    if request.param == "s3":
        storage = {"url": f"s3://doseeng/{tmp_path.name}", "endpoint": request.getfixturevalue("s3_endpoint")}
    sites = [{"name": "north"}, {"name": "south"}]
    return ServiceConfig(data_dir=str(tmp_path / "data"), storage=storage, site=sites)  # type: ignore[arg-type]


@pytest.fixture
def blobs(config: ServiceConfig) -> BlobStore:
    return open_blobs(config, "north")


@pytest.fixture
def damage(blobs: BlobStore) -> Callable[[str, bytes], None]:
    """`damage(sha256, data)`: other bytes lie where the blob was."""

    def change(sha256: str, data: bytes) -> None:
        if isinstance(blobs, FileBlobs):
            (blobs.folder / sha256[:2] / sha256[2:]).write_bytes(data)
        else:
            assert isinstance(blobs, S3Blobs)
            key = f"{blobs.prefix}/{sha256[:2]}/{sha256[2:]}"
            boto3.client("s3", endpoint_url=blobs.endpoint).put_object(Bucket=blobs.bucket, Key=key, Body=data)

    return change


def test_put_get_copy_has_delete(blobs: BlobStore, tmp_path: Path) -> None:
    assert not blobs.has(SHA256)
    assert list(blobs) == []
    assert blobs.put(DATA) == blobs.put(DATA) == Blob(SHA256, len(DATA))
    assert blobs.has(SHA256)
    assert blobs.get(SHA256) == DATA
    assert list(blobs) == [Blob(SHA256, len(DATA))]
    copied = blobs.copy_to(SHA256, tmp_path / "copy.dcm")
    copied.write_bytes(b"changed by whoever asked for it")
    assert blobs.get(SHA256) == DATA
    assert blobs.delete(SHA256)
    assert not blobs.delete(SHA256)
    assert not blobs.has(SHA256)


def test_files_and_empty_bytes(blobs: BlobStore, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom((1 << 20) + 17))
    assert blobs.put(big) == blobs.put(big) == Blob(hashlib.sha256(big.read_bytes()).hexdigest(), (1 << 20) + 17)
    assert blobs.get(blobs.put(big).sha256) == big.read_bytes()
    assert blobs.get(blobs.put(b"").sha256) == b""


def test_sites_are_apart(config: ServiceConfig, blobs: BlobStore, tmp_path: Path) -> None:
    south = open_blobs(config, "south")
    blobs.put(DATA)
    assert not south.has(SHA256)
    assert list(south) == []
    assert not south.delete(SHA256)
    for read in (south.get, lambda digest: south.copy_to(digest, tmp_path / "copy")):
        with pytest.raises(JobError, match=rf"blob {SHA256} is not in .*south"):
            read(SHA256)
    with pytest.raises(ConfigError, match=r"site '\.\./north' is not configured"):
        open_blobs(config, "../north")


@pytest.mark.parametrize("name", ["../../north/ab/cd", "", SHA256.upper(), f"{SHA256}/..", SHA256[:-1]])
def test_only_digests_name_blobs(blobs: BlobStore, tmp_path: Path, name: str) -> None:
    for use in (blobs.get, blobs.has, blobs.delete, lambda digest: blobs.copy_to(digest, tmp_path / "x")):
        with pytest.raises(JobError, match="is no SHA-256"):
            use(name)


@pytest.mark.parametrize("bad", [b"", DATA[:-1], DATA[:-1] + b"x"], ids=["emptied", "cut", "changed"])
def test_damage_is_found(blobs: BlobStore, damage: Callable[[str, bytes], None], tmp_path: Path, bad: bytes) -> None:
    blobs.put(DATA)
    damage(SHA256, bad)
    with pytest.raises(JobError, match=rf"blob {SHA256} in .* is damaged"):
        blobs.get(SHA256)
    with pytest.raises(JobError, match="is damaged"):
        blobs.copy_to(SHA256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    if len(bad) != len(DATA):
        blobs.put(DATA)
        assert blobs.get(SHA256) == DATA


def test_workers_open_it_themselves(blobs: BlobStore) -> None:
    blobs.put(DATA)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(pickle.loads(pickle.dumps(blobs)).get, (SHA256,)) == DATA


def test_many_put_the_same_at_once(blobs: BlobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(blobs.put, [DATA] * 16)) == {Blob(SHA256, len(DATA))}
    assert blobs.get(SHA256) == DATA
    assert list(blobs) == [Blob(SHA256, len(DATA))]


@pytest.fixture
def age(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`age(seconds)`: so long passes for what is there."""

    def pass_by(seconds: float) -> None:
        if isinstance(blobs, FileBlobs):
            for path in blobs.folder.glob("*/*"):
                os.utime(path, (time.time() - seconds,) * 2)
        else:
            # What the server says it is cannot be set; what is put from now on is young again.
            later = datetime.now(UTC) + timedelta(seconds=seconds)
            known: dict[datetime, float] = {}
            monkeypatch.setattr(s3, "_age_s", lambda at: known.setdefault(at, (later - at).total_seconds()))

    return pass_by


def test_age_counts_from_the_last_put(blobs: BlobStore, age: Callable[[float], None]) -> None:
    blobs.put(DATA)
    assert list(blobs.older_than(3600.0)) == []
    assert not blobs.delete(SHA256, older_than_s=3600.0)
    age(7200.0)
    assert list(blobs.older_than(3600.0)) == [Blob(SHA256, len(DATA))]
    assert blobs.delete(SHA256, older_than_s=3600.0)
    assert list(blobs) == []


def test_put_again_saves_an_old_blob_from_being_collected(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    blobs.put(DATA)
    path = tmp_path / SHA256[:2] / SHA256[2:]
    os.utime(path, (0.0, 0.0))
    (old,) = blobs.older_than(3600.0)
    blobs.put(DATA)
    assert not blobs.delete(old.sha256, older_than_s=3600.0)
    assert blobs.get(SHA256) == DATA


def test_put_again_on_s3_renews_what_is_old(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = S3Blobs("doseeng", "renewed", s3_endpoint)
    client, written = s3._client(s3_endpoint), []
    put = client.put_object
    monkeypatch.setattr(client, "put_object", lambda **asked: written.append(asked["Key"]) or put(**asked))
    for age_s in (0.0, 60.0, 2 * s3.RENEW_S):
        monkeypatch.setattr(s3, "_age_s", lambda at, age_s=age_s: age_s)
        blobs.put(DATA)
    assert len(written) == 2


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    blobs.put(DATA)
    left, growing = tmp_path / INCOMING / "left", tmp_path / INCOMING / "growing"
    for path in (left, growing):
        path.write_bytes(b"half")
    os.utime(left, (0.0, 0.0))
    assert list(blobs.older_than(0.0)) == [Blob(SHA256, len(DATA))]
    assert (left.exists(), growing.exists()) == (False, True)


def _no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = FileBlobs(tmp_path / "blobs")
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", _no_space)
        with pytest.raises(StorageUnavailable, match=r"No space left.*: a blob of 4000 bytes .*blobs; .*make space"):
            blobs.put(DATA)
    assert [path for path in blobs.folder.rglob("*") if path.is_file()] == []
    blobs.put(DATA)
    assert blobs.get(SHA256) == DATA


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    blobs = FileBlobs(small_disk / "north")
    blobs.put(DATA)
    with pytest.raises(StorageUnavailable, match="No space left"):
        blobs.put(os.urandom(1 << 20))
    assert list(blobs) == [Blob(SHA256, len(DATA))]
    assert list((blobs.folder / INCOMING).iterdir()) == []
    blobs.put(os.urandom(64 << 10))


@pytest.fixture
def file_limit() -> Iterator[int]:
    """Largest file of this process: the kernel refuses to write beyond it, half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way(tmp_path: Path, file_limit: int) -> None:
    with pytest.raises(StorageUnavailable, match="a blob of 1048576 bytes cannot be written"):
        FileBlobs(tmp_path).put(bytes(1 << 20))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    FileBlobs(tmp_path).put(bytes(file_limit))


def test_a_server_that_is_not_there_is_no_fault_of_the_job(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "CONNECT_S", 1)
    away = S3Blobs("doseeng", "north", "http://127.0.0.1:9")
    with pytest.raises(StorageUnavailable, match=r"cannot be asked .*check storage.endpoint"):
        away.get(SHA256)
    with pytest.raises(StorageUnavailable, match=r"refused \(NoSuchBucket\)"):
        S3Blobs("elsewhere", "north", s3_endpoint).put(DATA)


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "/folder"])
def test_other_places_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no place for blobs"):
        open_blobs(ServiceConfig(storage={"url": url}), "local")  # type: ignore[arg-type]
