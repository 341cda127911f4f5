"""Policy: the bits of every layer, and its JSON form `policy.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from haqnas.errors import ConfigurationError
from haqnas.quantspec import QuantSpec
from haqnas.space.document import read_document

SCHEMA = 1


@dataclass(frozen=True)
class Policy:
    """Bits by layer name; a layer that is not named gets `default`."""

    default: QuantSpec
    layers: Mapping[str, QuantSpec] = field(default_factory=lambda: MappingProxyType({}))

    def spec_of(self, layer: str) -> QuantSpec:
        return self.layers.get(layer, self.default)

    def check_layers(self, known: list[str]) -> None:
        """Raise ConfigurationError when the policy names a layer that the model does not have."""
        unknown = sorted(set(self.layers) - set(known))
        if unknown:
            raise ConfigurationError(
                f"the policy names layers that the model does not have: {', '.join(unknown)}; "
                f"its layers are {', '.join(known)}"
            )

    def to_json(self) -> str:
        document = {
            "schema": SCHEMA,
            "default": str(self.default),
            "layers": {name: str(spec) for name, spec in sorted(self.layers.items())},
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "policy") -> Self:
        """Inverse of `to_json`; raises ConfigurationError that names `source`."""
        document = read_document(text, SCHEMA, source)
        unknown = sorted(set(document) - {"schema", "default", "layers"})
        layers = document.get("layers", {})
        if unknown or not isinstance(layers, dict):
            raise ConfigurationError(
                f'{source} has the keys "schema", "default" (such as "w8a8") and "layers" '
                f"(an object of layer name to bits), but got {', '.join(sorted(document))}"
            )

        def spec(value: Any, place: str) -> QuantSpec:
            if not isinstance(value, str):
                raise ConfigurationError(f"{source}: {place} must be text such as w4a8, but got {value!r}")
            try:
                return QuantSpec.parse(value)
            except ConfigurationError as error:
                raise ConfigurationError(f"{source}: {place}: {error}") from None

        return cls(
            spec(document.get("default", "w8a8"), "default"),
            MappingProxyType({str(name): spec(value, f"layer {name!r}") for name, value in layers.items()}),
        )
