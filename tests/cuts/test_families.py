import pytest

from fairseq_prune.cuts.families import FAMILIES, family_of


def of(name):
    return {"model": {}, "cfg": {"model": {"_name": name}}}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sizes_of_a_family_are_cut_alike(family):
    assert family_of(of(family), "a.pt") is family_of(of(f"{family}_tiny"), "a.pt") is FAMILIES[family]


@pytest.mark.parametrize(
    "checkpoint", [of("wav2vec_ctc_parp"), of("whisperer"), {"model": {}}, {"weights": {}}]
)
def test_a_model_of_another_family_is_refused_in_one_line(checkpoint):
    with pytest.raises(
        ValueError, match=r"^a.pt: layers of a model '.*': expected whisper, hubert_deltalm or deltalm$"
    ):
        family_of(checkpoint, "a.pt")
