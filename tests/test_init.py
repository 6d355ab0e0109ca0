"""`medvit init NAME`: a project whose README works as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import inputs
import pytest

from medvit.errors import ConfigError
from medvit.init import init, main


def test_a_project_has_a_recipe_a_readme_and_keeps_data_out_of_version_control(tmp_path: Path) -> None:
    folder = init("knees", tmp_path)
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == {"my_conf/experiment/knees.yaml", "README.md", ".gitignore"}
    assert {"work/", "runs/", "*.dcm"} <= set((folder / ".gitignore").read_text().splitlines())


def test_a_folder_that_is_there_is_left_alone_and_odd_names_are_answered_with_a_right_one(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="mine is there already; nothing was changed"):
        init("mine", tmp_path)
    assert list((tmp_path / "mine").iterdir()) == []
    with pytest.raises(ConfigError, match="such as klinik_s_d"):
        init("Klinik Süd", tmp_path)
    assert main(["../x"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["films", "pictures"])
def test_the_commands_of_the_readme_run_as_they_stand(kind: str, tmp_path: Path) -> None:
    folder = init("mine", tmp_path)
    inputs.KINDS[kind](folder)
    labels, images = folder / "labels.csv", {"films": "films", "pictures": "png"}[kind]
    labels.write_text(labels.read_text().replace("normal", "negative").replace(",opacity", ",positive"))
    recipe = folder / "my_conf" / "experiment" / "mine.yaml"
    small = "model: {image_size: [64, 64], depth: 1}\n"
    recipe.write_text(recipe.read_text().replace("epochs: 30", "epochs: 1") + small)
    readme = (folder / "README.md").read_text()
    block, on_path = re.search(r"```bash\n(.*?)```", readme, re.DOTALL), re.search(r"`(labels\.on=path .*?)`", readme)
    assert block
    assert on_path
    more = {
        "index": shlex.split(on_path[1]) if kind == "pictures" else [],
        "evaluate": ["bootstrap.draws=100", *(f"sections.{s}=false" for s in ("robustness", "ood", "explain"))],
        "export": ["acceptance={age_years: null}"],
    }
    for line in block[1].splitlines():
        words = shlex.split(line.replace("NEW_IMAGES", images).replace("IMAGES", images))
        command = [sys.executable, "-m", *words, *more.get(words[1], [])]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr[-2000:])
    assert (folder / "work" / "predictions" / "predictions.csv").is_file()
