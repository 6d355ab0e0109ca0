"""Read one delimited text file (CSV, TSV): encoding and delimiter are sniffed, ragged rows refused (B121)."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medvit.errors import DataError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls


def read(path: Path, header: Sequence[str]) -> tuple[pd.DataFrame, list[str], bool]:
    """Return the rows as text, what was assumed to read them, and whether numbers may have a decimal comma.

    `header`: the column names of a file without a header line. Of columns with one name each gets a number.

    Raises:
        DataError: the file cannot be read, is empty or a workbook, or rows are longer than the header.
    """
    text, encoding = _text(path)
    delimiter = _delimiter(text)
    names, notes = _widths(text, delimiter, header)
    try:
        rows = pd.read_csv(
            io.StringIO(text),
            sep=delimiter,
            dtype=str,
            keep_default_na=False,
            na_values=list(MISSING),
            skipinitialspace=True,
            header=None,
            names=range(len(names)),
            usecols=range(len(names)),  # empty cells beyond the header move no column
        )
    except pd.errors.ParserError as error:
        raise DataError(
            f"labels.csv is no table with {delimiter!r} between its columns: a quote is not closed"
        ) from error
    rows = rows.dropna(how="all").iloc[0 if header else 1 :].set_axis(names, axis=1).reset_index(drop=True)
    rows = rows.apply(lambda column: column.str.strip())
    ends = "CRLF" if "\r\n" in text else "LF"
    told = f"{len(rows)} rows, {encoding}, {delimiter!r} between columns, {ends} line ends"
    return rows, [told, *notes], delimiter == ";"


def _text(path: Path) -> tuple[str, str]:
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "damaged gzip file"
        raise DataError(f"labels.csv cannot be read ({reason}); check the path") from error
    if raw.startswith(_WORKBOOKS):
        raise DataError("labels.csv is a workbook or zip file, not text; open it and save the sheet as CSV")
    text, encoding = _decode(raw)
    if not text.strip():
        raise DataError("labels.csv is empty; check the path")
    return text, encoding


def _decode(raw: bytes) -> tuple[str, str]:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16"), "UTF-16"
    try:
        return raw.decode("utf-8-sig"), "UTF-8 with BOM" if raw.startswith(b"\xef\xbb\xbf") else "UTF-8"
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace"), "Windows-1252 (it is no UTF-8)"


def _delimiter(text: str) -> str:
    """Return the candidate that cuts the first rows, or else the header, into equally many columns; the most win."""
    lines = text.splitlines()[:20]
    widths = {sep: [len(row) for row in csv.reader(lines, delimiter=sep) if row] for sep in ",;\t|"}
    even = {sep: found[0] for sep, found in widths.items() if len(set(found)) == 1 and found[0] > 1}
    columns = even or {sep: found[0] for sep, found in widths.items()}
    return max(columns, key=lambda sep: columns[sep])


def _widths(text: str, delimiter: str, header: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the column names and notes; rows may end early, or late with nothing in the cells beyond."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    filled = (row for row in reader if any(cell.strip() for cell in row))
    try:
        first = next(filled)
        width, short = len(first), 0
        long = [reader.line_num] if header and width != len(header) else []
        for row in filled:
            short += len(row) < width
            long += [reader.line_num] if any(cell.strip() for cell in row[width:]) else []
    except csv.Error as error:
        raise DataError(f"labels.csv is no table with {delimiter!r} between its columns ({error})") from error
    if header and width != len(header):
        raise DataError(f"labels.csv has {width} columns, and labels.header names {len(header)}")
    if long:
        lines = ", ".join(str(number) for number in long[:10])
        raise DataError(
            f"labels.csv: {len(long)} rows are longer than the header of {width} columns, by {delimiter!r} between "
            f"columns (line {lines}); quote values that hold {delimiter!r}, or correct the header"
        )
    names = [str(name).strip() for name in header or first]
    notes = [f"{short} rows end early; their last columns are taken as empty"] * bool(short)
    twice = sorted(name for name, number in Counter(names).items() if number > 1 and name)
    notes += [f"several columns are called {name}: they are {name}.1, {name}.2, ..." for name in twice]
    seen: Counter[str] = Counter()
    for place, name in enumerate(names):
        seen[name] += 1
        names[place] = f"{name}.{seen[name]}" if name in twice else name or f"column {place + 1}"
    return names, notes
