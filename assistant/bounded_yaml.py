"""YAML within limits: PyYAML takes time that grows with the square of how deep brackets are nested."""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 100  # brackets in brackets


class BoundedLoader(yaml.SafeLoader):
    """Raises `yaml.MarkedYAMLError` for brackets that are nested deeper than `DEEPEST`."""

    def fetch_flow_collection_start(self, token: Any) -> None:  # noqa: ANN401 (PyYAML's protocol)
        """One bracket more."""
        if self.flow_level >= DEEPEST:
            raise yaml.scanner.ScannerError(None, None, "too deeply nested", self.get_mark())
        super().fetch_flow_collection_start(token)
