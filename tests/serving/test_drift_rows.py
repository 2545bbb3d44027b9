"""Rows come out of files as a model takes them; what is wrong with a file is said with the place."""

from __future__ import annotations

import csv
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.drift import rows as rows_module
from serving.drift.rows import BadRows, Table, Wanted, open_rows, wanted
from serving.wire import DATATYPES, TensorSpec


def an_input(name: str, datatype: str, *row: int, optional: bool = False) -> Wanted:
    return Wanted(name, DATATYPES[datatype], row, optional)


IMAGE = an_input("image", "FP32", 4)
MIXED = (an_input("age", "INT64", 1), an_input("city", "BYTES", 1), an_input("member", "BOOL"))


def whole(table: Table) -> dict[str, np.ndarray]:
    blocks = list(table.blocks())
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def write(path, text: str):
    path.write_text(text)
    return path


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(4))), st.integers(1, 100))
def test_an_array_comes_back_however_it_is_cut(tmp_path_factory, array, elements):
    path = tmp_path_factory.mktemp("rows") / "training.npz"
    np.savez_compressed(path, image=array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_ELEMENTS", elements)
        table = open_rows(path, [IMAGE])
        for _ in range(2):
            assert whole(table)["image"].tobytes() == array.tobytes()


def test_an_array_that_is_stored_column_by_column_comes_back(tmp_path):
    array = np.asfortranarray(np.arange(40, dtype=np.float32).reshape(10, 4))
    np.savez(tmp_path / "a.npz", image=array)
    assert (whole(open_rows(tmp_path / "a.npz", [IMAGE]))["image"] == array).all()


def test_the_only_array_is_the_only_input_whatever_its_name(tmp_path):
    np.savez(tmp_path / "a.npz", np.ones((2, 4)))
    assert whole(open_rows(tmp_path / "a.npz", [IMAGE]))["image"].dtype == np.float32


def test_arrays_that_are_no_input_are_left_and_named(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.ones((2, 4)), labels=np.ones(3))
    table = open_rows(tmp_path / "a.npz", [IMAGE])
    assert list(whole(table)) == ["image"]
    assert table.unused == ("labels",)


def test_text_and_bytes_are_text(tmp_path):
    for array in (np.array(["é", "b"]), np.array(["é".encode(), b"b"])):
        np.savez(tmp_path / "a.npz", array)
        assert whole(open_rows(tmp_path / "a.npz", [an_input("t", "BYTES")]))["t"].tolist() == ["é", "b"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"picture": np.ones((2, 4)), "y": np.ones(2)}, r"no array 'image'; it has 'picture', 'y'"),
        ({"image": np.ones((2, 2, 2))}, r"shape \[2, 2, 2\].*array.reshape\(-1, 4\) would do"),
        ({"image": np.ones((2, 5))}, r"shape \[2, 5\], input 'image', FP32 \[rows, 4\] does not take that$"),
        ({"image": np.ones((0, 4))}, "has no rows"),
        ({"image": np.array(["a"] * 4).reshape(1, 4)}, "takes numbers; here are str"),
        ({"image": np.array([None] * 4).reshape(1, 4)}, r"Python objects.*array.astype\(str\)"),
        ({"image": np.zeros((1, 4), [("a", "f4")])}, "takes numbers"),
    ],
)
def test_what_is_wrong_with_arrays_is_said(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(BadRows, match=said):
        list(open_rows(tmp_path / "a.npz", [IMAGE]).blocks())


def test_a_value_that_an_input_cannot_hold_is_said_with_its_row(tmp_path):
    for values in ([[1.0], [2.5]], [[1.0], [np.nan]], [[1.0], [1e30]], [[1.0], [256]], [[1.0], [-1]]):
        np.savez(tmp_path / "a.npz", np.array(values))
        with pytest.raises(BadRows, match=r"row 2 has .*, which input 'n', UINT8 \[rows, 1\] cannot hold"):
            list(open_rows(tmp_path / "a.npz", [an_input("n", "UINT8", 1)]).blocks())


def test_arrays_of_different_lengths_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones((2, 1)), b=np.ones((3, 1)))
    with pytest.raises(BadRows, match="different numbers of rows: 'a' 2, 'b' 3"):
        open_rows(tmp_path / "a.npz", [an_input("a", "FP32", 1), an_input("b", "FP32", 1)])


