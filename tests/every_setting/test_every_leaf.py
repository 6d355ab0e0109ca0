"""No leaf of conf/ is forgotten: each is changed by a test of this folder or read by a command with own tests."""

from __future__ import annotations

import sys

import pytest
from every_setting import test_commands, test_training
from every_setting.leaves import GROUPS, SHARED, words

READ = (
    "crossval",
    "evaluate",
    "compare",
    "export",
    "register",
    "predict",
    "pretrain",
    "embed",
    "curve",
    "search",
    "sync",
)  # tests/tracking/test_mirror.py changes those of sync; of the others runs and bundles take too long to change each
OF_RUNS = {  # what `fit` has no part in: tests/test_train.py, test_config.py, test_weights.py
    *("trust", "resume", "extend", "data.name", "data.generate", "optim.plan", "weights.accept_licence"),
    "data.set",  # of a preset, in the paths of its table and folder
}


def test_every_leaf_of_conf_is_a_setting_that_a_test_changes(capsys: pytest.CaptureFixture[str]) -> None:
    trained = {each for cases in test_training.cases().values() for each in cases}
    of_commands = {each for name in test_commands.COMMANDS for each in test_commands.settings_of(name)}
    keys = {each.key for each in trained | of_commands} | OF_RUNS | test_training.ELSEWHERE
    count, settings, read, forgotten = 0, set(), set(), []
    for group in ("", *GROUPS, *SHARED):
        for word, own in words(group).items():
            for setting in own:
                count += 1
                settings.add(setting)
                if (
                    (not group and word in READ)
                    or setting.key.partition(".")[0] in test_training.OF_OTHERS
                    or f"{group}/{word}" in test_training.OF_LIBRARIES
                    or setting.target.startswith("medvit.phantom")
                ):
                    read.add(setting)
                elif setting not in trained | of_commands and not keys & {setting.key, *_above(setting.key)}:
                    forgotten.append(f"{group}/{word}: {setting}")
    assert forgotten == []
    told = f"{count} leaves of conf/ are {len(settings)} settings: {len(trained)} changed in a training, "
    with capsys.disabled():
        sys.stdout.write(f"\n{told}{len(of_commands)} in {', '.join(test_commands.COMMANDS)}, {len(read)} read\n")


def _above(key: str) -> list[str]:
    return [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
