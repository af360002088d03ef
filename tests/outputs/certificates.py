"""Certificates of an authority of our own: right ones, and wrong in every way that a broker or a host can have."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Authority:
    """An authority whose certificate is `ca`."""

    folder: Path
    ca: Path
    _trustme: trustme.CA

    @classmethod
    def make(cls, folder: Path, name: str = "ca") -> Authority:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / f"{name}.pem"))
        return cls(folder, folder / f"{name}.pem", authority)

    def issue(self, host: str, *, expired: bool = False) -> tuple[Path, Path]:
        """Certificate and key for `host`."""
        yesterday = datetime.now(UTC) - timedelta(days=1)
        issued = self._trustme.issue_cert(host, not_after=yesterday if expired else None)
        stem = f"{host}{'-expired' if expired else ''}"
        cert, key = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return cert, key
