"""A data set is read as it is, or refused in one sentence that names the place and never a cell's content."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.tables import Records, Table, check_pooled, check_site, read_table, records_of
from privacy.errors import DataError, StudyError
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.split import record_identity, unit_identity

CONTENT = "Xq77"  # stands in cells, and must not stand in messages


def study_of(*, trust="local", maximum_records=None, **data):
    settings = {
        "task": "classification",
        "label": "ill",
        "classes": ("no", "yes"),
        "features": ("age", "weight"),
        "bounds": {"default": (0.0, 200.0)},
    }
    regression = data.get("task") == "regression"
    unsafe = trust == "unsafe"
    return Study(
        name="example",
        data=Data(expected_records=10, **(settings | data)),
        model=Model(kind="linear" if regression else "logistic"),
        training=Training(rounds=3),
        privacy=Privacy(trust=trust, epsilon=None if unsafe else 1.0),
        sites=Sites(maximum_records=maximum_records),
    )


def regression_of(**data):
    settings = {"task": "regression", "classes": (), "label": "dose", "label_bounds": (0.0, 10.0)}
    return study_of(**(settings | data))


def table_of(**columns):
    """A table of text, like that of a CSV file; `age="1 2 3"` is a column of three cells."""
    given = {"age": "30 40 50 60", "weight": "60 70 80.5 9e1", "ill": "no yes no yes"} | columns
    cells = {
        name: cells.split(" ") if isinstance(cells, str) else cells for name, cells in given.items()
    }
    return Table("data.csv", {name: np.array(each, dtype=object) for name, each in cells.items()})


@pytest.fixture
def csv(tmp_path):
    def write(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refused(call, *arguments, match, hint=""):
    with pytest.raises(DataError, match=match) as error:
        call(*arguments)
    assert hint in error.value.hint
    assert CONTENT not in error.value.message + error.value.hint
    assert "\n" not in error.value.message
    return error.value


class TestFiles:
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_a_csv_file_is_read_as_text_with_or_without_a_byte_order_mark(self, csv, mark, end):
        text = end.join(['age, weight ,"ill"', '030,60.5,"a, ""b"""', "", "40, 70 ,no"])
        table = read_table(csv(mark + text.encode()))
        assert list(table.columns) == ["age", "weight", "ill"]
        assert table.rows == 2
        assert table.texts("age") == ["030", "40"]
        assert table.texts("ill") == ['a, "b"', "no"]
        assert table.numbers("weight").tolist() == [60.5, 70.0]
        assert (table.place(0), table.place(1)) == ("line 2", "line 4")

    def test_a_cell_of_several_lines_does_not_shift_the_line_numbers(self, csv):
        table = read_table(csv(f'age,note\n1,"one\ntwo"\n2,x\n{CONTENT},y\n'))
        refused(table.numbers, "age", match=r'data.csv, line 5: column "age" holds text')

    @pytest.mark.parametrize(
        ("content", "match", "hint"),
        [
            ("", r"data.csv is empty", "first line names the columns"),
            ("\n\n", r"data.csv is empty", "first line names the columns"),
            ("age,ill\n", r"has a header and no records", "at least one record"),
            (
                f"age,ill\n1,no\n2,no,{CONTENT}\n",
                r"line 3: expected 2 cells, as in the header, found 3",
                "quotes",
            ),
            (f"age,ill\n1,no\n\n{CONTENT}\n", r"line 4: expected 2 cells.*found 1", "quotes"),
            (f"age,{CONTENT},{CONTENT}\n1,2,3\n", r"columns 2 and 3 have the same name", "own"),
            (f"{CONTENT},,ill\n1,2,3\n", r"line 1: column 2 has no name", "index=False"),
            (f"age;ill;{CONTENT}\n1;2;3\n", r"separated by semicolons or tabs", "commas"),
            (f"age\till\t{CONTENT}\n1\t2\t3\n", r"separated by semicolons or tabs", "commas"),
            (f'age,ill\n1,no\n2,"{CONTENT}\n3,no\n', r"line 3: a quoted cell", "written twice"),
            (f'age,ill\n1,no\n2,"{CONTENT}"x\n3,no\n', r"line 3: a quoted cell", "written twice"),
            (b"age,ill\n1,\xff\n", r"is not UTF-8 text", "CSV UTF-8"),
            ("age,ill\n1,no\n".encode("utf-16"), r"is not UTF-8 text", "CSV UTF-8"),
        ],
    )
    def test_a_broken_csv_file_is_refused_with_its_line(self, csv, content, match, hint):
        refused(read_table, csv(content), match=match, hint=hint)

    def test_what_is_not_a_data_set_is_refused(self, tmp_path, csv):
        refused(read_table, tmp_path / "no.csv", match="There is no file .*no.csv", hint="path")
        refused(read_table, tmp_path, match="is a directory, not a data set", hint=".csv, .parquet")
        refused(
            read_table, csv("a", "data.xls"), match="not of a kind", hint=".csv, .parquet, .npz"
        )

    def test_a_file_that_may_not_be_read_is_refused(self, csv, monkeypatch):
        def denied(*_arguments, **_settings):
            raise PermissionError(13, CONTENT)

        path = csv("age\n1\n")
        monkeypatch.setattr("pathlib.Path.open", denied)
        refused(read_table, path, match="cannot be read: PermissionError")

    def test_a_parquet_file_is_read_as_numbers_and_text(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        import decimal

        import pyarrow.parquet as pq

        path = tmp_path / "data.parquet"
        columns = {
            "age": pa.array([1, 2, None]),
            "weight": pa.array([0.5, None, 2.5], pa.float32()),
            "smokes": pa.array([True, False, True]),
            "price": pa.array([decimal.Decimal("1.5")] * 3),
            "id": pa.array([2**53 + 1, 2, 3]),
            "ill": pa.array(["no", None, "yes"]),
            "ward": pa.array(["a", "b", "a"]).dictionary_encode(),
        }
        pq.write_table(pa.table(columns), path)
        table = read_table(path)
        assert list(table.columns) == list(columns)
        np.testing.assert_array_equal(table.columns["age"], [1, 2, np.nan])
        np.testing.assert_array_equal(table.columns["weight"], [0.5, np.nan, 2.5])
        assert table.numbers("smokes").tolist() == [1, 0, 1]
        assert table.numbers("price").tolist() == [1.5] * 3
        assert table.texts("id") == [str(2**53 + 1), "2", "3"]
        assert table.texts("ill") == ["no", "", "yes"]
        assert table.texts("ward") == ["a", "b", "a"]
        assert table.texts("age") == ["1", "2", ""]
        refused(table.numbers, "age", match=r'parquet, row 3: column "age" is empty, NaN')

    def test_a_broken_or_empty_parquet_file_is_refused(self, tmp_path, csv):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        refused(
            read_table, csv(CONTENT, "data.parquet"), match="data.parquet is not a Parquet file"
        )
        path = tmp_path / "empty.parquet"
        pq.write_table(pa.table({"age": pa.array([], pa.float64())}), path)
        refused(read_table, path, match="holds no records")

    def test_without_pyarrow_the_fix_is_named(self, csv, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        refused(
            read_table,
            csv("", "data.parquet"),
            match="reading Parquet needs pyarrow",
            hint='pip install "discreet[parquet]"',
        )

    def test_an_npz_file_is_read_by_its_named_arrays(self, tmp_path):
        path = tmp_path / "data.npz"
        features = np.arange(6, dtype=np.float32).reshape(3, 2)
        large = np.array([2**60 + 1, 2, 3])
        np.savez(
            path,
            features=features,
            label=np.array(["a", "b", "a"]),
            flag=features[:, 0] > 1,
            id=large,
        )
        table = read_table(path)
        assert list(table.columns) == ["feature_0", "feature_1", "label", "flag", "id"]
        assert table.numbers("feature_1").tolist() == [1, 3, 5]
        assert table.numbers("flag").tolist() == [0, 1, 1]
        assert table.texts("label") == ["a", "b", "a"]
        assert table.texts("id") == [str(2**60 + 1), "2", "3"]

    @pytest.mark.parametrize(
        ("arrays", "match"),
        [
            ({"age": np.array([{CONTENT}], dtype=object)}, "not an .npz file of plain arrays"),
            ({"age": np.zeros((2, 2))}, r'array "age" has 2 axes'),
            ({"age": np.zeros(2), "ill": np.zeros(3)}, "columns of one length, found 2, 3"),
            ({"age": np.zeros(2, dtype=complex)}, "holds complex128, expected numbers or text"),
            ({"age": np.zeros(0)}, "holds no records"),
            ({}, "holds no records"),
        ],
    )
    def test_an_npz_file_of_other_arrays_is_refused(self, tmp_path, arrays, match):
        np.savez(tmp_path / "data.npz", **arrays)
        refused(read_table, tmp_path / "data.npz", match=match)

    def test_what_is_no_archive_is_refused(self, csv, tmp_path):
        refused(read_table, csv(CONTENT, "a.npz"), match="not an .npz file")
        refused(read_table, csv(b"", "b.npz"), match="not an .npz file")
        np.save(tmp_path / "c.npy", np.zeros(3))
        (tmp_path / "c.npy").rename(tmp_path / "c.npz")
        refused(read_table, tmp_path / "c.npz", match="not an .npz file")


class TestCells:
    def test_records_are_numbers_and_classes_in_the_studys_order(self):
        records = records_of(table_of(), study_of(features=("weight", "age")))
        assert records.features.tolist() == [[60, 30], [70, 40], [80.5, 50], [90, 60]]
        assert records.labels.tolist() == [0, 1, 0, 1]
        assert records.labels.dtype == np.int64
        assert records.units.tolist() == [0, 1, 2, 3]
        assert records.identities[2] == record_identity(np.array([80.5, 50.0]), 0)
        assert records.count == 4

    @pytest.mark.parametrize(
        ("columns", "match", "hint"),
        [
            (
                {"age": f"30 {CONTENT} 50 {CONTENT}"},
                r'^data.csv, line 3: .*"age" holds text where a number .*\(the first of 2 such cells\)$',
                "leave the column out of data.features",
            ),
            ({"age": "1 2 3 1_000"}, r'line 5: column "age" holds text', "point"),
            ({"age": "1 2 3,5 4"}, r'line 4: column "age" holds text where a', "point"),
            ({"age": "1 nan 3 4"}, r'line 3: column "age" is empty, NaN or infinite$', "drop the"),
            (
                {"age": "1 2  4"},
                r'line 4: column "age" is empty, NaN or infinite$',
                "drop the rows",
            ),
            ({"age": "1 2 3 N/A"}, r'line 5: column "age" is empty, NaN', "fill them in"),
            ({"age": "inf 2 3 -inf"}, r"line 2: .*infinite \(the first of 2 such", "fill them in"),
            ({"age": "1 1e999 3 4"}, r'line 3: column "age" is empty, NaN or inf', "fill them in"),
            (
                {"weight": "1 2 201 -1"},
                r'line 4: column "weight" lies beyond its bounds \[0, 200\] \(the first of 2',
                'widen "weight" under [data.bounds], or set data.beyond_bounds = "clamp"',
            ),
            (
                {"ill": f"no yes {CONTENT} no"},
                r'line 4: column "ill" holds a class that the study does not name$',
                'data.classes names "no", "yes"',
            ),
            ({"ill": "no  yes no"}, r'line 3: column "ill" is empty$', "drop the rows"),
        ],
    )
    def test_a_cell_that_cannot_be_used_is_named_by_line_and_column(self, columns, match, hint):
        refused(records_of, table_of(**columns), study_of(), match=match, hint=hint)

    @pytest.mark.parametrize(
        ("columns", "match", "hint"),
        [
            ({"dose": f"1 2 {CONTENT} 4"}, r'line 4: column "dose" holds text', "numbers"),
            ({"dose": "1 2 nan 4"}, r'line 4: column "dose" is empty, NaN', "fill them in"),
            ({"dose": "1 2 3 11"}, r'line 5: column "dose" lies beyond its bounds \[0, 10\]',
             'widen data.label_bounds, or set data.beyond_bounds = "clamp"'),
        ],
    )  # fmt: skip
    def test_a_label_of_a_regression_is_a_number_within_its_bounds(self, columns, match, hint):
        refused(records_of, table_of(**columns), regression_of(), match=match, hint=hint)

    def test_values_beyond_their_bounds_are_kept_raw_where_they_are_to_be_clamped(self):
        study = regression_of(beyond_bounds="clamp")
        records = records_of(table_of(age="1 2 3 999", dose="1 2 3 11"), study)
        assert records.features[3, 0] == 999
        assert records.labels.tolist() == [1, 2, 3, 11]
        refused(records_of, table_of(age="1 2 3 nan"), study_of(beyond_bounds="clamp"), match="NaN")

    @pytest.mark.parametrize(
        ("classes", "cells"),
        [
            (("0", "1"), ["0", "1.0", "1", "0.0"]),
            (("0", "1"), [0.0, 1.0, 1.0, 0.0]),
            (("0.0", "1.0"), [" 0", "1", "1 ", "-0"]),
            (("no", "1"), ["no", "1e0", "01", "no"]),
        ],
    )
    def test_classes_that_are_numbers_match_by_value(self, classes, cells):
        kind = object if isinstance(cells[0], str) else np.float64
        table = Table("t", {"age": np.ones(4), "weight": np.ones(4), "ill": np.array(cells, kind)})
        assert records_of(table, study_of(classes=classes)).labels.tolist() == [0, 1, 1, 0]

    def test_the_text_of_a_class_comes_before_its_value(self):
        study = study_of(classes=("1.0", "1"))
        assert records_of(table_of(ill="1 1.0 1 1.0"), study).labels.tolist() == [1, 0, 1, 0]

    def test_a_number_that_is_no_class_is_refused(self):
        table = Table("t", {"age": np.ones(2), "weight": np.ones(2), "ill": np.array([0.0, 7.5])})
        refused(
            records_of, table, study_of(classes=("0", "1")), match="holds a class that the study"
        )


class TestColumns:
    @pytest.mark.parametrize(
        ("settings", "match", "hint"),
        [
            ({"label": "il"}, r'no column "il", as data.label asks', 'did you mean "ill"?'),
            ({"features": ("agee", "x")}, r'no column "agee", "x", as data.features', '"age"?'),
            ({"features": tuple("abcdef")}, r'"a", "b", "c" and 3 more, as', "names the columns"),
            ({"unit": "patient"}, r'no column "patient", as data.unit asks', "names the columns"),
        ],
    )
    def test_a_missing_column_is_named_with_the_setting_that_asks_for_it(
        self, settings, match, hint
    ):
        refused(records_of, table_of(), study_of(**settings), match=match, hint=hint)

    def test_a_header_that_is_a_record_is_not_shown(self):
        table = Table("data.csv", {CONTENT: np.array(["1"], dtype=object)})
        refused(records_of, table, study_of(), match='there is no column "ill"')

    @pytest.mark.parametrize("settings", [{}, {"trust": "unsafe", "scaling": "standard"}])
    def test_features_without_bounds_are_refused_where_bounds_are_needed(self, settings):
        study = study_of(bounds={"age": (0.0, 200.0)}, **settings)
        refused(
            records_of,
            table_of(),
            study,
            match=r'data.csv: the study gives no public bounds for "weight"$',
            hint='under [data.bounds] add "weight" = [low, high], or default = [low, high]',
        )

    def test_without_privacy_and_scaling_no_bounds_are_needed(self):
        assert records_of(table_of(), study_of(trust="unsafe", bounds={})).count == 4

    def test_a_study_that_is_not_frozen_is_refused(self):
        with pytest.raises(StudyError, match=r"data\.features: expected the names of columns"):
            records_of(table_of(), study_of(features="all"))


class TestUnits:
    def test_records_of_one_unit_are_grouped_by_its_text_in_the_order_of_their_first_rows(self):
        study = study_of(unit="who", records_per_unit=2)
        records = records_of(table_of(who=["b", "a", " b", "c"]), study)
        assert records.units.tolist() == [0, 1, 0, 2]
        assert records.identities == [unit_identity(each) for each in "bac"]
        assert len(records.train) == 3

    @pytest.mark.parametrize("cell", ["", " ", "NaN", "null"])
    def test_a_record_without_a_unit_is_refused(self, cell):
        study = study_of(unit="who")
        refused(
            records_of, table_of(who=["b", "a", cell, "c"]), study,
            match=r'line 4: column "who" is empty, so its record belongs to no unit', hint="drop",
        )  # fmt: skip

    def test_a_number_names_the_same_unit_in_every_kind_of_file(self):
        columns = {"age": np.ones(2), "weight": np.ones(2), "ill": np.array(["no", "yes"], object)}
        study = study_of(unit="who")
        text = records_of(Table("t", columns | {"who": np.array(["12", "7"], object)}), study)
        number = records_of(Table("t", columns | {"who": np.array([12.0, 7.0])}), study)
        assert text.identities == number.identities

    def test_equal_records_are_separate_units_of_equal_identity(self):
        records = records_of(
            table_of(age="1 1 1 1", weight="2 2 2 2", ill="no no no no"), study_of()
        )
        assert records.units.tolist() == [0, 1, 2, 3]
        assert len(set(records.identities)) == 1
        assert len(set(records.train)) == 1

    @settings(deadline=None)
    @given(st.data())
    def test_removing_rows_leaves_every_other_record_and_its_part_as_they_were(self, draw):
        rows = draw.draw(
            st.lists(
                st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(["no", "yes"])),
                min_size=1,
                max_size=30,
            )
        )
        kept = sorted(draw.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1)))

        def records(chosen):
            age, weight, ill = (list(map(str, each)) for each in zip(*chosen, strict=True))
            return records_of(table_of(age=age, weight=weight, ill=ill), study_of())

        whole, part = records(rows), records([rows[each] for each in kept])
        assert part.identities == [whole.identities[each] for each in kept]
        assert part.train.tolist() == whole.train[kept].tolist()
        assert part.features.tobytes() == whole.features[kept].tobytes()

    def test_selected_units_are_renumbered_and_keep_all_of_their_records(self):
        study = study_of(unit="who", records_per_unit=2)
        records = records_of(table_of(who="a b a c"), study)
        chosen = records.select(np.array([2, 0]))
        assert chosen.units.tolist() == [1, 1, 0]
        assert chosen.features[:, 0].tolist() == [30, 50, 60]
        assert chosen.identities == [records.identities[2], records.identities[0]]
        assert chosen.train.tolist() == [records.train[2], records.train[0]]
        assert chosen.name == records.name

    def test_no_unit_is_selected_twice_and_none_is_possible(self):
        records = records_of(table_of(), study_of())
        empty = records.select(np.zeros(0, dtype=np.int64))
        assert empty.features.shape == (0, 2)
        assert empty.count == 0
        with pytest.raises(ValueError, match="every unit at most once"):
            records.select(np.array([1, 1]))

    def test_the_two_parts_are_all_units(self):
        ages = [str(each) for each in range(100)]
        table = table_of(age=ages, weight=ages, ill=["no", "yes"] * 50)
        records = records_of(table, study_of())
        train, test = records.train_part(), records.test_part()
        assert sorted(train.identities + test.identities) == sorted(records.identities)
        assert train.train.all()
        assert not test.train.any()
        assert 0 < test.count < train.count


