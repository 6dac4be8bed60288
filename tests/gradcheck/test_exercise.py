"""Exercises: every program is right, every planted mistake is caught, and mending it is seen."""

import pytest
from thinning import thinned

from nnjax.gradcheck.exercise import EXERCISES, judge, write_exercise


@pytest.mark.parametrize("name", thinned(EXERCISES, str, 4))
@pytest.mark.slow
def test_a_planted_mistake_is_caught_and_can_be_mended(name, tmp_path):
    exercise = EXERCISES[name]
    for slip in exercise.slips:
        assert exercise.source.count(slip.right) == 1
    path = tmp_path / "exercise.py"
    write_exercise(path, seed=1, difficulty=2, name=name)
    judgement = judge(path)
    assert not judgement.found
    assert not judgement.mended
    header, wrong = path.read_text().split("\n", 1)
    assert wrong != exercise.source.lstrip("\n")
    planted = wrong.splitlines()[judgement.line - 2]
    assert planted not in exercise.source.splitlines()
    path.write_text(f"{header}\n{wrong.replace(planted, planted + '  # here?')}")
    assert judge(path).found
    path.write_text(header + exercise.source)
    judgement = judge(path)
    assert judgement.found
    assert judgement.mended


def test_seeds_and_difficulties_differ(tmp_path):
    texts = set()
    for seed in range(6):
        for difficulty in (1, 2, 3):
            path = tmp_path / f"{seed}{difficulty}.py"
            write_exercise(path, seed, difficulty)
            texts.add(path.read_text().partition("\n")[2])
    assert len(texts) >= 8
    write_exercise(tmp_path / "n.py", 0, 1, "network")
    assert "exercise: network" in (tmp_path / "n.py").read_text()


def test_what_is_no_exercise_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    with pytest.raises(ValueError, match="is not an exercise: its first line"):
        judge(path)
    with pytest.raises(FileExistsError):
        write_exercise(path)
    with pytest.raises(ValueError, match="difficulty is 4; expected 1, 2 or 3"):
        write_exercise(tmp_path / "new.py", difficulty=4)
    with pytest.raises(ValueError, match="no example 'lstm'; expected one of softmax"):
        write_exercise(tmp_path / "new.py", name="lstm")
    write_exercise(tmp_path / "new.py", name="rnn")
    (tmp_path / "new.py").write_text(
        (tmp_path / "new.py").read_text().replace("import numpy", "import nothing")
    )
    with pytest.raises(ValueError, match="cannot be checked: it raises ModuleNotFoundError"):
        judge(tmp_path / "new.py")
