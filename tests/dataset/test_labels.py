import dataclasses

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.dataset.label.join import LabelSpec, join, read_table
from medvit.dataset.scan import JOINS
from medvit.errors import ConfigError, DataError


def mask(kind, *parts):
    return f"{kind}:{'/'.join(parts)}"[::-1]


def images(values, on="AccessionNumber"):
    frame = pd.DataFrame({"uid": [f"u{i}" for i in range(len(values))], "patient": "p", "study": "s"})
    frame["files"] = [[f"d/f{i}.png"] for i in range(len(values))]
    for key in JOINS:
        frame[f"on.{key}"] = [mask(f"on.{key}", value) for value in values] if key == on else ""
    return frame


NONE = images([])


def joined(tmp_path, text, values, spec=None, excluded=NONE):
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    given_spec = LabelSpec(path, **{"target": ("y",), **(spec or {})})
    return join(images(values), excluded, read_table(given_spec), given_spec, mask)


def test_bom_semicolons_crlf_and_decimal_commas_are_read_and_stated(tmp_path):
    text = "\ufeffAccessionNumber;y;age\r\nA;1;3,5\r\nB;0;4,25\r\n".encode()
    result, notes = joined(tmp_path, text, ["A", "B"], {"keep": ("age",)})
    assert list(result["label.y"]) == [1, 0]
    assert list(result["table.age"]) == [3.5, 4.25]
    assert "UTF-8 with BOM, ';' between columns, CRLF" in notes[0]
    assert "column age: decimal comma" in notes


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_other_encodings_are_read_and_stated(tmp_path, encoding):
    result, notes = joined(tmp_path, "AccessionNumber,y\nA,größer\nB,kleiner\n".encode(encoding), ["A", "B"])
    assert list(result["label.y"]) == ["größer", "kleiner"]
    assert {"utf-16": "UTF-16", "cp1252": "Windows-1252"}[encoding] in notes[0]


def test_a_quoted_comma_does_not_fool_the_delimiter(tmp_path):
    result, _ = joined(tmp_path, 'AccessionNumber,y\nA,"mass, left"\nB,none\n', ["A", "B"])
    assert list(result["label.y"]) == ["mass, left", "none"]


def test_leading_zeros_of_identifiers_are_kept(tmp_path):
    result, _ = joined(tmp_path, "AccessionNumber,y\n007,1\n7,0\n", ["007", "7"])
    assert list(result["label.y"]) == [1, 0]


def test_missing_labels_stay_missing_and_none_is_a_word(tmp_path):
    result, _ = joined(tmp_path, "AccessionNumber,y\nA,none\nB,\nC,virus\n", ["A", "B", "C"])
    assert list(result["label.y"].isna()) == [False, True, False]
    assert result["label.y"][0] == "none"


def test_missing_columns_are_all_named_with_the_nearest(tmp_path):
    with pytest.raises(DataError) as error:
        joined(tmp_path, "Accession,findng\nA,1\n", ["A"], {"target": ("finding",), "keep": ("site",)})
    text = str(error.value)
    assert "nearest: 'Accession'" in text
    assert "nearest: 'findng'" in text
    assert "labels.keep: no column 'site'" in text


def test_rows_that_disagree_are_refused_and_equal_ones_are_counted(tmp_path):
    with pytest.raises(DataError, match=r"E-LABEL 1 keys .*disagree in y"):
        joined(tmp_path, "AccessionNumber,y\nA,1\nA,0\nB,0\n", ["A", "B"])
    _, notes = joined(tmp_path, "AccessionNumber,y\nA,1\nA,1\nB,0\n", ["A", "B"])
    assert "1 repeated label rows that agree" in notes


def test_no_raw_identifier_stands_in_a_join_error(tmp_path):
    with pytest.raises(DataError) as error:
        joined(tmp_path, "AccessionNumber,y\nSECRET1,1\nSECRET2,0\nA,1\n", ["A", "SECRET3"])
    assert "1 images have no label row" in str(error.value)
    assert "2 label rows have no image" in str(error.value)
    assert "SECRET" not in str(error.value)


def test_unmatched_images_are_kept_without_label_or_dropped(tmp_path):
    text = "AccessionNumber,y\nA,1\nB,0\nZ,0\n"
    kept, notes = joined(tmp_path, text, ["A", "B", "C"], {"unmatched": "keep"})
    assert kept["label.y"].isna().sum() == 1
    assert "2 of 3 images and 2 of 3 label rows match" in notes
    dropped, _ = joined(tmp_path, text, ["A", "B", "C"], {"unmatched": "drop"})
    assert list(dropped["uid"]) == ["u0", "u1"]


