"""The reader of embeddings: every format gives the same numbers, and says in one sentence what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wasskit.data.embeddings import Embeddings, class_numbers, open_embeddings, read_column, read_labelled, read_tensor
from wasskit.errors import UserError

ROWS = np.random.default_rng(0).standard_normal((11, 3))


def _written(folder: Path, suffix: str, rows: np.ndarray[Any, Any] = ROWS) -> Path:
    """Rows in a file of a format, with labels 0, 1, 2, 0, ... beside them where the format has columns."""
    path = folder / f"x{suffix}"
    labels = [i % 3 for i in range(len(rows))]
    if suffix == ".npy":
        np.save(path, rows)
    elif suffix == ".npz":
        np.savez(path, vectors=rows, labels=np.array(labels))
    elif suffix == ".safetensors":
        save_file({"vectors": torch.from_numpy(rows), "labels": torch.tensor(labels)}, path)
    elif suffix == ".csv":
        lines = [f"{label}," + ",".join(map(repr, map(float, row))) for label, row in zip(labels, rows, strict=True)]
        path.write_text("label,a,b,c\n" + "\n".join(lines) + "\n")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet")
        table = pyarrow.table({"label": [f"c{x}" for x in labels], "vector": list(rows)})
        pyarrow.parquet.write_table(table, path, row_group_size=4)
    return path


FORMATS = (".npy", ".npz", ".safetensors", ".csv", ".parquet")


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    found = open_embeddings(_written(tmp_path, suffix))
    assert found.shape == (11, 3)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.whole(), torch.from_numpy(ROWS), rtol=0, atol=0)
    single = torch.from_numpy(ROWS).float()
    for size in (1, 4, 5, 100):
        chunks = list(found.chunks(size))
        assert max(map(len, chunks)) <= size
        assert torch.equal(torch.cat(chunks), single)
    # In the order asked for, with repetitions.
    for places in ([10, 0, 3, 3, 7], [], list(range(11))):
        assert torch.equal(found.rows(places), single[places])
    with pytest.raises(IndexError):
        found.rows([11])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.int8, np.int64, bool])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_any_type(tmp_path: Path, dtype: Any, order: Any) -> None:
    rows = np.asarray(10 * ROWS, dtype=dtype, order=order)
    np.save(tmp_path / "x.npy", rows)
    found = open_embeddings(tmp_path / "x.npy")
    np.testing.assert_array_equal(found.whole().double().numpy(), rows.astype(np.float64))
    assert found.dtype == {"float16": torch.float16, "float32": torch.float32, "int8": torch.float32,
                           "bool": torch.float32}.get(rows.dtype.newbyteorder("=").name, torch.float64)  # fmt: skip


def test_brain_floats_are_read(tmp_path: Path) -> None:
    rows = torch.from_numpy(ROWS).bfloat16()
    save_file({"v": rows}, tmp_path / "x.safetensors")
    assert torch.equal(open_embeddings(tmp_path / "x.safetensors").rows([2, 1]), rows[[2, 1]].float())


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_that_are_not_finite_are_counted(tmp_path: Path, suffix: str) -> None:
    rows = ROWS.copy()
    rows[[4, 9], 1] = np.nan, -np.inf
    path = _written(tmp_path, suffix, rows)
    found, said = (
        open_embeddings(path),
        r"has 2 rows with values that are not finite, the first is row 4: remove them",
    )
    assert torch.equal(found.rows([3, 5]), torch.from_numpy(rows[[3, 5]]).float())
    for read in (found.whole, lambda: list(found.chunks(5)), lambda: found.rows([9])):
        with pytest.raises(UserError, match=said):
            read()
    assert found.whole(check=False).isnan().sum() == 1


def test_numbers_beyond_single_precision_are_no_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0], [1e300, 0.0]]))
    found = open_embeddings(tmp_path / "x.npy")
    assert found.whole()[1, 0] == 1e300
    with pytest.raises(UserError, match=r"has 1 rows .* the first is row 1"):
        list(found.chunks())


def test_a_large_file_stays_on_disk(tmp_path: Path) -> None:
    """A sparse file of 64 GiB, more than the memory there is to hold it: two rows of it are read."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (1 << 25, 1 << 10)}
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + (1 << 36))
    found = open_embeddings(tmp_path / "x.npy")
    assert found.shape == (1 << 25, 1 << 10)
    assert found.rows([(1 << 25) - 1, 5]).abs().sum() == 0
    assert next(found.chunks(10)).shape == (10, 1 << 10)


