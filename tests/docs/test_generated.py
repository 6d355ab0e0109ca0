"""What is generated out of conf/ for the site: every setting, with what its comment says."""

from __future__ import annotations

from pathlib import Path

import generated
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    file for file in sorted((ROOT / "conf").rglob("*.yaml")) if file.parent.name not in ("experiment", "search_space")
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT / "conf").as_posix())
def test_every_setting_is_explained_somewhere_in_conf(file: Path) -> None:
    group = file.stem if file.parent.name == "conf" else file.parent.name
    settings = generated.settings_of(file)
    assert [one.name for one in settings if one.value and not generated.explanation(one, group)] == []


def test_the_page_has_every_setting_of_every_command_and_group() -> None:
    page = generated.settings_page()
    for file in FILES:
        prefix = f"{file.parent.name}." if file.parent.name in generated.GROUPS else ""
        if file.parent.name == "data" and file.stem != "folder":
            continue  # presets are on the page of recipes, as they are
        missing = [one.name for one in generated.settings_of(file) if one.value and f"`{prefix}{one.name}`" not in page]
        assert missing == [], file.name


def test_a_comment_that_goes_on_below_its_line_is_read_whole() -> None:
    row = next(row for row in generated.settings_page().splitlines() if row.startswith("| `optim.strategy.cache_gib`"))
    assert "the longest unused make room for new ones" in row


def test_every_command_and_group_of_conf_is_on_the_page() -> None:
    assert {file.stem for file in (ROOT / "conf").glob("*.yaml")} == set(generated.COMMANDS)
    folders = {folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()}
    assert folders == {
        *generated.GROUPS,
        "data",
        "experiment",
        "search_space",
        "evaluation",
    }  # beside it or its commands


def test_every_recipe_and_data_set_says_what_it_is() -> None:
    page = generated.recipes_page()
    for folder in ("experiment", "search_space", "data"):
        for file in (ROOT / "conf" / folder).glob("*.yaml"):
            assert f"### `{folder}={file.stem}`" in page
            assert len(" ".join(generated.head(file))) > 60, file.name