def test_a_label_row_of_a_refused_object_is_explained(tmp_path):
    text = "AccessionNumber,y\nA,1\nB,0\nC,1\n"
    result, _ = joined(tmp_path, text, ["A", "B"], excluded=images(["C"]))
    assert len(result) == 2


def test_a_join_on_the_wrong_identifier_names_the_right_one(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("AccessionNumber,y\n01,1\n2,0\n")
    spec = LabelSpec(path, ("y",))
    with pytest.raises(DataError, match=r"2 rows would match on PatientID with leading zeros removed"):
        join(images(["1", "2"], on="PatientID"), NONE, read_table(spec), spec, mask)


def test_one_class_only_is_refused(tmp_path):
    with pytest.raises(DataError, match="one class only: y has 1 value in 2"):
        joined(tmp_path, "AccessionNumber,y\nA,1\nB,1\n", ["A", "B"])


def test_names_that_stand_twice_are_not_joined_by_name(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("path,y\nf0.png,1\nf1.png,0\n")
    spec = LabelSpec(path, ("y",), on="path")
    twice = pd.concat([images(["A", "B"]), images(["C"])], ignore_index=True)
    twice.at[2, "files"] = ["other/f0.png"]
    with pytest.raises(DataError, match="several folders"):
        join(twice, NONE, read_table(spec), spec, mask)


def test_settings_that_do_not_exist_are_named():
    with pytest.raises(ConfigError, match=r"nearest: 'AccessionNumber'[\s\S]*unmatched='maybe'[\s\S]*target is empty"):
        LabelSpec("x.csv", (), on="Accesion Number", unmatched="maybe")


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text("AB01;|, \"'", min_size=1, max_size=8).map(str.strip).filter(bool), st.integers(0, 3), min_size=2
    )
)
def test_any_identifiers_survive_the_csv(tmp_path_factory, labels):
    if len(set(labels.values())) < 2:
        return
    folder = tmp_path_factory.mktemp("csv")
    pd.DataFrame({"AccessionNumber": list(labels), "y": list(labels.values())}).to_csv(folder / "in.csv", index=False)
    result, _ = joined(folder, (folder / "in.csv").read_bytes(), list(labels))
    assert list(result["label.y"]) == list(labels.values())


def test_rows_are_taken_by_a_value_and_a_wrong_column_or_value_is_named(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("ID,READPRJ,grade\na,15,1\na,42,4\nb,15,0\nc,37,2\n")
    spec = LabelSpec(path, ("grade",), on="path", column="ID", where={"READPRJ": 15})
    table = read_table(spec)
    assert table.rows[["ID", "grade"]].to_numpy().tolist() == [["a", 1], ["b", 0]]
    assert "2 of 4 rows left out, READPRJ is not 15" in table.notes
    with pytest.raises(DataError, match=r"'READPR'.*nearest: 'READPRJ'"):
        read_table(dataclasses.replace(spec, where={"READPR": 15}))
    with pytest.raises(DataError, match="no row has 16 or 17 in column 'READPRJ'"):
        read_table(dataclasses.replace(spec, where={"READPRJ": [16, 17]}))


def test_everything_wrong_with_the_labels_is_told_in_one_message(tmp_path):
    text = "AccessionNumber,y,z\nA,1,1\nA,0,1\nB,1,1\nX,1,1\n"
    with pytest.raises(DataError) as caught:
        joined(tmp_path, text, ["A", "B", "C"], {"target": ("y", "z")})
    told = str(caught.value)
    assert "E-LABEL 1 keys have label rows that disagree in y" in told
    assert "1 images have no label row" in told
    assert "1 label rows have no image" in told
    assert "one class only: y has 1 value in 2 labelled images; z has 1 value" in told


@pytest.mark.parametrize("ending", [",\n", ", ,\n"])
def test_an_empty_cell_too_many_moves_no_column(tmp_path, ending):
    rows = [f"{key},{y},{site}" for key, y, site in (("A", 1, "x"), ("B", 0, "y"))]
    text = "AccessionNumber,y,site\n" + "".join(row + ending for row in rows)
    result, _ = joined(tmp_path, text, ["A", "B"], {"keep": ("site",)})
    assert list(result["label.y"]) == [1, 0]
    assert list(result["table.site"]) == ["x", "y"]


def test_rows_longer_than_the_header_are_refused_by_line(tmp_path):
    with pytest.raises(DataError, match=r"1 rows are longer than the header of 2 columns.*line 3"):
        joined(tmp_path, "AccessionNumber,y\nA,1\nB,0,mass\n", ["A", "B"])


def test_rows_that_end_early_are_told(tmp_path):
    result, notes = joined(tmp_path, "AccessionNumber;site;y\nA;x;1\nB;x;0\nC;x\n", ["A", "B", "C"])
    assert list(result["label.y"].isna()) == [False, False, True]
    assert "1 rows end early; their last columns are taken as empty" in notes


def test_of_two_columns_with_one_name_neither_is_taken(tmp_path):
    with pytest.raises(DataError, match=r"no column 'y'; it has AccessionNumber, y\.1, y\.2"):
        joined(tmp_path, "AccessionNumber,y,y\nA,1,0\nB,0,1\n", ["A", "B"])
    result, _ = joined(tmp_path, "AccessionNumber,y,note,note\nA,1,0,\nB,0,1,\n", ["A", "B"])
    assert list(result["label.y"]) == [1, 0]


@pytest.mark.parametrize(
    ("raw", "told"),
    [(b"", "is empty"), (b" \r\n\r\n", "is empty"), (b"PK\x03\x04\x00\xff", "save the sheet as CSV")],
)
def test_an_empty_file_and_a_workbook_are_named(tmp_path, raw, told):
    with pytest.raises(DataError, match=told):
        joined(tmp_path, raw, ["A"])


def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path):
    with pytest.raises(DataError, match="is no table with"):
        joined(tmp_path, 'AccessionNumber,y\nA,1\nB,"0\nC,1\nD,0\n', ["A", "B", "C", "D"])


