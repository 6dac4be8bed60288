"""Tables, labels of any kind, shares by class, and standardisation."""

import numpy as np
import pytest

from nnjax.data import Dataset, load, split, standardize
from nnjax.data.dataset import guessed_task
from nnjax.data.tables import encode, read_csv, read_rows, unstandardized


def test_a_csv_file_is_a_data_set(tmp_path):
    lines = [f"{i},{i % 7}.5,{('cat', 'dog')[i % 2]}" for i in range(40)]
    (tmp_path / "pets.csv").write_text("\n".join(["age,size,species", *lines, ""]))
    data = load(tmp_path / "pets.csv")
    assert data.classes == ("cat", "dog")
    assert [len(x) for x, _ in data] == [28, 4, 8]
    for x, y in data:
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(x[:, 0] % 2, y)  # rows stay together
    again = load(str(tmp_path / "pets.csv"))
    np.testing.assert_array_equal(again.train[0], data.train[0])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("names", "target", "column"),
    [("a b class", None, 2), ("label b c", None, 0), ("a b c", "b", 1), ("a b c", None, 2)],
)
def test_the_column_of_the_labels(tmp_path, delimiter, names, target, column):
    path = tmp_path / "a.csv"
    path.write_text(
        "\ufeff" + "\r\n".join(delimiter.join(r) for r in (names.split(), "123", "456"))
    )
    table = read_csv(path, target)
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(table.x, np.delete(rows, column, axis=1))
    assert table.y.tolist() == [str(v) for v in rows[:, column]]
    assert table.targets == (names.split()[column],)
    assert table.features == tuple(np.delete(names.split(), column))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a line with the names of the columns, then lines of values"),
        ("a,b\n", "expected a line with the names"),
        ("a\n1\n", "expected a line with the names"),
        ("a,b,c\n1,2,x\n3,x\n", "line 3 has 2 values, expected 3, one per column"),
        ("a,b,c\n1,2,x\n3,four,x\n", "line 3, column 'b': expected a number, got 'four'"),
        ("a,b,c\n1,,x\n", "line 2, column 'b': expected a number, got nothing"),
        ("a,b,c\n\n1,2,3.5\n3,4, \n", "line 4, column 'c': expected a label or a number, got noth"),
        ('a,b,c\n1,2,"x\n"\n3,four,x\n', "line 4, column 'b': expected a number, got 'four'"),
        ("a,a,c\n1,2,x\n", "two columns have the name 'a'; expected different names"),
    ],
)
def test_tables_that_are_not_data(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.csv: {message}"):
        load(tmp_path / "a.csv")


def test_other_refusals(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"has no column 'c'; its columns are a, b"):
        load(tmp_path / "a.csv", target="c")
    (tmp_path / "a.csv").write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(ValueError, match=r"a\.csv: not a CSV file in UTF-8"):
        load(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("a,b\nnan,2\n" + "1,2\n" * 20)
    with pytest.raises(ValueError, match="line 2, column 'a': expected a finite number of at mos"):
        load(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="target names a column of a CSV file"):
        load("digits", target="class")


def test_shares_are_of_each_class():
    x, y = np.arange(1000.0)[:, None], np.repeat(["a", "b"], [100, 900])
    data = split(x, y, validation=0.1, test=0.3)
    assert [np.bincount(part[1]).tolist() for part in data] == [[60, 540], [10, 90], [30, 270]]
    assert sorted(np.concatenate([part[0][:, 0] for part in data])) == list(range(1000))
    other = split(x, y, validation=0.1, test=0.3, seed=1)
    assert (other.train[0] != data.train[0]).any()
    whole = split(x, y, validation=0, test=0)
    assert (len(whole.train[0]), whole.validation, whole.test) == (1000, None, None)


@pytest.mark.parametrize(
    "shares",
    [{"test": 1}, {"validation": -0.1}, {"validation": 0.6, "test": 0.5}, {"test": "0.2"}],
)
def test_shares_out_of_range(shares):
    with pytest.raises(ValueError, match="must be shares from 0 to below 1, and together below 1"):
        split(np.eye(4), [0, 1, 0, 1], **shares)


def test_too_few_examples():
    with pytest.raises(ValueError, match="4 examples are too few for the shares"):
        split(np.eye(4), [0, 1, 0, 1], validation=0, test=0.01)
    with pytest.raises(ValueError, match="x has 4 examples and y has 3 labels"):
        split(np.eye(4), [0, 1, 0])


@pytest.mark.parametrize(
    ("y", "task"),
    [
        ([0.5, 1, 2], "regression"),
        ([float(i) for i in range(40)], "regression"),
        ([float(i % 20) for i in range(400)], "classification"),
        ([float(i % 25) for i in range(1000)], "classification"),
        (list(range(40)), "classification"),
        ([[0.5, 1], [2, 3]], "regression"),
        ([[1, 1], [0, 1]], "multilabel"),
        ([[True, False], [False, False]], "multilabel"),
        ([[1, 0], [0, 1]], "classification"),
        (["a", "b"], "classification"),
    ],
)
def test_what_targets_look_like(y, task):
    assert guessed_task(np.array(y)) == task


def test_numbers_and_labels_as_targets():
    x, y = np.arange(40.0)[:, None], np.arange(40) / 8
    data = split(x, y)
    assert (data.task, data.classes) == ("regression", ())
    for x_part, y_part in data:
        np.testing.assert_array_equal(x_part[:, 0] / 8, y_part)
        assert y_part.dtype == np.float32
    assert [len(part[1]) for part in data] == [28, 4, 8]
    two = split(x, np.stack([y, -y], axis=1)).test[1]
    np.testing.assert_array_equal(two[:, 0], -two[:, 1])
    assert split(x, range(40), task="regression").train[1].dtype == np.float32
    labels = split(x, np.stack([y > 1, y > 2], axis=1))
    assert (labels.task, labels.train[1].dtype) == ("multilabel", np.uint8)


def test_standardised_targets():
    data = split(np.eye(40), 1000 + 10 * np.arange(40) / 8)
    scaled = standardize(data, inputs=False, targets=True)
    np.testing.assert_array_equal(scaled.train[0], data.train[0])
    mean, deviation = scaled.target_standardization
    assert (mean, deviation) == (data.train[1].mean(), pytest.approx(data.train[1].std()))
    assert scaled.standardization is None
    back = unstandardized(scaled.test[1], scaled.target_standardization)
    np.testing.assert_allclose(back, data.test[1], rtol=1e-6)
    with pytest.raises(ValueError, match="y holds int32 classes or labels; only the numbers of a"):
        standardize(split(np.eye(10), ["a", "b"] * 5), targets=True)
    with pytest.raises(TypeError, match="inputs is 'x'; expected True or False"):
        standardize(data, inputs="x")


def test_standardised_again_the_units_are_the_first_ones():
    rng = np.random.default_rng(0)
    x, y = rng.normal([5, -2], [2, 0.1], (50, 2)), rng.normal(300, 20, 50)
    once = standardize(split(x, y), targets=True)
    twice = standardize(once, targets=True)
    for name in ("standardization", "target_standardization"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), rtol=1e-5)
    moved = once._replace(train=(once.train[0][:20], once.train[1][:20]))
    moved = standardize(moved, targets=True)  # another mean, another deviation
    for k, name in enumerate(("standardization", "target_standardization")):
        back = unstandardized(moved.test[k], getattr(moved, name))
        np.testing.assert_allclose(back, split(x, y).test[k], rtol=1e-5)


def test_targets_of_a_csv_file(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{i},{i % 2},{i % 3 // 2},{i}.0" for i in range(60)]
    path.write_text("\n".join(["a,b,c,d", *rows]))
    data = load(path)  # very many different numbers
    assert (data.task, data.features, data.classes) == ("regression", ("a", "b", "c"), ("d",))
    assert load(path, target="b", task="classification").classes == ("0", "1")
    several = load(path, target=["b", "c"])
    assert (several.task, several.features, several.classes) == (
        "multilabel",
        ("a", "d"),
        ("b", "c"),
    )
    np.testing.assert_array_equal(several.train[0][:, 0] % 2, several.train[1][:, 0])
    with pytest.raises(ValueError, match=r"a\.csv: every column is a target; expected"):
        load(path, target=list("abcd"))
    with pytest.raises(ValueError, match=r"y must be zeros and ones of shape \(n, k\) for several"):
        load(path, target=["a", "b"], task="multilabel")
    with pytest.raises(ValueError, match="task is 'sorting'; expected one of classification"):
        load(path, task="sorting")
    path.write_text("a,b\n1,2\n2,x\n")
    with pytest.raises(ValueError, match=r"a\.csv: line 3, column 'b': expected a number, got 'x'"):
        load(path, task="regression")


def test_columns_by_their_names(tmp_path):
    (tmp_path / "a.csv").write_text("id;b;a\nx;1;2\ny;3;4\n")
    x, lines = read_rows(tmp_path / "a.csv", ["a", "b"])
    assert x.tolist() == [[2, 1], [4, 3]]
    assert lines == (2, 3)
    with pytest.raises(ValueError, match=r"has no column 'c', 'd'; expected the features a, c, d"):
        read_rows(tmp_path / "a.csv", ["a", "c", "d"])


def test_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "a.csv").write_text('a,b,note\n\n1,2,"of\ntwo lines"\n\n3,4,\n')
    x, lines = read_rows(tmp_path / "a.csv", ["a", "b"])
    assert x.tolist() == [[1, 2], [3, 4]]
    assert lines == (4, 6)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e39"])
def test_numbers_that_are_not_finite_are_refused_where_they_stand(tmp_path, value):
    (tmp_path / "a.csv").write_text(f"a,b\n1,2\n\n3,{value}\n")
    sentence = rf"line 4, column 'b': expected a finite number of at most .*, got '{value}'"
    with pytest.raises(ValueError, match=sentence):
        read_rows(tmp_path / "a.csv", ["a", "b"])
    with pytest.raises(ValueError, match=sentence):
        load(tmp_path / "a.csv", task="regression")


@pytest.mark.parametrize(
    ("y", "labels", "names"),
    [
        (["b", "a", "b"], [1, 0, 1], ("a", "b")),
        ([3, 1, 3], [1, 0, 1], ("1", "3")),
        ([10, 9, 2], [2, 1, 0], ("2", "9", "10")),
        ([1.0, 0.0], [1, 0], ("0", "1")),
        ([True, False], [1, 0], ("False", "True")),
        (np.array(["x", 1], object), [1, 0], ("1", "x")),
    ],
)
def test_labels_of_every_kind(y, labels, names):
    found, classes = encode(y)
    assert (found.tolist(), classes, found.dtype) == (labels, names, np.int32)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.5, 1], "real numbers that are not whole"),
        ([np.nan, 1], "real numbers that are not whole"),
        ([[0], [1]], r"one label per example, shape \(n,\), got shape \(2, 1\)"),
        ([], "one label per example"),
        (np.array(["nan", np.nan, None], object), "y has no label for 2 of 3 examples"),
        ([1j], "must hold labels"),
    ],
)
def test_what_is_not_a_label(y, message):
    with pytest.raises(ValueError, match=message):
        encode(y)


