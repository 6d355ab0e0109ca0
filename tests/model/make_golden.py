"""Write `golden/`: what the reference libraries make of checkpoints that `golden.py` can fill again anywhere.

Run where the libraries are: `python tests/model/make_golden.py`. Stored are the names and shapes of every tensor, the
config, and the reference's output for one image; no weights. What cannot be built in this environment is kept (Primus
needs timm < 1.0.23 and so an environment of its own).
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("reference_models", HERE / "reference_models.py")
assert _spec is not None
assert _spec.loader is not None
references = importlib.util.module_from_spec(_spec)
sys.modules["reference_models"] = references
_spec.loader.exec_module(references)
golden = references.golden


def main() -> None:
    folder = HERE / "golden"
    checkpoints = json.loads((folder / "checkpoints.json").read_text()) if folder.is_dir() else {"versions": {}}
    outputs = load_file(folder / "outputs.safetensors") if folder.is_dir() else {}
    checkpoints["versions"] |= {
        name: version(name) for name in references.LIBRARIES if find_spec(name.removesuffix("_torch"))
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, build in references.BUILD.items():
            if not references.available(name):
                sys.stderr.write(f"kept as it was, its library is not here: {name}\n")
                continue
            reference = build(Path(scratch) / name.replace(" ", "_").replace(",", ""))
            with safe_open(reference.folder / "model.safetensors", "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                names = json.loads((file.metadata() or {}).get("names", "{}"))
            shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
            again = golden.fill(shapes, names)
            if any(not torch.equal(again[key], tensor) for key, tensor in tensors.items() if "rope" not in key):
                sys.stderr.write(f"not stored, its tensors are made of others: {name}\n")
                continue
            sizes = [list(reference.image_size)] + ([[48, 40]] if name in references.RESIZED else [])
            checkpoints[name] = {
                "config": json.loads((reference.folder / "config.json").read_text()),
                "shapes": shapes,
                "names": names,
                "what": reference.what,
                "channels": reference.channels,
                "sizes": sizes,
            }
            for size in sizes:
                image = golden.values("image", (1, reference.channels, *size))
                with torch.no_grad():
                    outputs[f"{name}|{size}"] = reference.run(image).contiguous()
    folder.mkdir(exist_ok=True)
    save_file(outputs, folder / "outputs.safetensors")
    (folder / "checkpoints.json").write_text(json.dumps(checkpoints, separators=(",", ":")))


if __name__ == "__main__":
    main()
