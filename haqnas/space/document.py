"""JSON documents with a schema number, as policies and architectures are kept."""

import json
from typing import Any

from haqnas.errors import ConfigurationError


def read_document(text: str, schema: int, source: str) -> dict[str, Any]:
    """The object of a JSON text; raises ConfigurationError that names `source` for another schema, or no object."""
    try:
        document: Any = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{source} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != schema:
        raise ConfigurationError(f'{source} must be an object with "schema": {schema}')
    return document
