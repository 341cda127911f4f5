"""Sensitivities as JSON text: kept between runs, and part of an artefact whose bits were searched."""

import json
from typing import Any

import numpy as np

from haqnas.errors import VerificationError
from haqnas.quantspec import QuantSpec
from haqnas.train.sensitivity import Sensitivity

SCHEMA = 1


def encode_sensitivity(found: Sensitivity) -> bytes:
    """JSON text; inverse of `decode_sensitivity`."""
    document = {
        "schema": SCHEMA,
        "method": found.method,
        "num_samples": found.num_samples,
        "losses": {
            name: {str(spec): loss for spec, loss in row.items()} for name, row in found.losses.items()
        },
        "projected": {
            name: {str(spec): np.float32(values).tolist() for spec, values in row.items()}
            for name, row in found.projected.items()
        },
    }
    return (json.dumps(document) + "\n").encode()


def decode_sensitivity(data: bytes, place: str) -> Sensitivity:
    """Raises VerificationError, which names `place`, for anything that `encode_sensitivity` did not write."""
    try:
        document: Any = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        return Sensitivity(
            method=str(document["method"]),
            num_samples=int(document["num_samples"]),
            losses={
                name: {QuantSpec.parse(spec): float(loss) for spec, loss in row.items()}
                for name, row in document["losses"].items()
            },
            projected={
                name: {QuantSpec.parse(spec): np.array(values, np.float32) for spec, values in row.items()}
                for name, row in document["projected"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"{place} holds no sensitivities: {error}; compile again") from None
