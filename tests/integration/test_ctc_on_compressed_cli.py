"""fairseq's CTC fine-tuning on a compressed encoder, with PARP on top."""

import re

from command_lines import BIN, ROOT
from pretrained_recogniser import write_corpus
from small_encoder import make_encoder

from fairseq_prune.checkpoints.hubert.own import save_pruned_hubert
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_checkpoint_file


def test_a_compressed_encoder_is_fine_tuned_and_sparse(forks, tmp_path):
    write_corpus(tmp_path / "data")
    encoder = make_encoder(heads=(3, 0), units=(0, 20), channels=[12, 9, 16, 7, 16, 5, 11])
    save_pruned_hubert(encoder, tmp_path / "pruned.pt")
    options = (
        "--task audio_finetuning --labels ltr --arch hubert_ctc_parp --criterion ctc --optimizer adam --lr 1e-3"
        " --max-tokens 60000 --train-subset train --valid-subset valid --log-format simple --log-interval 1"
        " --post-process letter --cpu --max-update 4 --no-epoch-checkpoints --save-dir out"
        " --prune-sparsity 0.5 --prune-method parp --prune-interval 2"
    ).split()
    paths = (tmp_path / "data", "--user-dir", ROOT / "fairseq_prune", "--w2v-path", tmp_path / "pruned.pt")
    code, output, errors = forks.run(BIN / "fairseq-train", *paths, *options, cwd=tmp_path)
    assert code == 0, errors[-3000:]
    assert re.search(r"valid on 'valid' subset.*uer", output + errors)
    weights = load_checkpoint_file(tmp_path / "out" / "checkpoint_last.pt")["model"]
    query = weights["w2v_encoder.w2v_model.encoder.layers.0.self_attn.q_proj.weight"]
    assert query.shape == (24, 32) and (query == 0).any()
    # the encoder of the recogniser is again one to begin from
    (tmp_path / "pruned.pt").unlink()
    back = read_hubert(tmp_path / "out" / "checkpoint_last.pt")
    assert back.architecture["pruned"]["heads"] == [3, 0]
