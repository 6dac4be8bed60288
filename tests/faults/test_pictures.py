"""Damaged pictures of every format: each is read or refused in a sentence."""

import pytest
from faults.campaign import SENTENCE, SURVIVED
from faults.pictures import mutated, samples

from nnjax.data.images import prepare


def test_mutated_pictures(tmp_path):
    tally = mutated(200, tmp_path)
    assert not tally.bad
    assert min(tally.counts[SURVIVED], tally.counts[SENTENCE]) > 10


@pytest.mark.parametrize(("name", "content"), list(samples()))
def test_undamaged_samples_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    if name == "TIFF-LAB":
        with pytest.raises(ValueError, match="TIFF-LAB: cannot be read as an image"):
            prepare(tmp_path / name)
    else:
        assert prepare(tmp_path / name)[14, 14, 0] > 100
