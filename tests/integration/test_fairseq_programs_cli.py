"""fairseq's own programs on what this package trains."""

import re
import shutil

import pytest
import soundfile
import torch
import yaml
from command_lines import BIN, ROOT, train_arguments

from fairseq_prune.checkpoints.loading import load_checkpoint_file

TASK = ("--user-dir", ROOT / "fairseq_prune", "--task", "speech_translation")


@pytest.fixture(scope="module")
def sparser(trained, tmp_path_factory):
    """The trained model, with fewer frames kept."""
    checkpoint = load_checkpoint_file(trained)
    model = checkpoint["cfg"]["model"]
    (setattr if hasattr(model, "_name") else dict.__setitem__)(model, "token_keep_ratio", 0.5)
    path = tmp_path_factory.mktemp("sparser") / "b.pt"
    torch.save(checkpoint, path)
    return path


COUNTING = """
import sys
from fairseq_cli.generate import cli_main
from fairseq_prune.patches import beam_search

class Counted(beam_search.Shortlist):
    steps = 0

    def choose(self, log_probs):
        Counted.steps += 1
        return super().choose(log_probs)

beam_search.Shortlist, beam_search.BLOCK = Counted, int(sys.argv.pop(1))
cli_main()
print("steps", Counted.steps)
"""


@pytest.fixture
def generate(forks, prepared_data, trained, tmp_path):
    def run(*options, path=trained, program="fairseq-generate"):
        words = [prepared_data, *TASK, "--path", path, "--max-tokens", 160000, "--beam", 4]
        words += [] if program == "fairseq-interactive" else ["--gen-subset", "tst-COMMON"]
        return forks.run(BIN / program, *words, *options, cwd=tmp_path)

    return run


def test_shortlists_of_tokens_change_no_line(forks, prepared_data, trained, tmp_path):
    program = tmp_path / "counting.py"
    program.write_text(COUNTING)
    options = ["--gen-subset", "tst-COMMON", "--max-tokens", 160000, "--beam", 4, "--max-len-b", 12]
    outputs = []
    for block in (1, 10**9):  # no vocabulary has as many tokens
        words = [block, prepared_data, *TASK, "--path", trained, *options]
        code, output, errors = forks.run(program, *words, cwd=tmp_path)
        assert code == 0, errors
        outputs.append(output)
    steps = [int(output.split()[-1]) for output in outputs]
    assert steps[0] > 0 and steps[1] == 0
    kept = [[line for line in output.splitlines() if re.match("[A-Z]-", line)] for output in outputs]
    assert len(kept[0]) > 4 and kept[0] == kept[1]


def lines(output, kind):
    """{sentence: what follows} of the lines H-3<tab>..."""
    return dict(re.findall(rf"^{kind}-(\d+)\t(.*)$", output, flags=re.MULTILINE))


def assert_one_line(code, output, errors, message):
    assert code != 0 and "Traceback" not in output + errors
    assert (output + errors).strip().splitlines()[-1].startswith("error: ")
    assert message in (output + errors).strip().splitlines()[-1]


def test_an_ensemble_of_models_that_prune_differently(generate, trained, sparser):
    code, output, errors = generate(path=f"{trained}:{sparser}")
    assert code == 0, errors
    assert len(lines(output, "H")) == len(lines(output, "T")) > 1


def test_alignments_are_frames_of_the_utterance(generate, sparser):
    code, output, errors = generate("--print-alignment", path=sparser)
    assert code == 0, errors
    hypotheses, alignments = lines(output, "D"), lines(output, "A")
    assert hypotheses.keys() == alignments.keys()
    pairs = [tuple(map(int, pair.split("-"))) for line in alignments.values() for pair in line.split()]
    assert pairs and max(frame for frame, _ in pairs) > 10  # 20 ms each


