"""`nnjax predict`: pictures are read in whatever form the training images had."""

import json

import numpy as np
import pytest
from PIL import Image
from thinning import thinned

from nnjax.cli import main
from nnjax.data import load
from nnjax.data.images import prepare

FORMS = {
    "grey levels": lambda x: np.rint(255 * x).astype(np.uint8),
    "0 to 16": lambda x: 16 * x,
    "dark on light": lambda x: 1 - x,
    "dark on light, whole": lambda x: np.rint(255 - 255 * x).astype(np.uint8),
    "standardised": lambda x: (x - 0.3) / 0.4,
    "-1 to 1": lambda x: 2 * x - 1,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files with digits, dark on light and light on dark, and what they show."""
    folder = tmp_path_factory.mktemp("pictures")
    x, y = load("digits").test
    files = []
    for i in range(40):
        light = Image.new("L", (150, 120), 0)
        light.paste(Image.fromarray(np.uint8(255 * x[i, :, :, 0])).resize((90, 90)), (40, 10))
        paper = Image.eval(light, lambda level: 255 - level) if i % 2 else light
        paper.save(folder / f"{i:02}.png")
        files.append(str(folder / f"{i:02}.png"))
    return files, y[:40]


def write(path, form):
    arrays = {}
    for part, (x, y) in load("digits")._asdict().items():
        arrays |= {f"x_{part}": form(x), f"y_{part}": y}
    np.savez(path, **arrays)


@pytest.mark.parametrize("form", thinned(FORMS, str))
def test_pictures_are_read_in_the_form_of_the_training_images(tmp_path, pictures, capsys, form):
    write(tmp_path / "digits.npz", FORMS[form])
    run = str(tmp_path / "run")
    rate = "0.0005" if form == "0 to 16" else "0.02"
    options = ["--hidden", "64", "--epochs", "15", "--rate", rate, "--out", run]
    assert main(["train", "--data", str(tmp_path / "digits.npz"), *options]) == 0
    capsys.readouterr()
    files, classes = pictures
    assert main(["predict", run, *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert np.mean([int(line.split(": ")[1][0]) for line in lines] == classes) >= 0.85


@pytest.mark.slow
def test_forms_that_pictures_cannot_have(tmp_path, pictures, capsys):
    x = load("digits").train[0]
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    write(tmp_path / "digits.npz", lambda x: (x - mean) / deviation)
    run = str(tmp_path / "run")
    options = ["--hidden", "8", "--epochs", "1", "--out", run]
    assert main(["train", "--data", str(tmp_path / "digits.npz"), *options]) == 0
    capsys.readouterr()
    assert main(["predict", run, pictures[0][0]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "a picture cannot be brought to the form of the training images" in err

    config = tmp_path / "run" / "config.json"
    content = json.loads(config.read_text())
    content.pop("sha256")  # as a version before digests wrote it
    for images, message in [
        (None, "has no record of the form of its training images; train it again"),
        ({"dtype": "object", "paper": 0, "ink": 1}, "the form of the images is damaged"),
        ({"dtype": "uint8", "paper": "0", "ink": 1}, "the form of the images is damaged"),
        ({"colour": "red"}, "damaged, or not the configuration of a training run"),
    ]:
        content["config"]["images"] = images
        config.write_text(json.dumps(content))
        assert main(["predict", run, pictures[0][0]]) == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = str(tmp_path_factory.mktemp("runs") / "digits")
    assert main(["train", "--hidden", "16", "--epochs", "2", "--out", run]) == 0
    return run


def test_one_bad_picture_does_not_hide_the_others(tmp_path, trained, pictures, capsys):
    (tmp_path / "text.png").write_text("seven")
    capsys.readouterr()
    good, bad = pictures[0][:2], [str(tmp_path / "missing.png"), str(tmp_path / "text.png")]
    assert main(["predict", trained, good[0], *bad, good[1], good[0]]) == 2
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()] == [good[0], good[1], good[0]]
    assert [line.split(": ")[1] for line in err.splitlines()] == bad


def test_mnist_form_is_what_prepare_returns(pictures):
    from nnjax.data.image_format import ImageFormat

    prepared = prepare(pictures[0][0])
    np.testing.assert_array_equal(ImageFormat("uint8", 0.0, 255.0).converted(prepared), prepared)


@pytest.mark.slow
def test_options_for_tables(tmp_path, capsys):
    from nnjax.cli.loaded import load_run

    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 300)
    x = 1000 * rng.normal(size=(300, 4)) + 3000 * (kind[:, None] == np.arange(4))
    lines = [
        ",".join([f"{v:.2f}" for v in row] + ["abc"[k] * 2]) for row, k in zip(x, kind, strict=True)
    ]
    table = tmp_path / "wine.csv"
    table.write_text("\n".join(["p,q,r,s,kind", *lines]))
    run, options = str(tmp_path / "run"), ["--hidden", "16", "--epochs", "20"]
    options += ["--data", str(table), "--target", "kind", "--standardize"]
    assert main(["train", *options, "--train-size", "150", "--out", run]) == 0
    loaded = load_run(run)
    assert (loaded.classes, loaded.images) == (("aa", "bb", "cc"), None)
    assert loaded.config.train_size == 150
    mean, deviation = loaded.run.config["standardization"]
    assert (len(mean), len(deviation)) == (4, 4)
    assert loaded.history["validation_accuracy"][-1] > 0.8
    capsys.readouterr()
    assert main(["evaluate", run]) == 0
    text = capsys.readouterr().out
    assert "class  examples  precision  recall\n   aa  " in text
    assert "        aa   bb   cc\n" in text
    other = tmp_path / "other.csv"  # the scale of the run holds for other data too
    other.write_text("\n".join(["p,q,r,s,kind", *lines[:120]]))
    assert main(["evaluate", run, "--data", str(other), "--part", "train", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["classes"] == ["aa", "bb", "cc"]
    assert told["accuracy"] > 0.8
    other.write_text("\n".join(["p,q,r,s,kind", *(line.replace("cc", "dd") for line in lines)]))
    assert main(["evaluate", run, "--data", str(other)]) == 2
    assert (
        "has the classes aa, bb, dd; the run was trained on aa, bb, cc" in capsys.readouterr().err
    )
    train_x, _ = loaded.part("train")
    assert train_x.shape == (150, 4)
    np.testing.assert_allclose(np.mean(train_x, 0), 0, atol=1e-5)

    capsys.readouterr()
    for wrong, message in [
        (["--train-size", "1000"], "train_size is 1,000, and"),
        (["--train-size", "0"], "train_size"),
        (["--target", "colour"], "has no column 'colour'; its columns are p, q, r, s, kind"),
    ]:
        assert main(["train", *options, *wrong, "--out", str(tmp_path / "other")]) == 2
        assert message in capsys.readouterr().err


def test_names_of_classes_and_standardised_images(tmp_path, pictures, capsys):
    """What standardisation made of the images is part of their form."""
    run = str(tmp_path / "run")
    options = ["--hidden", "64", "--epochs", "10", "--standardize", "--rate", "0.01"]
    assert main(["train", *options, "--out", run]) == 0
    config = tmp_path / "run" / "config.json"
    content = json.loads(config.read_text())
    content.pop("sha256")  # as a version before digests wrote it
    content["config"]["classes"] = names = [f"number {k}" for k in range(10)]
    config.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["predict", run, *pictures[0]]) == 0
    said = [line.split(": ")[1].split(" (")[0] for line in capsys.readouterr().out.splitlines()]
    assert np.mean([names.index(name) for name in said] == pictures[1]) >= 0.85
    content["config"]["classes"] = names[:9]
    config.write_text(json.dumps(content))
    assert main(["predict", run, pictures[0][0]]) == 2
    assert "9 names of classes for 10 outputs" in capsys.readouterr().err
    options += ["--distort.rotation", "5"]
    assert main(["train", *options, "--out", str(tmp_path / "other")]) == 2
    assert "leave out --standardize" in capsys.readouterr().err