def test_a_patient_number_of_the_table_keeps_its_zeros_beside_rows_without_one(tmp_path):
    text = "AccessionNumber,y,pid\nA,1,007\nB,0,\nC,0,7\n"
    result, _ = joined(tmp_path, text, ["A", "B", "C"], {"patient": "pid"})
    assert list(result["patient"]) == [mask("patient", "", "007"), "p", mask("patient", "", "7")]


def test_rows_without_a_key_are_counted(tmp_path):
    _, notes = joined(tmp_path, "AccessionNumber,y\nA,1\n,1\nB,0\n", ["A", "B"])
    assert "1 rows are left out, AccessionNumber is empty" in notes


@pytest.mark.parametrize(
    "spec", [{"keep": ("AccessionNumber",)}, {"patient": "pid", "keep": ("pid",)}, {"target": ("PatientName",)}]
)
def test_a_column_of_identifiers_is_not_carried_into_the_manifest(tmp_path, spec):
    with pytest.raises(ConfigError, match="identifies patients or studies"):
        LabelSpec(tmp_path / "labels.csv", **{"target": ("y",), **spec})


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("films/f0.png", "films/f1.png"), "2 rows would match without their folders"),
        (("007", "8"), "2 rows would match without leading zeros"),
        (("7.0", "8.0"), "2 rows would match without leading zeros"),
        (("BEFUND.PNG", "u\u0308ber.jpg"), "2 rows would match but for capitals, the suffix or the Unicode form"),
    ],
)
def test_paths_that_just_miss_say_what_is_in_the_way(tmp_path, names, told):
    path = tmp_path / "labels.csv"
    path.write_text("file,y\n" + "".join(f"{name},{row}\n" for row, name in enumerate(names)))
    frame = images(["A", "B"])
    files = {"f": ("f0.png", "f1.png"), "B": ("Befund.png", "\u00fcber.jpeg")}.get(
        names[0][0], ("0007.png", "0008.png")
    )
    frame["files"] = [[file] for file in files]
    spec = LabelSpec(path, on="path", column="file", target=("y",))
    with pytest.raises(DataError, match=told):
        join(frame, NONE, read_table(spec), spec, mask)


def test_the_first_folder_can_name_the_participant(tmp_path):
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\ty\nsub-01\t1\nsub-02\t0\n")
    frame = images(["A", "B", "C"])
    frame["files"] = [["sub-01/anat/a.nii.gz"], ["sub-01/anat/b.nii.gz"], ["sub-02/anat/a.nii.gz"]]
    spec = LabelSpec(path, on="path", column="participant_id", target=("y",))
    result, notes = join(frame, NONE, read_table(spec), spec, mask)
    assert list(result["label.y"]) == [1, 1, 0]
    assert "joined on path by first folder" in notes


@pytest.mark.parametrize(
    ("repeated", "values", "told"),
    [
        ("majority", ("-1", "-1", "0"), "only 0 and 1: y holds -1, 0"),
        ("majority", ("3", "3", "0"), "only 0 and 1: y holds 0, 3"),
        ("max", ("-1", "0", "1"), "-1 .uncertain. has none: y holds -1, 0, 1"),
        ("max", ("mild", "none", "1"), "y holds words"),
    ],
)
def test_rows_of_one_key_are_settled_only_where_the_values_allow_it(tmp_path, repeated, values, told):
    """A majority once made every grade a 1 and every uncertain label a 0."""
    text = "AccessionNumber,y\nA,{}\nA,{}\nB,{}\n".format(*values)
    with pytest.raises(DataError, match=told):
        joined(tmp_path, text, ["A", "B"], {"repeated": repeated})


