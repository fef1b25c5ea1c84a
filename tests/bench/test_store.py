import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.store import Store

CURVE = pd.DataFrame({"problem": ["a"], "step": [1], "error": [0.5]})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "run")
    store.create({"experiment": {"name": "χ"}})
    store.write_cell(10, {"problem": "b"}, CURVE)
    store.write_cell(2, {"problem": "a"}, CURVE)
    cells, curves = store.read()
    assert list(cells["problem"]) == ["a", "b"]  # in the order of the plan
    assert len(curves) == 2
    assert store.read_run() == {"experiment": {"name": "χ"}}
    assert (store.has_cell(2), store.has_cell(3)) == (True, False)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_reading_starts_no_threads(tmp_path: Path) -> None:
    """As those of arrow, which may abort the process when it ends; in a process that has none yet."""
    store = Store(tmp_path)
    store.create({"experiment": {}})
    store.write_cell(0, {"problem": "a", "error": 0.5, "failed": False}, CURVE)
    script = (
        "import os, sys; from pathlib import Path; from bench.store import Store\n"
        "before = os.listdir('/proc/self/task'); Store(Path(sys.argv[1])).read()\n"
        "print(len(os.listdir('/proc/self/task')) - len(before))"
    )
    found = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert found.stdout == "0\n", found.stderr


def test_a_write_that_fails_leaves_the_old_file_and_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.create({"experiment": {}})

    def full(self: Path, text: str, **settings: str) -> int:
        self.write_bytes(text[:3].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        store.write_run({"experiment": {"name": "other"}})
    assert store.read_run() == {"experiment": {}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "curves", "run.json"]


def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    for text in ("{", "{}", "[]", '{"experiment": 3}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run.json is damaged"):
            Store(tmp_path).read_run()


def test_a_cell_is_there_only_with_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.create({})
    monkeypatch.setattr(
        pd.DataFrame, "to_parquet", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full"))
    )
    message = r"0000.parquet cannot be written \(disk full\): .* go on with --out \S+ --resume"
    with pytest.raises(OSError, match=message):
        store.write_cell(0, {"problem": "a"}, CURVE)
    assert not store.has_cell(0)
    with pytest.raises(ValueError, match="no finished cells"):
        store.read()
