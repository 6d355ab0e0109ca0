"""The tiny network and its bundle of tests/bundle, on films, volumes and bags of slices."""

from __future__ import annotations

from bundle.conftest import bundle, contents, facts, films, trained  # noqa: F401