def test_the_highest_of_several_numbers_may_be_negative(tmp_path):
    text = "AccessionNumber,y\nA,-2.5\nA,-1\nB,0.5\n"
    result, _ = joined(tmp_path, text, ["A", "B"], {"repeated": "max"})
    assert list(result["label.y"]) == [-1, 0.5]


def test_rows_without_a_key_take_nothing_from_a_further_table(tmp_path):
    (tmp_path / "more.csv").write_text("pid,y\n1,0\n,1\n2,1\n")
    spec = {"more": ({"csv": str(tmp_path / "more.csv"), "on": "pid"},)}
    text = "AccessionNumber,pid\nA,1\nB,\nC,2\n"
    with pytest.raises(DataError, match="1 of 3 rows have no counterpart by pid"):
        joined(tmp_path, text, ["A", "B", "C"], spec)
    result, _ = joined(tmp_path, text, ["A", "B", "C"], {**spec, "unmatched": "keep"})
    assert result["label.y"].isna().tolist() == [False, True, False]


def test_a_key_on_two_lists_of_a_split_is_refused(tmp_path):
    for side, keys in (("train", "A\nB\n"), ("test", "B\nC\n")):
        (tmp_path / f"{side}.txt").write_text(keys)
    lists = {side: tmp_path / f"{side}.txt" for side in ("train", "test")}
    with pytest.raises(DataError, match="1 keys stand in several lists"):
        joined(tmp_path, "AccessionNumber,y\nA,1\nB,0\nC,1\n", ["A", "B", "C"], {"lists": lists, "keep": ("split",)})


def test_an_empty_cell_says_nothing_of_what_is_sought_in_it(tmp_path):
    rule = {"y": {"column": "report", "pattern": "mass", "found": 1, "missing": 0}}
    text = "AccessionNumber,report\nA,a mass\nB,\nC,clear\n"
    result, _ = joined(tmp_path, text, ["A", "B", "C"], {"derive": rule})
    assert result["label.y"].isna().tolist() == [False, True, False]
    assert result["label.y"].dropna().tolist() == [1, 0]


def test_two_columns_that_list_one_finding_are_refused(tmp_path):
    text = "AccessionNumber,one,two\nA,mass|node,node\nB,node,effusion\n"
    with pytest.raises(DataError, match="both list 1 findings, such as 'node'"):
        joined(tmp_path, text, ["A", "B"], {"target": ("one", "two"), "separator": "|"})


def test_a_study_number_of_the_table_counts_within_its_patient(tmp_path):
    """Visit 1 of two patients was one study: a bag of both, judged as one unit."""
    text = "AccessionNumber,who,visit,y\nA,p1,1,0\nB,p2,1,1\nC,p1,1,0\nD,p1,2,1\n"
    result, _ = joined(tmp_path, text, ["A", "B", "C", "D"], {"patient": "who", "study": "visit"})
    a, b, c, d = result["study"]
    assert a == c
    assert len({a, b, d}) == 3


def test_a_label_that_stands_in_two_tables_is_refused(tmp_path):
    """The one of the first table was taken, whatever the second said."""
    (tmp_path / "expert.csv").write_text("AccessionNumber,y\nA,0\nB,1\n")
    spec = {"more": ({"csv": str(tmp_path / "expert.csv"), "on": "AccessionNumber"},)}
    with pytest.raises(DataError, match=r"labels\.more: y stands in two tables"):
        joined(tmp_path, "AccessionNumber,y\nA,1\nB,0\n", ["A", "B"], spec)


def test_identifiers_whose_leading_zeros_a_spreadsheet_dropped_are_told(tmp_path):
    cause = "3 of 3 rows are the AccessionNumber of an image as a number: leading zeros are lost in the table"
    with pytest.raises(DataError, match=rf"no image matches on AccessionNumber \({cause}"):
        joined(tmp_path, "AccessionNumber,y\n12,1\n13.0,0\n100,0\n", ["000012", "000013", "00100"])
    with pytest.raises(DataError, match="1 of 2 rows are the AccessionNumber of an image as a number"):
        joined(tmp_path, "AccessionNumber,y\nA1,1\n12,0\nB,0\n", ["A1", "000012"])


def test_a_column_of_the_table_given_as_an_identifier_of_the_images_is_told_its_setting():
    with pytest.raises(ConfigError, match=r"labels\.on='study_no'.*give labels\.column=study_no and say"):
        LabelSpec("x.csv", ("y",), on="study_no")
