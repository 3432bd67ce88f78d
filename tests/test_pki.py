import datetime as dt
import ipaddress
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.pki import make_authority, make_site, public_keys


def fedmoap(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "deploy.cli", *arguments], capture_output=True, text=True, timeout=120)


def test_the_server_s_certificate_is_the_authority_s_and_has_its_names(tmp_path: Path) -> None:
    """TLS libraries accept the chain; the hosts given, localhost and 127.0.0.1 are in it, and it signs no others."""
    make_authority(tmp_path, ["superlink.example.org", "10.1.2.3"])
    context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    authority, server = (
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes()) for name in ("ca.crt", "server.crt")
    )
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["superlink.example.org", "localhost"]
    addresses = names.get_values_for_type(x509.IPAddress)
    assert addresses == [ipaddress.ip_address("10.1.2.3"), ipaddress.ip_address("127.0.0.1")]
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert server.not_valid_after_utc - dt.datetime.now(dt.UTC) > dt.timedelta(days=800)


def test_private_keys_are_their_owner_s_alone(tmp_path: Path) -> None:
    """Every private key is 0600, everything else may be read, and nothing half-written is left."""
    make_authority(tmp_path / "pki", ["a.example"])
    make_site(tmp_path / "pki", "hospital-a")
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "pki").rglob("*") if path.is_file()}
    private, public = {"ca.key", "server.key", "hospital-a"}, {"ca.crt", "server.crt", "hospital-a.pub"}
    assert files == dict.fromkeys(private, 0o600) | dict.fromkeys(public, 0o644)


def test_a_site_s_keys_are_what_flower_reads(tmp_path: Path) -> None:
    """P-384 in OpenSSH's format, the public key that of the private one, under the site's name."""
    private, public = make_site(tmp_path, "hospital-a")
    key = serialization.load_ssh_private_key(private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp384r1"
    assert serialization.load_ssh_public_key(public.read_bytes()) == key.public_key()
    assert public_keys(tmp_path) == public_keys(tmp_path, ["hospital-a"]) == {"hospital-a": public}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init", "--host", "https://a"], "'https://a': neither a host name nor an address"),
        (["site", "../ward"], "site name '../ward'"),
        (["site", "hospital-b.pub"], "site name 'hospital-b.pub': must not end in .pub"),
        (["site", "hospital-a"], "hospital-a: is there already"),
        (["register", "clinic", "hospital-b"], "no public key of 'hospital-b'; there is: hospital-a"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    """A bad host or name, or keys that are there, end in one line and status 1, and change nothing."""
    make_site(tmp_path, "hospital-a")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = fedmoap("pki", *arguments, "--out", str(tmp_path))
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_authority_is_never_overwritten(tmp_path: Path) -> None:
    """A second `pki init` into the same folder is refused, since every site trusts the first."""
    make_authority(tmp_path, ["a.example"])
    with pytest.raises(ValueError, match=r"ca\.key: is there already"):
        make_authority(tmp_path, ["a.example"])
