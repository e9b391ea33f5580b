"""The blob store that the configuration asks for."""

from __future__ import annotations

from cluster.service.config import ServiceConfig
from cluster.storage.blobs import BlobStore
from cluster.storage.files import FileBlobs
from doseeng.errors import ConfigError


def open_blobs(config: ServiceConfig, site: str) -> BlobStore:
    """The blobs of one site: below data_dir, or on S3. ConfigError for a site that is not
    configured, a URL that is none of these, or S3 where 'doseeng[s3]' is not installed."""
    name = config.site_named(site).name
    url = config.storage.url
    if not url:
        return FileBlobs(config.data / "blobs" / name)
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ConfigError(f"storage.url '{url}' is no place for blobs; expected s3://BUCKET/PREFIX, or '' for data_dir")
    try:
        from cluster.storage.s3 import S3Blobs
    except ModuleNotFoundError as error:
        raise ConfigError("storage.url names S3, but boto3 is not installed; install 'doseeng[s3]'") from error
    return S3Blobs(bucket, "/".join(part for part in (prefix.strip("/"), name) if part), config.storage.endpoint)
