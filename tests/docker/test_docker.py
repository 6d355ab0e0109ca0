from __future__ import annotations

import re
from pathlib import Path

import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"


def test_no_port_is_open_to_the_outside() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_every_service_drops_its_rights_and_training_has_no_network() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
    assert services["train"]["network_mode"] == "none"


def test_both_images_run_as_an_ordinary_user() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    named = {stage.split(" AS ")[1].split()[0]: stage for stage in stages}
    for target in ("cpu", "gpu"):
        assert named[target].startswith("runtime ")
        assert "USER" not in named[target]
    assert re.search(r"^USER (\d+)$", named["runtime"], re.MULTILINE).group(1) != "0"
