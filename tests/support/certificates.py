"""Certificates for one test run: made by openssl in a temporary folder, valid for two days, trusted by nobody else."""

import shutil
import subprocess
from pathlib import Path

from deploy.native.process import HOST, NotInstalled
from deploy.native.tls import Identity


class Authority:
    """Signs certificates; all its files lie in `folder`. Raises `NotInstalled` where there is no openssl."""

    def __init__(self, folder: Path, name: str = "Plant authority") -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        _make(self.certificate, self._key, name, extensions)

    @property
    def certificate(self) -> Path:
        return self._folder / "authority.pem"

    def issue(self, name: str) -> Identity:
        """For a server of this machine, or for a client whose common name is `name`."""
        identity = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key", self.certificate)
        extensions = (f"subjectAltName=IP:{HOST},DNS:localhost", "basicConstraints=critical,CA:FALSE")
        signer = ("-CA", str(self.certificate), "-CAkey", str(self._key))
        _make(identity.certificate, identity.key, name, extensions, signer)
        return identity

    @property
    def _key(self) -> Path:
        return self._folder / "authority.key"


def _make(certificate: Path, key: Path, name: str, extensions: tuple[str, ...], signer: tuple[str, ...] = ()) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        raise NotInstalled("certificates are made by openssl, and there is none: apt-get install openssl")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2", "-subj", f"/CN={name}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    added = [word for extension in extensions for word in ("-addext", extension)]
    made = subprocess.run(
        [openssl, "req", "-x509", *new, *files, *added, *signer], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