def test_no_archive_and_a_broken_one_are_refused(tmp_path):
    with pytest.raises(BadRows, match=r"no \.npz file; numpy\.savez makes one"):
        open_rows(write(tmp_path / "a.npz", "hello"), [IMAGE])
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("image.npy", b"\x93NUMPY\x01\x00nonsense")
    with pytest.raises(BadRows, match="'image' is no array"):
        open_rows(tmp_path / "b.npz", [IMAGE])


def test_an_array_that_says_more_than_there_is_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.ones((2, 4), np.float32))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        content = archive.read("image.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("image.npy", content.replace(b"(2, 4)", b"(9, 4)"))
    with pytest.raises(BadRows, match="array 'image' ends too soon"):
        list(open_rows(tmp_path / "b.npz", [IMAGE]).blocks())


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(4))), st.integers(1, 30))
def test_a_table_comes_back_with_the_names_of_its_columns(tmp_path_factory, array, elements):
    path = tmp_path_factory.mktemp("rows") / "training.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["top left", "b", "c", "d"])
        writer.writerows([[repr(float(value)) for value in row] for row in array])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_ELEMENTS", elements)
        table = open_rows(path, [IMAGE])
        assert table.names == {"image": ("top left", "b", "c", "d")}
        assert np.array_equal(whole(table)["image"], array, equal_nan=True)


def test_a_column_for_each_input(tmp_path):
    path = write(
        tmp_path / "a.csv", '\ufeffcity,age,y,member\n"Köln, Süd",41,0,true\n,9007199254740993,1,0\n'
    )
    table = open_rows(path, MIXED)
    made = whole(table)
    assert made["city"].tolist() == [["Köln, Süd"], [""]]
    assert made["age"].tolist() == [[41], [9007199254740993]]
    assert made["member"].tolist() == [True, False]
    assert table.unused == ("y",)


def test_an_empty_cell_is_a_missing_number(tmp_path):
    made = whole(open_rows(write(tmp_path / "a.csv", "a,b,c,d\n1,,2,3\n"), [IMAGE]))
    assert np.isnan(made["image"][0, 1])


def test_a_column_that_is_no_feature_is_left_out_by_name(tmp_path):
    path = write(tmp_path / "a.csv", "a,b,label,c,d\n1,2,7,3,4\n")
    assert whole(open_rows(path, [IMAGE], ["label"]))["image"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty; the first line names the columns"),
        ("1,2,3,4\n5,6,7,8\n", "the first line has numbers; it has to name the columns"),
        ("a,b,c,d\n", "no rows below the header"),
        ("a,b,c,a\n1,2,3,4\n", "two columns are called 'a'"),
        ("a,b,c\n1,2,3\n", r"3 columns, 'a', 'b', 'c'; input 'image', FP32 \[rows, 4\] takes 4"),
        ("a,b,c,d,y\n1,2,3,4,5\n", "takes 4, .*; --ignore COLUMN leaves one out"),
        ("a,b,c,d\n1,2,3\n", "line 2 has 3 cells, the header 4"),
        ("a,b,c,d\n1,2,3,4\n1,2,x,4\n", "line 3, column 3: 'x' is no number"),
        ('a,b,c,d\n1,2,3,"4\n', "line 2: unexpected end of data"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, text, said):
    with pytest.raises(BadRows, match=said):
        list(open_rows(write(tmp_path / "a.csv", text), [IMAGE]).blocks())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x,1.5,1", "line 2, column 2: '1.5' is no whole number that INT64 can hold"),
        ("x,1e30,1", "'1e30' is no whole number that INT64 can hold"),
        ("x,9223372036854775808,1", "is no whole number that INT64 can hold"),
        ("x,,1", "'' is no whole number"),
        ("x,1,yes", "line 2, column 3: 'yes' is no true or false"),
    ],
)
def test_a_cell_that_is_no_value_of_its_input_is_said(tmp_path, line, said):
    with pytest.raises(BadRows, match=said):
        list(open_rows(write(tmp_path / "a.csv", f"city,age,member\n{line}\n"), MIXED).blocks())


