"""Index a synthetic folder of many DICOM files: time, peak memory, and what a second run costs.

python benchmarks/index_files.py 100000 [folder]

The files are small (16 x 16 pixels), so this measures the index, not the storage. Memory is that of the main process,
which holds the table; a worker holds 250 headers at a time.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom

from medvit.dataset import indexing, manifest
from medvit.phantom import dicom_objects, films


def generate(root: Path, count: int) -> None:
    """Write `count` objects of count / 4 patients by changing the identifiers of one, in place in its bytes."""
    dataset = dicom_objects.make_dataset(
        films.DX_FOR_PRESENTATION,
        "2.25.1" + "0" * 30,
        {
            "Modality": "DX", "PatientID": "PPPPPPPP", "StudyInstanceUID": "2.25.2" + "0" * 30, "PatientAge": "050Y",
            "SeriesInstanceUID": "2.25.3" + "0" * 30, "AccessionNumber": "AAAAAAAA", "ViewPosition": "PA",
            "StudyDate": "20200101", "Manufacturer": "PHANTOMRAY", "BodyPartExamined": "CHEST", "PatientSex": "F",
        },
    )  # fmt: skip
    dicom_objects.set_pixels(dataset, np.arange(256, dtype=np.uint16).reshape(16, 16), 12, "MONOCHROME2")
    template = root / "template"
    dicom_objects.save(dataset, template)
    bytes_ = template.read_bytes()
    template.unlink()
    for number in range(count):
        if number % 1000 == 0:
            (root / f"{number // 1000:05d}").mkdir()
        text = bytes_.replace(b"PPPPPPPP", f"{number // 4:08d}".encode()).replace(b"AAAAAAAA", f"{number:08d}".encode())
        for prefix in (b"1", b"2", b"3"):
            text = text.replace(b"2.25." + prefix + b"0" * 30, b"2.25." + prefix + f"{number:030d}".encode())
        (root / f"{number // 1000:05d}" / f"{number:08d}").write_bytes(text)


def peak_mib() -> float:
    """Return the peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as place:
        root, out = Path(place) / "root", Path(place) / "out"
        root.mkdir()
        generate(root, count)
        options = indexing.Options.of({"accept": {"min_side": 8}}, 2)
        start_memory = peak_mib()
        for what in ("first index", "second index (nothing changed)"):
            began = time.perf_counter()
            found = indexing.unlabelled(indexing.collect(root, out, options))
            made = manifest.write(indexing.columns(found.images), root, out)
            took = time.perf_counter() - began
            rate, peak = count / took, peak_mib()
            print(f"{what}: {len(made.table)} rows in {took:.1f} s ({rate:.0f} files/s), ", end="")
            print(f"peak {peak:.0f} MiB (of it {start_memory:.0f} before)")
        parts = sum(path.stat().st_size for path in (out / ".scan").iterdir()) / 2**20
        print(f"manifest {(out / manifest.MANIFEST).stat().st_size / 2**20:.1f} MiB, scan parts {parts:.1f} MiB")
        print(f"pydicom {pydicom.__version__}")


if __name__ == "__main__":
    main()
