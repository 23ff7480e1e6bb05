"""The benchmark as a program."""

import json

import matplotlib.image
import pytest
from command_lines import ROOT

from fairseq_prune.benchmarks.speed_report import Section, report
from fairseq_prune.modules import kernels

SCRIPT = ROOT / "scripts" / "benchmark.py"
QUICK = [
    "--seconds",
    0.5,
    "--batch-sizes",
    1,
    2,
    "--rounds",
    2,
    "--stage-rounds",
    1,
    "--threads",
    1,
    "--beam",
    2,
]


def test_a_benchmark_compares_checkpoints_and_settings(forks, trained, tmp_path):
    entries = [trained, f"{trained},keep=0.5,start=1", f"{trained},dtype=bfloat16", f"{trained},dtype=int8"]
    code, output, errors = forks.run(
        SCRIPT, *entries, *QUICK, "--tokens-per-second", 10, "--out", "bench", cwd=tmp_path
    )
    assert code == 0, errors
    assert (tmp_path / "bench" / "benchmark.md").read_text(encoding="utf-8") in output
    groups = json.loads((tmp_path / "bench" / "benchmark.json").read_text(encoding="utf-8"))["measured"]
    assert [group[0]["setting"]["batch"] for group in groups] == [1, 2]
    for group in groups:
        dense, pruned, half, integers = group
        assert dense["setting"] == {"seconds": 0.5, "batch": group[0]["setting"]["batch"], "tokens": 5}
        assert set(dense["macs"]) <= set(dense["stage_seconds"])
        assert dense["speedup"] == 1 and dense["ideal"] == 1 < pruned["ideal"]
        assert sum(pruned["macs"].values()) < sum(dense["macs"].values()) == sum(half["macs"].values())
        assert half["megabytes"] < 0.6 * dense["megabytes"] and integers["megabytes"] < dense["megabytes"]
        assert all(len(m["seconds"]) == 2 and min(m["seconds"]) > 0 for m in group)
    one, two = (group[0]["macs"]["extractor"] for group in groups)
    assert two == 2 * one
    assert matplotlib.image.imread(tmp_path / "bench" / "benchmark.png").std() > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["hubert_base,keep=0"], "keep ratio: found 0.0"),
        ([], "expected either entries or --report"),
        (["hubert_base", "--report", "x.md"], "expected either entries or --report"),
        (["hubert_base", "--generate"], "generation: found 'hubert_base', expected some of hubert_deltalm"),
        (["none.pt"], "none.pt"),
        (
            ["fairseq,keep=0.5"],
            "fairseq drops no frames; plain_pruning, transformers_sdpa and transformers_eager do",
        ),
        (["fairseq,dtype=int8"], "takes no quantised projections"),
        (["hubert_base,dtype=float16"], "dtype float16 does not run on cpu"),
        (["hubert_base", "--seconds", 0], "--seconds: found '0', expected a positive float"),
    ],
)
def test_a_benchmark_refuses(arguments, message, forks, tmp_path):
    code, output, errors = forks.run(SCRIPT, *arguments, cwd=tmp_path)
    assert code == 2 and output == ""
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors


def test_all_tables_are_written_by_one_command(forks, tmp_path):
    code, _, errors = forks.run(SCRIPT, "--report", "speed.md", "--quick", cwd=tmp_path)
    assert code == 0, errors
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    native = kernels.instructions()
    expected = [f"Encoders, {native}", f"Generation, {native}"]
    assert titles == expected + (["Encoders, AVX2"] if native != "AVX2" else [])
    assert text.count("matrix products reach") == len(titles)
    assert "| fairseq | 0.5 | 1 |" in text and "| hubert_deltalm, vocabulary=50 | 2 | 1 |" in text


def test_a_report_that_fails_says_where_and_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="none.pt --threads 1 --processor-time: .*none.pt"):
        report(SCRIPT, tmp_path / "speed.md", [Section("Encoders", "none.pt")])
    assert not list(tmp_path.iterdir())


def test_steps_of_training_on_tiny_models(forks, tmp_path):
    options = ["--train", "--tiny", "--seconds", 0.5, "--batch-sizes", 1, "--rounds", 1, "--threads", 1]
    entries = ["st_fairseq", "st, keep=0.5, start=2", "dphubert_second", "slu"]
    code, output, errors = forks.run(
        SCRIPT,
        *(entry.replace(" ", "") for entry in entries),
        *options,
        "--memory",
        "--out",
        "bench",
        cwd=tmp_path,
    )
    assert code == 0, errors
    text = (tmp_path / "bench" / "benchmark_training.md").read_text(encoding="utf-8")
    assert text in output
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]
    rows = [dict(zip(head, row)) for row in rows]
    assert [row["training"] for row in rows] == entries
    assert len({row["reading"] for row in rows}) == 1 and all(float(row["reading"]) > 0 for row in rows)
    for row in rows:
        reading, step = float(row["reading"]), float(row["seconds an update"])
        assert float(row["share"].removesuffix(" %")) == pytest.approx(
            100 * reading / (reading + step), abs=2
        )
        assert 0 < float(row["peak memory (MiB)"]) < 1000


def test_types_of_numbers_are_compared_on_a_split(forks, trained, prepared_data, tmp_path):
    code, output, errors = forks.run(
        *(ROOT / "scripts" / "compare_dtypes.py", "--checkpoint", trained, "--data", prepared_data),
        *("--split", "dev", "--beam", 2, "--max-utterances", 3),
        cwd=tmp_path,
    )
    assert code == 0, errors
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines()[2:5]]
    assert [row[0] for row in rows] == ["float32", "bfloat16", "int8"]
    assert rows[0][1:4] == ["0", "100.0", "100.0"]
    assert all(0 < float(row[1]) < 0.1 and float(row[2]) > 50 for row in rows[1:])


@pytest.mark.slow
def test_all_together_is_a_table_in_which_each_row_does_less(forks, tmp_path):
    quick = ["--seconds", 1, "--rounds", 1, "--threads", 1, "--tokens-per-second", 4, "--beam", 2]
    code, _, errors = forks.run(ROOT / "scripts" / "compare_all.py", *quick, "--out", "all", cwd=tmp_path)
    assert code == 0, errors
    (group,) = json.loads((tmp_path / "all" / "compare_all.json").read_text(encoding="utf-8"))["measured"]
    macs = [sum(m["macs"].values()) for m in group]
    assert macs == sorted(macs, reverse=True) and len(set(macs)) == 3
    assert [m["dtype"] for m in group[-2:]] == ["bfloat16", "int8"]
    assert group[-1]["megabytes"] < group[-2]["megabytes"] < group[0]["megabytes"]
