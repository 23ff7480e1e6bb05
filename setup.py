"""Package metadata. Without the extra `fairseq`: the algorithms and their adapters for transformers, on any new Python.

With it: one of two stacks, chosen by the Python version.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

CURRENT = 'python_version >= "3.11"'
LEGACY = 'python_version < "3.11"'
HAS_FAIRSEQ = 'python_version < "3.13"'  # the last that fairseq-fixed is made for

# fairseq, and what works with it alone. setup_env.sh reads these pins.
FAIRSEQ = [
    # current stack: what development and CI run
    f"torch>=2.11,<2.12; {CURRENT}",
    f"torchaudio==2.11.0; {CURRENT}",  # 2.11.1 is compiled for a later torch, and does not load with this one
    f"numpy>=2,<3; {CURRENT}",
    f"fairseq-fixed==0.12.3.1; {CURRENT} and {HAS_FAIRSEQ}",
    # legacy stack: the pins that the published method was run with
    f"torch==2.0.1; {LEGACY}",
    f"torchaudio==2.0.2; {LEGACY}",
    f"numpy==1.23.5; {LEGACY}",
    f"fairseq==0.12.2; {LEGACY}",
    "editdistance>=0.6.2,<1",  # also by fairseq's ctc criterion, which does not declare it
    "matplotlib>=3.7,<4",
    "pandas>=1.5,<4",
    "pyyaml>=6,<7",
    "sacrebleu>=2.3,<3",
    "sentencepiece>=0.1.99,<0.3",
    "whisper-normalizer==0.1.0",  # later ones replace more words than the published one does
]
ONNX = [
    f"onnx>=1.18,<2; {CURRENT}",
    f"onnxruntime>=1.22,<2; {CURRENT}",
    f"onnxscript>=0.5,<1; {CURRENT}",
]
CTRANSLATE2 = [f"ctranslate2>=4.6,<5; {CURRENT}"]
OPENVINO = [f"openvino>=2026.4,<2027; {CURRENT}"]
NNCF = [f"nncf>=3.4,<4; {CURRENT}"]
DOCS = [f"mkdocs>=1.6,<1.7; {CURRENT}"]
TIKTOKEN = ["tiktoken>=0.8,<1"]
# 5.0.0 and 5.12.1 fail tests/adapters: attention hands over other shapes there
TRANSFORMERS = [f"transformers>=5.24,<6; {CURRENT}", f"transformers>=4.35,<4.40; {LEGACY}"]


class BuildWithPrograms(build_py):
    """Also puts the commands, preparations and recipes into the package, where `fairseq_prune.cli` finds them."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder in ("scripts", "data_prep", "examples"):
            out = Path(self.build_lib, "fairseq_prune", "cli", "programs", folder)
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(folder, out, ignore=shutil.ignore_patterns("__pycache__", "*.png"))


setup(
    name="fairseq-prune",
    version="0.1.0",
    description="Small and fast speech models in fairseq and transformers: token pruning, PARP, DPHuBERT, PruneSLU",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.9",
    packages=find_packages(include=["fairseq_prune", "fairseq_prune.*"]),
    package_data={"fairseq_prune": ["py.typed"]},
    entry_points={"console_scripts": ["fairseq-prune = fairseq_prune.cli:main"]},
    cmdclass={"build_py": BuildWithPrograms},
    install_requires=[
        f"torch>=2.11,<3; {CURRENT}",
        f"torch==2.0.1; {LEGACY}",
        f"numpy>=2,<3; {CURRENT}",
        f"numpy==1.23.5; {LEGACY}",
        "safetensors>=0.4,<1",
        "soundfile>=0.12,<1",
        "soxr>=0.5,<2",
        "tokenizers>=0.14,<1",
        "tqdm>=4.64,<5",
    ],
    extras_require={
        "bench": [*TRANSFORMERS, *ONNX, *CTRANSLATE2, *OPENVINO, *NNCF, "faster-whisper>=1.1,<2"],
        "ctranslate2": [*CTRANSLATE2, *TRANSFORMERS],
        "docs": DOCS,
        "fairseq": FAIRSEQ,
        "demo": ["espeakng-loader>=0.2.4,<0.3"],
        "lm": ["flashlight-text>=0.0.7,<0.1", "kenlm>=0.3,<0.4"],
        "onnx": ONNX,
        "openai": TIKTOKEN,
        "openvino": OPENVINO,
        "transformers": [*TRANSFORMERS, f"accelerate>=1,<2; {CURRENT}"],  # accelerate: of its Trainer
        "test": [
            *FAIRSEQ,
            f"accelerate>=1,<2; {CURRENT}",
            "espeakng-loader>=0.2.4,<0.3",
            "hypothesis>=6.90,<7",
            "jiwer>=3,<5",
            "pytest>=8,<9",
            "pytest-xdist>=3.5,<4",
            "ruff>=0.15,<0.16",
            *CTRANSLATE2,
            *DOCS,
            *ONNX,
            *TIKTOKEN,
            *TRANSFORMERS,
        ],
    },
)
