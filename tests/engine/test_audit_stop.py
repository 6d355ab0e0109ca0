"""What the data part checks while a run trains, seen from the run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from medvit.dataset import manifest as manifests
from medvit.dataset import splits
from medvit.errors import CacheError


def test_training_stops_when_a_cached_pixel_is_not_what_its_file_decodes_to(fitted, films: Path) -> None:
    shutil.rmtree(films / "cache", ignore_errors=True)  # of other tests, with other preprocessing
    _, numbers, run = fitted("data.audit_share=1", "trainer.epochs=1", name="whole")
    assert len(numbers) == 1
    table = manifests.read(films)
    victim = splits.read(films, table).rows(table, "train")["uid"].iloc[3]
    (shard,) = (films / "cache").glob("*/shard-000.bin")
    whole = shard.read_bytes()
    pixels = np.frombuffer(bytearray(whole), np.uint8).reshape(-1, 32, 32)
    pixels[:, 16, 16] ^= 1
    shard.write_bytes(pixels.tobytes())
    try:
        with pytest.raises(CacheError, match=r"E-STALE row [0-9a-f]{32}") as caught:
            fitted("data.audit_share=1", name="stale")
    finally:
        shard.write_bytes(whole)
    named = re.findall("[0-9a-f]{32}", str(caught.value))
    assert named[0] in set(table.table["uid"])
    assert victim in set(table.table["uid"])
    assert str(films) not in str(caught.value)
    assert not re.search(r"[.]dcm|/", str(caught.value).replace("input/output", ""))
    assert not (run.parent / "stale" / "validation.parquet").exists()
