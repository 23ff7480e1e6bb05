import pytest

from fairseq_prune.evaluation.timit_phones import PHONES, fold, fold_to_39

# the groups of Lee and Hon (1989), table I, as their text lists them: what shares a line is one class of 39
GROUPS = (
    "aa ao,ah ax ax-h,er axr,hh hv,ih ix,l el,m em,n en nx,ng eng,sh zh,uw ux,"
    "pcl tcl kcl bcl dcl gcl epi pau h#"
).split(",")


def test_there_are_61_48_and_39_phones():
    assert {classes: len(set(phones)) for classes, phones in PHONES.items()} == {61: 61, 48: 48, 39: 39}


def test_39_classes_are_the_groups_and_what_is_in_none():
    groups = [set(group.split()) for group in GROUPS]
    for group in groups:
        assert len({tuple(fold_to_39([phone])) for phone in group}) == 1
    alone = set(PHONES[61]) - set().union(*groups) - {"q"}
    assert all(fold_to_39([phone]) == [phone] for phone in alone)
    assert len(groups) + len(alone) == 39


def test_48_classes_lie_between():
    assert fold("h# tcl dcl epi ix ax-h zh en nx axr q ao".split(), 48) == (
        "sil cl vcl epi ix ax zh en n er ao".split()
    )
    for phone in set(PHONES[61]) - {"q"}:
        assert fold_to_39(fold([phone], 48)) == fold_to_39([phone])
    assert fold_to_39(PHONES[39]) == list(PHONES[39])


def test_folding_keeps_neighbours_apart_and_drops_the_glottal_stop():
    assert fold_to_39("tcl h# q".split()) == ["sil", "sil"]
    assert fold(["q"], 61) == ["q"]


def test_a_label_that_is_no_phone_is_named():
    with pytest.raises(ValueError, match="'zz' is no phone of TIMIT"):
        fold(["aa", "zz"], 39)
