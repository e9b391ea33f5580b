"""Where bytes are kept: blobs by digest, in a folder or on S3-compatible storage."""