def test_standardised_by_the_training_data():
    rng = np.random.default_rng(0)
    x, y = rng.normal([5, -2, 7], [2, 0.1, 0], (50, 3)).astype(np.float32), np.arange(50) % 2
    data = standardize(Dataset((x[:30], y[:30]), (x[30:], y[30:]), None, ("a", "b")))
    np.testing.assert_allclose(data.train[0].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data.train[0].std(0), [1, 1, 0], atol=1e-5)
    mean, deviation = data.standardization
    np.testing.assert_allclose(data.validation[0], (x[30:] - mean) / deviation, atol=1e-5)
    assert (data.test, data.classes) == (None, ("a", "b"))

    images = load("digits")
    mean, deviation = standardize(images).standardization
    constant = np.full((7, 1), 0.1)  # in float64, whose mean is not 0.1 to the last digit
    assert constant.std() > 0
    data = standardize(Dataset((constant, y[:7]), (constant + 1, y[:7]), None))
    assert not data.train[0].any()
    np.testing.assert_allclose(data.validation[0], 1)
    np.testing.assert_allclose(
        (mean, deviation), (images.train[0].mean(), images.train[0].std()), rtol=1e-5
    )


def test_a_data_set_is_its_three_parts():
    part = np.eye(2), np.arange(2)
    data = Dataset(part, None, part, ("a", "b"))
    train, validation, test = data
    assert (train, validation, test) == (part, None, part)
    assert Dataset(train=part, validation=None, test=None).classes == ()
    assert data._replace(test=None).classes == ("a", "b")
    assert data._replace(features=("u", "v"))._replace(test=None).features == ("u", "v")
    assert data._asdict().keys() == {"train", "validation", "test"}


def test_pandas():
    """Whatever offers itself as an array, as pandas and scikit-learn do."""

    class Frame:
        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values, dtype)

        def __len__(self):
            return len(self.values)

    data = split(Frame([[1, 2]] * 10), Frame(np.array(["u", "v"] * 5, object)))
    assert data.classes == ("u", "v")
    assert data.train[0].dtype == np.float32
