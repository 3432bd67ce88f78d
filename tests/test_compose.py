"""What the containers' files promise, as far as it can be read: tests/test_docker.py tries it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
SITES = {name for name, service in COMPOSE["services"].items() if "SITE" in service["environment"]}


def test_networks_lead_nowhere() -> None:
    """No network leads out, none has an address of this machine, and no port of a container is this machine's."""
    for network in COMPOSE["networks"].values():
        assert network["internal"] is True
        assert network["driver_opts"]["com.docker.network.bridge.inhibit_ipv4"] == "true"
    assert not any({"ports", "network_mode", "extra_hosts"} & set(service) for service in COMPOSE["services"].values())


@pytest.mark.parametrize("site", sorted(SITES))
def test_a_site_has_its_own(site: str) -> None:
    """A site is on the sites' network alone, and nobody else has its volume."""
    service = COMPOSE["services"][site]
    assert service["environment"]["SITE"] == site
    assert service["networks"] == ["federation"]
    assert service["volumes"] == [f"{site}:/site", "notices:/notices"]
    holders = [name for name, other in COMPOSE["services"].items() if f"{site}:/site" in other["volumes"]]
    assert holders == [site]


def test_compose_versions_agree() -> None:
    """Only top-level keys that docker-compose 1.29 and Compose v2 both know, and no `version`, which v2 warns about."""
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"services", "networks", "volumes"}
    assert len(SITES) == 3


def test_the_build_sees_what_it_needs() -> None:
    """The build's context is the packages and what describes them: no environment, no run, no repository."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert {"common", "server", "client", "deploy", "pyproject.toml"} <= let_in
    assert all((ROOT / name).exists() for name in let_in)