def test_a_mapped_file_is_never_written_to(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    open_embeddings(tmp_path / "x.npy").whole().zero_()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), ROWS)


def _bad_files(folder: Path) -> None:
    np.save(folder / "flat.npy", np.zeros(5))
    np.save(folder / "empty.npy", np.zeros((0, 4)))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "text.npy", np.array([["a"]]))
    np.savez(folder / "two.npz", a=ROWS, b=ROWS)
    np.savez(folder / "objects.npz", a=np.array([{}], dtype=object))
    (folder / "short.npy").write_bytes((folder / "flat.npy").read_bytes()[:-1])
    (folder / "text.csv").write_text("a,b\nc,d\n")
    (folder / "ragged.csv").write_text("1,2\n3,4\n5\n")
    (folder / "word.csv").write_text("x,y\n1,2\n3,four\n")
    save_file({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, folder / "two.safetensors")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("flat.npy", r"flat\.npy must be a matrix \(N, m\) with one row per sample, not of shape \(5,\)"),
        ("empty.npy", r"not of shape \(0, 4\)"),
        ("objects.npy", "it holds Python objects, not numbers"),
        ("text.npy", "it holds text, not numbers"),
        ("short.npy", "it ends before the 5 numbers that it announces"),
        ("two.npz", r"one array of shape \(points, coordinates\); it holds 2 \(a, b\): name one, .*two\.npz:NAME"),
        ("two.npz:c", "two.npz .* it lacks c and holds a, b"),
        ("objects.npz:a", "it holds Python objects, not numbers"),
        ("two.safetensors:c", r"two\.safetensors holds no 'c'; it holds a, b"),
        ("two.safetensors", "it holds 2"),
        ("text.csv", "it has no column of numbers"),
        ("ragged.csv", "its rows are not all of 2 numbers: row 2 is not"),
        ("word.csv", "its rows are not all of 2 numbers: row 1 is not"),
        ("x.jpg", "embeddings are read from .npy, .npz"),
        ("x.pt", r"embeddings are read from .npy, .* files\. Write a tensor to one by `numpy\.save`\."),
        ("absent.npy", "There is no file .*absent.npy"),
        ("absent.safetensors", "There is no file .*absent.safetensors"),
        ("flat.npy:a", "holds one matrix: name it without"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, said: str) -> None:
    _bad_files(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        open_embeddings(tmp_path / name)
    assert caught.value.exit_code == 2


def test_a_part_is_named_after_a_colon(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=ROWS, b=2 * ROWS)
    assert torch.equal(open_embeddings(tmp_path / "x.npz:b").whole(), torch.from_numpy(2 * ROWS))
    # A file of that very name comes first.
    np.save(tmp_path / "x:y.npy", ROWS[:2])
    assert open_embeddings(tmp_path / "x:y.npy").shape == (2, 3)


def test_fewer_rows_than_are_needed(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS[:1])
    with pytest.raises(UserError, match=r"x\.npy has 1 row: expected at least 2"):
        open_embeddings(tmp_path / "x.npy", least=2)


def test_arrays_of_any_shape(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4), np.float16))
    assert read_tensor(tmp_path / "x.npy").shape == (2, 3, 4)


# --- CSV --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["1,2\n3,4\n", "a,b\n1,2\n3,4\n",
     "0,1,label\n1,2,x\n3,4,y\n", ",a,b\n0,1,2\n1,3,4\n", '\ufeffid,"a",b\nq,1,"2"\nr,3,4'],
)  # fmt: skip
def test_tables_of_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert open_embeddings(tmp_path / "x.csv").whole().tolist() == [[1, 2], [3, 4]]


