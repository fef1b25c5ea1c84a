"""A run's rows on disk: each file appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

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

    def create(self, run: dict[str, Any]) -> None:
        """Begin a run; OSError where the folder cannot be written."""
        for name in ("cells", "curves"):
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

    def write_cell(self, index: int, cell: dict[str, Any], curve: pd.DataFrame) -> None:
        """Keep a finished cell. Its curve goes first: a cell that is there has its curve."""
        write_whole(self._path("curves", index), lambda path: curve.to_parquet(path, index=False))
        frame = pd.DataFrame([cell])
        write_whole(self._path("cells", index), lambda path: frame.to_parquet(path, index=False))

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """All cells and the curves of those cells; ValueError where there are none."""
        paths = sorted((self.directory / "cells").glob("[0-9]*.parquet"))
        if not paths:
            raise ValueError(f"{self.directory} holds no finished cells")
        curves = [pd.read_parquet(self.directory / "curves" / path.name) for path in paths]
        cells = [pd.read_parquet(path) for path in paths]
        return pd.concat(cells, ignore_index=True), pd.concat(curves, ignore_index=True)

    def _path(self, kind: str, index: int) -> Path:
        return self.directory / kind / f"{index:04d}.parquet"
