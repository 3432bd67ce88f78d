"""A trial on one machine, without TLS and keys, of a method that needs to know each site's domain."""

import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from common.record import Record
from tests.deployment import PATIENCE, Deployment, of_sites
from tests.test_deployment import pictures_of

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]
SITES = {"alpha": "photo", "beta": "sketch"}


def test_fedapt_on_sites_without_tls(settings: dict[str, Any], tmp_path: Path) -> None:
    """Sites that state their domain train FedAPT, and all ends of an insecure federation say what it is."""
    own = of_sites(settings, tmp_path, len(SITES)) | {"method": "fedapt", "fedapt.context-tokens": 4, "rounds": 1}
    deployment = Deployment(tmp_path / "real", own, insecure=True)
    out = tmp_path / "run"
    try:
        deployment.superlink()
        for number, (site, domain) in enumerate(SITES.items()):
            pictures_of(tmp_path / site, number)
            deployment.site(site, tmp_path / site, f"--domain={domain}")
        run = deployment.start("run", [sys.executable, "-m", "deploy.cli", *deployment.run_command(out)])
        assert run.wait(PATIENCE) == 0, deployment.said("run")
    finally:
        left = deployment.stop()
    assert not left
    record = Record.load(out)
    assert record.finished
    assert {client.name: client.domain for client in record.clients} == SITES
    assert {entry.client for entry in record.rounds[-1].trained} == set(SITES)
    assert load_file(out / "checkpoint.safetensors")["keys"].shape[:2] == (len(SITES), 4)
    assert "WARNING: real is insecure" in deployment.said("run")
    assert all("WARNING: --insecure" in deployment.said(f"site-{site}") for site in SITES)