# --- Labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "name", "label"),
    [(".npz", "x.npz:labels", "{}"), (".csv", "x.csv:label", "{}"), (".csv", "x.csv", "{}"),
     (".parquet", "x.parquet:label", "c{}"), (".parquet", "x.parquet", "c{}")],
)  # fmt: skip
def test_labels_come_from_a_column(tmp_path: Path, suffix: str, name: str, label: str) -> None:
    vectors = open_embeddings(_written(tmp_path, suffix))
    (numbers,), classes = class_numbers(read_column(tmp_path / name, vectors))
    assert numbers.tolist() == [i % 3 for i in range(11)]
    assert classes == tuple(label.format(i) for i in range(3))


@pytest.mark.parametrize(
    ("values", "classes"),
    [(["dog", "cat", "dog"], ("cat", "dog")), ([True, False, True], ("0", "1")), ([7.0, -2.0, 7.0], ("-2", "7"))],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_classes_are_whole_numbers_of_any_type_or_texts(
    tmp_path: Path, suffix: str, values: list[Any], classes: tuple[str, ...]
) -> None:
    file, array = tmp_path / f"y{suffix}", np.array(values)
    if suffix == ".safetensors":
        if array.dtype.kind == "U":
            pytest.skip("holds no texts")
        save_file({"y": torch.from_numpy(array), "x": torch.ones(3, 2)}, file)
    else:
        np.save(file, array) if suffix == ".npy" else np.savez(file, y=array, x=np.ones((3, 2)))
    for named in (file, Path(f"{file}:y")) if suffix != ".npy" else (file,):
        (numbers,), found = class_numbers(read_column(named))
        assert (numbers.tolist(), found) == ([1, 0, 1], classes)


def test_an_array_of_texts_with_impossible_characters_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.array(["dog", "cat"]))
    data = bytearray((tmp_path / "y.npy").read_bytes())
    data[-4:] = b"\xff\xff\xff\x7f"
    (tmp_path / "y.npy").write_bytes(data)
    with pytest.raises(UserError, match=r"y\.npy is not a readable .* its texts hold what is no character"):
        read_column(tmp_path / "y.npy")


def test_classes_are_numbered_alike_in_all_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS[:3])
    np.save(tmp_path / "y.npy", ROWS[:2])
    (tmp_path / "x.txt").write_text("dog\ncat\nemu\n")
    (tmp_path / "y.csv").write_text("label\nemu\nbee\n")
    x, y = read_labelled((tmp_path / "x.npy", tmp_path / "x.txt"), (tmp_path / "y.npy", tmp_path / "y.csv"))
    assert x.classes == y.classes == ("bee", "cat", "dog", "emu")
    assert (x.labels.tolist(), y.labels.tolist()) == ([2, 1, 3], [3, 0])
    # Whole numbers are ordered as numbers, also where they are large or negative.
    (numbers,), classes = class_numbers(np.array([10**12, -1, 9]))
    assert (numbers.tolist(), classes) == ([2, 0, 1], ("-1", "9", "1000000000000"))


def test_what_is_no_plain_number_keeps_its_spelling(tmp_path: Path) -> None:
    """Names such as 007 are others than 7, in labels and in ids, and numbers from 2^63 on are not negative ones."""
    (tmp_path / "plain.txt").write_text("7\n0\n-12\n")
    (tmp_path / "padded.txt").write_text("007\n7\n010\n")
    np.save(tmp_path / "large.npy", np.array([2**64 - 1, 3], np.uint64))
    np.save(tmp_path / "small.npy", np.array([2**63 - 1, 3], np.uint64))
    assert read_column(tmp_path / "plain.txt").tolist() == [7, 0, -12]
    assert read_column(tmp_path / "padded.txt").tolist() == ["007", "7", "010"]
    assert read_column(tmp_path / "large.npy").tolist() == ["18446744073709551615", "3"]
    assert read_column(tmp_path / "small.npy").tolist() == [2**63 - 1, 3]
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    column = arrow.array([2**64 - 1, 3], arrow.uint64())
    arrow.parquet.write_table(arrow.table({"label": column}), tmp_path / "large.parquet")
    assert read_column(tmp_path / "large.parquet").tolist() == ["18446744073709551615", "3"]