def test_bytes_that_are_no_text_are_said(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b,c,d\n1,2,3,4\n\xff\xfe,2,3,4\n")
    with pytest.raises(BadRows, match="it is not UTF-8"):
        list(open_rows(tmp_path / "a.csv", [IMAGE]).blocks())


def test_an_input_without_its_column_is_said(tmp_path):
    path = write(tmp_path / "a.csv", "city,age\nx,1\n")
    with pytest.raises(BadRows, match="none is called 'member', and the model takes 'age', 'city', 'member'"):
        open_rows(path, MIXED)
    with pytest.raises(BadRows, match="'image' take more than one number a row, so an .npz"):
        open_rows(path, [*MIXED, IMAGE])
    optional = [*MIXED[:2], an_input("member", "BOOL", optional=True)]
    assert list(whole(open_rows(path, optional))) == ["age", "city"]


def test_a_column_to_ignore_that_there_is_not_is_said(tmp_path):
    with pytest.raises(BadRows, match="no column 'z' to ignore; it has 'a'"):
        open_rows(write(tmp_path / "a.csv", "a\n1\n"), [an_input("a", "FP32")], ["z"])


def test_a_file_that_is_not_there_or_of_another_kind_is_said(tmp_path):
    with pytest.raises(BadRows, match="No such file"):
        open_rows(tmp_path / "a.csv", [IMAGE])
    with pytest.raises(BadRows, match=r"rows are read from \.npz, \.csv, \.parquet"):
        open_rows(tmp_path / "a.json", [IMAGE])


def test_without_pyarrow_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadRows, match=r"takes pyarrow, which is not installed; `pip install pyarrow`"):
        open_rows(write(tmp_path / "a.parquet", "PAR1"), [IMAGE])


def test_a_first_dimension_that_is_open_counts_rows():
    specs = [TensorSpec("a", DATATYPES["FP32"], (-1, 4)), TensorSpec("b", DATATYPES["FP32"], (2, 3))]
    assert [each.row for each in wanted(specs)] == [(4,), (2, 3)]


def test_a_width_that_is_open_is_the_tables(tmp_path):
    path = write(tmp_path / "a.csv", "a,b,c\n1,2,3\n")
    assert whole(open_rows(path, [an_input("signal", "FP32", -1)]))["signal"].tolist() == [[1, 2, 3]]


# With pyarrow installed these run as well: pip install 'turnout[parquet]'.


@pytest.fixture
def arrow():
    return pytest.importorskip("pyarrow")


def parquet(arrow, path, **columns: object):
    from pyarrow import parquet as files

    files.write_table(arrow.table(columns), path)
    return path


def test_parquet_columns_are_features_by_name(arrow, tmp_path):
    path = parquet(arrow, tmp_path / "a.parquet", a=[1, 2], b=[0.5, None], c=[1, 2], d=[3, 4])
    table = open_rows(path, [IMAGE])
    assert table.names == {"image": ("a", "b", "c", "d")}
    made = whole(table)["image"]
    assert made.dtype == np.float32
    assert made[0].tolist() == [1, 0.5, 1, 3]
    assert np.isnan(made[1, 1])


def test_parquet_columns_are_inputs_by_name(arrow, tmp_path):
    city = arrow.array(["x", None]).dictionary_encode()
    path = parquet(arrow, tmp_path / "a.parquet", city=city, age=[1, 2], member=[True, False])
    made = whole(open_rows(path, MIXED))
    assert made["city"].tolist() == [["x"], [""]]
    assert made["age"].tolist() == [[1], [2]]


def test_a_parquet_cell_may_be_a_whole_row(arrow, tmp_path):
    rows = np.arange(8.0).reshape(2, 4)
    for kind in (arrow.list_(arrow.float64()), arrow.list_(arrow.float64(), 4)):
        cells = arrow.array(rows.tolist(), kind)
        path = parquet(arrow, tmp_path / "a.parquet", image=cells, y=[0, 1])
        assert (whole(open_rows(path, [IMAGE]))["image"] == rows).all()


def test_what_is_wrong_with_parquet_is_said(arrow, tmp_path):
    with pytest.raises(BadRows, match="a.parquet: "):
        open_rows(write(tmp_path / "a.parquet", "hello"), [IMAGE])
    with pytest.raises(BadRows, match="no rows"):
        open_rows(parquet(arrow, tmp_path / "a.parquet", a=arrow.array([], arrow.int64())), [IMAGE])
    path = parquet(arrow, tmp_path / "a.parquet", city=["x", "y"], age=[1, None], member=[True, True])
    with pytest.raises(BadRows, match="column 'age': row 2 has nan, which input 'age'"):
        list(open_rows(path, MIXED).blocks())
    path = parquet(arrow, tmp_path / "a.parquet", image=[[1.0, 2.0], [1.0]])
    with pytest.raises(BadRows, match="lists of different lengths"):
        list(open_rows(path, [IMAGE]).blocks())
