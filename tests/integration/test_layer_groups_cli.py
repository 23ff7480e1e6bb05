"""examples/dphubert/layer_groups.py: its line is one for --distill-layers."""

import torch
from command_lines import ROOT
from tones import write_hubert, write_tones

from fairseq_prune.data.audio import read_audio
from fairseq_prune.data.waveform_manifest import write_waveform_manifest
from fairseq_prune.inference.features import FeatureExtractor
from fairseq_prune.pruning.distillation import parse_layers
from fairseq_prune.pruning.layer_groups import group_layers, linear_cka

LENGTHS = [6400, 9000, 7000]


def test_the_groups_are_those_of_the_frames_of_all_files(tmp_path, forks):
    names = write_tones(tmp_path / "audio", LENGTHS)
    write_waveform_manifest(tmp_path / "train.tsv", tmp_path / "audio", names, LENGTHS)
    write_hubert(tmp_path / "teacher.pt")
    words = ("--teacher", "teacher.pt", "--data", ".", "--groups", "2", "--files", "2")
    code, output, errors = forks.run(ROOT / "examples" / "dphubert" / "layer_groups.py", *words, cwd=tmp_path)
    assert code == 0, errors
    files = [torch.from_numpy(read_audio(tmp_path / "audio" / name)) for name in names[:2]]
    teacher = FeatureExtractor.load(str(tmp_path / "teacher.pt"))
    states = torch.cat([teacher.features([file])[0] for file in files], dim=1)
    found = parse_layers(output.strip().splitlines()[-1])
    assert found == group_layers(linear_cka(states), 2)
    assert sorted(layer for group in found for layer in group) == [0, 1, 2]