def test_the_labels_of_a_parquet_file_are_not_taken_for_its_ids_or_groups() -> None:
    for what in ("ids", "groups"):
        with pytest.raises(UserError, match=rf"x\.parquet has no column for {what} alone: name one, .*x\.parquet:COL"):
            read_column(Path("x.parquet"), what=what)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("y.npy", np.arange(5), r"y\.npy has 5 labels for the 3 vectors of .*x\.npy"),
        ("y.npy", np.full(3, 0.5), r"y\.npy has float64 of shape \(3,\): expected one whole number or text per vector"),
        ("y.npy", np.full(3, np.nan), "expected one whole number or text per vector"),
        ("y.npy", np.zeros((3, 1)), r"shape \(3, 1\): expected one whole number or text per vector"),
        ("y.npy", np.array([{}] * 3, dtype=object), "it holds Python objects"),
        ("y.txt", "a\nb\n", r"y\.txt has 2 labels for the 3 vectors"),
        ("y.txt", "a\n", r"y\.txt has 1 label for the 3 vectors"),
        ("y.csv:kind", "id,label\n1,2\n", r"y\.csv has no column 'kind'; it has id, label"),
        ("y.csv", "id,kind\n1,2\n", r"y\.csv has the columns id, kind: name one, .*y\.csv:COLUMN"),
        ("y.csv:label", "id,label\n1,2\n3\n", r"y\.csv: row 2 has no column 'label'"),
        ("y.jpg", "", "labels are read from .npy, .npz, .safetensors, .csv, .parquet or .txt files"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, name: str, content: Any, said: str) -> None:
    np.save(tmp_path / "x.npy", ROWS[:3])
    file = tmp_path / name.partition(":")[0]
    if isinstance(content, str):
        file.write_text(content)
    else:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(UserError, match=said):
        read_labelled((tmp_path / "x.npy", tmp_path / name))


def test_vectors_of_other_widths_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    np.save(tmp_path / "y.npy", ROWS[:, :2])
    np.save(tmp_path / "l.npy", np.arange(11))
    with pytest.raises(UserError, match=r"y\.npy has vectors of 2 numbers, .*x\.npy of 3"):
        read_labelled((tmp_path / "x.npy", tmp_path / "l.npy"), (tmp_path / "y.npy", tmp_path / "l.npy"))


# --- Parquet ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "name", "said"),
    [
        ({"v": [[1.0, 2.0], [3.0]]}, "x.parquet", "row 1 has 1 numbers, the first 2"),
        ({"v": [[1.0, 2.0], None]}, "x.parquet", "row 1 has no vector, the first 2"),
        ({"v": [[1.0, 2.0], [None, 3.0]]}, "x.parquet", "row 1 lacks a number"),
        ({"v": [["a"], ["b"]]}, "x.parquet", "its column 'v' holds string, not numbers"),
        ({"v": [1, 2]}, "x.parquet", "it has no column of lists"),
        ({"v": [[1.0]], "w": [[2.0]]}, "x.parquet", r"several columns of lists \(v, w\): name one, .*t:COLUMN"),
        ({"v": [[1.0]]}, "x.parquet:w", "it has no column of lists 'w'"),
    ],
)
def test_bad_parquet_is_refused(tmp_path: Path, columns: dict[str, Any], name: str, said: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=said):
        open_embeddings(tmp_path / name).whole()


def test_without_pyarrow_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"install wasskit\[parquet\]"):
        open_embeddings(tmp_path / "x.parquet")


def test_half_precision_lists(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    rows = ROWS.astype(np.float16)
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), 3)
    pyarrow.parquet.write_table(pyarrow.table({"v": lists}), tmp_path / "x.parquet", row_group_size=4)
    found: Embeddings = open_embeddings(tmp_path / "x.parquet")
    assert found.dtype == torch.float16
    assert torch.equal(found.rows([9, 0]), torch.from_numpy(rows[[9, 0]]).float())
