"""A run's rows on disk: each file appears whole or not at all."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow.parquet import ParquetFile

from problems.files import write_whole


class Store:
    """The folder of one run: run.json, cells/NNNN.parquet and curves/NNNN.parquet, report/."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def report(self) -> Path:
        """Where the report lies."""
        return self.directory / "report"

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.directory / "run.json").exists()

    @property
    def is_taken(self) -> bool:
        """Whether there is anything here that a new run's rows could be mixed up with."""
        return self.directory.exists() and (not self.directory.is_dir() or any(self.directory.iterdir()))

    @property
    def holds_cells(self) -> bool:
        """Whether any cell was finished."""
        return bool(self._cells())

    def create(self, run: dict[str, Any]) -> None:
        """Begin a run; OSError where the folder cannot be written. A study's rows have no curves."""
        is_study = "study" in run.get("experiment", {})
        for name in ("cells",) if is_study else ("cells", "curves"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.write_run(run)

    def write_run(self, run: dict[str, Any]) -> None:
        """Write run.json anew."""
        text = json.dumps(run, indent=2, ensure_ascii=False) + "\n"
        write_whole(self.directory / "run.json", lambda path: path.write_text(text, encoding="utf-8"))

    def read_run(self) -> dict[str, Any]:
        """What run.json says; ValueError where there is none or it is damaged."""
        path = self.directory / "run.json"
        if not path.is_file():
            raise ValueError(f"{self.directory} holds no run: there is no run.json in it")
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        if not isinstance(run, dict) or not isinstance(run.get("experiment"), dict):
            raise ValueError(f"{path} is damaged: it names no experiment")
        return run

    def has_cell(self, index: int) -> bool:
        """Whether cell `index` was finished."""
        return self._path("cells", index).exists()

    def has_succeeded(self, index: int) -> bool:
        """Whether cell `index` was finished and did not fail: one that did is tried again on resuming."""
        return self.has_cell(index) and not failures(_read(self._path("cells", index))).any()

    def write_cell(self, index: int, cell: dict[str, Any], curve: pd.DataFrame) -> None:
        """Keep a finished cell. Its curve goes first: a cell that is there has its curve."""
        self._write("curves", index, curve)
        self.write_rows(index, pd.DataFrame([cell]))

    def write_rows(self, index: int, rows: pd.DataFrame) -> None:
        """Keep a finished cell of a study: as many rows as it measured."""
        self._write("cells", index, rows)

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """All cells and the curves of those cells; ValueError where there are none."""
        cells = self.read_rows()
        curves = [_read(self.directory / "curves" / path.name) for path in self._cells()]
        return cells, pd.concat(curves, ignore_index=True)

    def read_rows(self) -> pd.DataFrame:
        """The rows of all cells, in the plan's order; ValueError where there are none."""
        paths = self._cells()
        if not paths:
            raise ValueError(f"{self.directory} holds no finished cells")
        return pd.concat([_read(path) for path in paths], ignore_index=True)

    def _write(self, kind: str, index: int, rows: pd.DataFrame) -> None:
        path = self._path(kind, index)
        try:
            write_whole(path, lambda file: rows.to_parquet(file, index=False))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise OSError(
                f"{path} cannot be written ({reason}): the cells before it are kept; make room, and go on "
                f"with --out {shlex.quote(str(self.directory))} --resume"
            ) from error

    def _cells(self) -> list[Path]:
        return sorted((self.directory / "cells").glob("[0-9]*.parquet"))

    def _path(self, kind: str, index: int) -> Path:
        return self.directory / kind / f"{index:04d}.parquet"


def failures(rows: pd.DataFrame) -> pd.Series:
    """Which of the rows, a study's or not, say that their cell failed."""
    return rows["failure"].fillna("") != "" if "failure" in rows else rows["status"] == "failed"


def _read(path: Path) -> pd.DataFrame:
    # Without arrow's threads, which `pandas.read_parquet` starts: on a busy machine a process that has them
    # may abort when it ends ("terminate called without an active exception").
    with ParquetFile(path, pre_buffer=False) as file:
        return file.read(use_threads=False).to_pandas(use_threads=False)
