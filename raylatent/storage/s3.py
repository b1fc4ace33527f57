"""Amazon's object store, and others that speak its protocol."""

import os

import pyarrow.fs as pafs

# pyarrow's 3 s are few for a busy store; without any answer an attempt ends after this.
_ANSWER_S = 20.0
_CONNECT_S = 5.0
_ATTEMPTS = 5


def s3_filesystem(bucket: str) -> pafs.FileSystem:
    """The file system of a bucket, as the environment's AWS variables say.

    Small objects are stored by one PUT, instead of an upload of one part.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get(
        "AWS_ENDPOINT_URL", ""
    )
    scheme, _, host = endpoint.rstrip("/").rpartition("://")
    return pafs.S3FileSystem(
        scheme=scheme or "https",
        endpoint_override=host or None,
        region=None if host else pafs.resolve_s3_region(bucket),
        request_timeout=_ANSWER_S,
        connect_timeout=_CONNECT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,
    )
