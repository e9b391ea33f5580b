"""The HTTP API: versioned, described by OpenAPI, errors as problem details."""