class TestChecks:
    def records(self, labels, train, kind=np.int64):
        count = len(labels)
        return Records(
            features=np.zeros((count, 2)),
            labels=np.array(labels, dtype=kind),
            units=np.arange(count),
            identities=[bytes([each]) for each in range(count)],
            train=np.array(train, dtype=np.bool_),
            name="data.csv",
        )

    def test_records_that_can_train_and_test_pass(self):
        check_pooled(self.records([0, 1, 0], [1, 1, 0]), study_of())
        check_pooled(self.records([0, 1, 0], [1, 1, 0]), study_of(), sites=3)
        check_pooled(self.records([0, 1], [1, 1]), study_of(test_fraction=0.0))
        check_pooled(self.records([2.0, 2.0, 2.0], [1, 1, 0], float), regression_of())

    @pytest.mark.parametrize(
        ("labels", "train", "match", "hint"),
        [
            ([0, 0, 1], [1, 1, 0], r'column "ill" holds one class only in all training', "two"),
            ([0, 1, 1], [0, 0, 0], "no record is for training", "a smaller data.test_fraction"),
            ([0, 1, 1], [1, 1, 1], "no record is for testing", "a larger data.test_fraction"),
        ],
    )
    def test_records_that_cannot_train_and_test_are_refused(self, labels, train, match, hint):
        refused(check_pooled, self.records(labels, train), study_of(), match=match, hint=hint)

    def test_fewer_units_than_sites_are_refused(self):
        study = study_of()
        study = replace(study, sites=Sites(minimum=4))
        refused(
            check_pooled,
            self.records([0, 1, 0], [1, 1, 0]),
            study,
            match="at least one unit for each of 4 sites, found 3",
            hint="fewer sites",
        )

    def test_a_site_holds_no_more_training_units_than_the_public_capacity(self):
        check_site(self.records([0, 0, 0], [1, 1, 0]), study_of(maximum_records=2))
        refused(
            check_site,
            self.records([0, 0, 0], [1, 1, 1]),
            study_of(maximum_records=2),
            match="at most 2 training units at one site, found 3",
            hint="raise sites.maximum_records",
        )

    def test_a_site_may_hold_one_class_or_nothing(self):
        check_site(self.records([1, 1], [1, 1]), study_of())
        check_site(self.records([], []), study_of())
