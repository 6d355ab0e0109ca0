"""A network of one's own file is trained, evaluated, exported and asked, or refused before a run is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from whole_path import QUICK, furthest, generated, whole_path

import medvit
from medvit.config_targets import trust_only
from medvit.errors import MedvitError
from medvit.optim.strategy import Full
from medvit.train import _title

SOURCE = '''
from torch import nn

class Mine(nn.Module):
    """A small network whose forward may do what a backbone must not: `fault`."""

    def __init__(self, width=12, fault=""):
        super().__init__()
        self.stem, self.fault = nn.Conv2d(1, width, 8, stride=8), fault
        self.stages = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.fc = nn.Linear(width, 4)

    def forward(self, x):
        x = self.stem(x - x.mean(dim=0, keepdim=True) if self.fault == "mixes" else x).relu()
        for stage in self.stages:
            x = x + stage(x).relu()
        if self.fault == "size" and x.sum() > 0:  # torch.export cannot follow this
            x = 2 * x
        return self.fc(x.mean((2, 3))) if self.fault == "classifier" else x
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "networks_of_mine.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def asked(**more: Any) -> dict[str, Any]:
        network = {"_target_": "networks_of_mine.Mine", "width": 16, **more}
        own = {"model": "custom", "model.network": network, "model.image_size": [64, 64]}
        return {**generated(tmp_path, "films"), **own, "labels.target": ["finding"]}

    yield asked
    trust_only([])


TRUST = {"trust": ["networks_of_mine.Mine"]}


def test_a_network_nobody_trusts_is_not_called(mine: Any, tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match=r"add trust=\[networks_of_mine.Mine\] to the command line"):
        medvit.train(**QUICK, **mine(), **{"tracking.folder": str(tmp_path / "runs")})


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("mixes", "one image of a batch changes the output of another"),
        ("classifier", "may be the scores of the network's own classifier"),
        ("size", "could be trained and never exported"),
    ],
)
def test_a_network_that_cannot_serve_is_refused_before_a_run_is_opened(
    fault: str, said: str, mine: Any, tmp_path: Path
) -> None:
    settings = {**QUICK, **mine(fault=fault), **TRUST, "tracking.folder": str(tmp_path / "runs")}
    with pytest.raises(MedvitError, match=said):
        medvit.train(**settings)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("network", "named"),
    [({"_target_": "networks_of_mine.Mine"}, "Mine"), ({"out_channels": 4}, "monai_bundle"), (None, "monai_bundle")],
)
def test_a_run_is_called_by_the_network_it_trains_also_where_only_arguments_of_a_bundle_are_given(
    network: Any, named: str
) -> None:
    model = {"_target_": "medvit.model.custom.monai_bundle.monai_bundle", "network": network}
    settings = {"data": {"name": "cxr", "fold": 2}, "model": model, "seed": 1}
    assert _title(settings, Full()) == f"cxr {named} Full fold 2 seed 1"


@pytest.mark.slow
def test_a_network_of_ones_own_goes_the_whole_path_and_its_run_starts_another(
    mine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("evaluate", "export", "register"):  # trust counts in the words of each command
        plain = getattr(medvit, command)
        monkeypatch.setattr(medvit, command, lambda *a, _plain=plain, **k: _plain(*a, **k, **TRUST))
    asked = {**mine(), **TRUST, "model.blocks": "stages"}
    tested, said = whole_path(tmp_path, asked, tmp_path / "films" / "raw" / "dicom", register=True)
    assert furthest(tested, said) < 3e-5
    (first,) = {path.parent for path in (tmp_path / "runs").glob("*/architecture.json")}
    again = {**asked, "model.weights": str(first), "optim": "llrd", "tracking.folder": str(tmp_path / "runs")}
    second = medvit.train(**QUICK, **again)
    assert '"family": "Mine"' in (second.folder / "weights.json").read_text(encoding="utf-8")