def test_shards_with_diverse_beams_are_all_there_is(generate, prepared_data):
    shards = []
    for shard in (0, 1):
        options = ("--diverse-beam-groups", 2, "--num-shards", 2, "--shard-id", shard, "--max-tokens", 30000)
        code, output, errors = generate(*options)
        assert code == 0, errors
        shards.append(set(lines(output, "H")))
    sentences = (prepared_data / "tst-COMMON.tsv").read_text(encoding="utf-8").count("\n") - 1
    assert shards[0] and shards[1] and not shards[0] & shards[1]
    assert len(shards[0] | shards[1]) == sentences


REFUSED = {
    "interactive": ("fairseq-interactive", (), "scripts/translate.py --checkpoint CHECKPOINT"),
    "replace-unk": (
        "fairseq-generate",
        ("--replace-unk", "--dataset-impl", "raw"),
        "--replace-unk: the source is audio",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_only_text_has_is_refused(case, generate):
    program, options, message = REFUSED[case]
    assert_one_line(*generate(*options, program=program), message)


def train(forks, data, folder, *options):
    return forks.run(BIN / "fairseq-train", *train_arguments(data, "out", *options), cwd=folder)


OTHERWISE = {
    "update-freq": ("--ctc-weight", 1, "--update-freq", 3),
    "optimizer": ("--reset-optimizer", "--optimizer", "sgd"),
    "no-ctc": ("--reset-optimizer",),
}


@pytest.mark.parametrize(("settings", "updates"), [("update-freq", 8), ("optimizer", 2), ("no-ctc", 2)])
def test_a_training_goes_on_with_other_settings(settings, updates, forks, prepared_data, trained, tmp_path):
    options = (
        "--ctc-text",
        "source",
        "--no-epoch-checkpoints",
        "--restore-file",
        trained,
        "--max-update",
        updates,
    )
    code, _, errors = train(forks, prepared_data, tmp_path, *options, *OTHERWISE[settings])
    assert code == 0, errors[-2000:]
    last = load_checkpoint_file(tmp_path / "out" / "checkpoint_last.pt")
    assert last["optimizer_history"][-1]["num_updates"] == updates


def test_an_optimizer_of_other_parameters_is_one_line(forks, prepared_data, trained, tmp_path):
    options = ("--ctc-text", "source", "--restore-file", trained, "--max-update", 8)  # no CTC loss
    assert_one_line(*train(forks, prepared_data, tmp_path, *options), "--reset-optimizer begins a new one")


@pytest.mark.parametrize("option", ["--restore-file", "--finetune-from-model"])
def test_a_folder_in_place_of_a_checkpoint_is_one_line(option, forks, prepared_data, tmp_path):
    output = train(forks, prepared_data, tmp_path, option, tmp_path, "--max-update", 1)
    assert_one_line(*output, f"{option} {tmp_path}: no such checkpoint")


def test_a_gradient_that_is_not_finite_is_one_line(forks, prepared_data, tmp_path):
    code, output, errors = train(forks, prepared_data, tmp_path, "--lr", "1e30", "--max-update", 5)
    assert_one_line(code, output, errors, "gradients are Nan/Inf")
    assert re.search(r"utterances \(rows of the data, from 0\): \d+", errors)


def test_bfloat16_without_a_tpu_is_one_line(forks, prepared_data, tmp_path):
    output = train(forks, prepared_data, tmp_path, "--bf16", "--cpu", "--max-update", 1)
    assert_one_line(*output, "common.bf16=true")


def test_bad_audio_in_a_worker_is_one_line(forks, prepared_data, trained, tmp_path):
    data = shutil.copytree(prepared_data, tmp_path / "data")
    config = yaml.safe_load((data / "config.yaml").read_text(encoding="utf-8"))
    config["audio_root"] = str(shutil.copytree(config["audio_root"], tmp_path / "audio"))
    (data / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    path = next((tmp_path / "audio").rglob("ted_dev_1.wav"))
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples * 32768, rate, subtype="FLOAT")
    options = ("--valid-subset", "dev", "--max-tokens", 160000, "--path", trained, "--num-workers", 1)
    output = forks.run(BIN / "fairseq-validate", data, *TASK, *options, cwd=tmp_path)
    assert_one_line(*output, "ted_dev_1.wav: expected samples from -1 to 1")
