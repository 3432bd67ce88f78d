"""Keys and certificates of a federation: one authority, the server's certificate, a key pair a site."""

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.atomic import replacing
from common.site_options import SITE_NAME

CA_KEY, CA, SERVER_KEY, SERVER = "ca.key", "ca.crt", "server.key", "server.crt"
SITES = "sites"
PUBLIC = ".pub"
LOCAL_HOSTS = ("localhost", "127.0.0.1")
"""Names that the server's certificate always has, so that commands on the server machine itself reach it."""
DAYS = 825
_PUBLIC_MODE = 0o644


def check_site_name(name: str) -> str:
    """The name, which may stand in file names and messages.

    Raises:
        ValueError: it may not.
    """
    if not re.fullmatch(SITE_NAME, name):
        raise ValueError(f"site name {name!r}: must be letters, digits, '.', '_' and '-', at most 64, no sign first")
    if name.lower().endswith(PUBLIC):
        raise ValueError(f"site name {name!r}: must not end in {PUBLIC}: its private key would pass for a public one")
    return name


def make_authority(folder: Path, hosts: Sequence[str], *, days: int = DAYS) -> list[Path]:
    """Files of a new authority and of the certificate that it gives the server for `hosts`.

    Private keys are readable by their owner alone; nothing that exists is overwritten.

    Raises:
        ValueError: there is an authority in the folder already, or a host is neither a name nor an address.
    """
    if there := [name for name in (CA_KEY, CA, SERVER_KEY, SERVER) if (folder / name).exists()]:
        raise ValueError(f"{folder / there[0]}: is there already; name another --out, or remove the folder first")
    names = [_alternative_name(host) for host in dict.fromkeys((*hosts, *LOCAL_HOSTS))]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedmoap federation CA")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    usage = {"encipher_only": False, "decipher_only": False, "data_encipherment": False}
    usage |= {"content_commitment": False, "key_encipherment": False, "key_agreement": False}
    ca = (
        _certificate(issuer, issuer, ca_key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    server = (
        _certificate(subject, issuer, server_key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **usage), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    return [
        _write(folder / CA_KEY, _private_pem(ca_key)),
        _write(folder / CA, ca.public_bytes(pem), public=True),
        _write(folder / SERVER_KEY, _private_pem(server_key)),
        _write(folder / SERVER, server.public_bytes(pem), public=True),
    ]


def make_site(folder: Path, name: str) -> tuple[Path, Path]:
    """(private key, public key) of a new site, as OpenSSH writes them, which is how Flower reads them.

    Raises:
        ValueError: the name cannot be one, or the site has its keys already.
    """
    private = folder / SITES / check_site_name(name)
    public = private.with_name(name + PUBLIC)
    if private.exists() or public.exists():
        raise ValueError(f"{private}: is there already; remove it and {public.name} first to replace the site's keys")
    private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP384R1())
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return _write(private, secret), _write(public, line + f" {name}\n".encode(), public=True)


def public_keys(folder: Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """Public key file of each of these sites, or of all that the folder holds.

    Raises:
        ValueError: there is none of that name, or none at all.
    """
    found = {path.stem: path for path in sorted((folder / SITES).glob(f"*{PUBLIC}"))}
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{folder / SITES}: no public key of {missing[0]!r}; there is: {', '.join(found) or 'none'}")
    if not found:
        raise ValueError(f"{folder / SITES}: no public keys; `fedmoap pki site NAME` makes them")
    return {name: found[name] for name in names} if names else found


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        labels = host.removesuffix(".").split(".")
        if all(re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", label) for label in labels):
            return x509.DNSName(host)
        raise ValueError(f"--host {host!r}: neither a host name nor an address (without port)") from None


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, *, public: bool = False) -> Path:
    with replacing(path) as beside:
        beside.write_bytes(content)
        if public:
            beside.chmod(_PUBLIC_MODE)
    return path
