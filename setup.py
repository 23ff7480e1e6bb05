"""Package metadata and the two supported dependency stacks, chosen by the Python version."""

from pathlib import Path

from setuptools import find_packages, setup

CURRENT = 'python_version >= "3.11"'
LEGACY = 'python_version < "3.11"'

ONNX = [
    f"onnx>=1.18,<2; {CURRENT}",
    f"onnxruntime>=1.22,<2; {CURRENT}",
    f"onnxscript>=0.5,<1; {CURRENT}",
]
CTRANSLATE2 = [f"ctranslate2>=4.6,<5; {CURRENT}"]
TIKTOKEN = ["tiktoken>=0.8,<1"]
TRANSFORMERS = [f"transformers>=4.57,<6; {CURRENT}", f"transformers>=4.35,<4.40; {LEGACY}"]

setup(
    name="fairseq-prune",
    version="0.1.0",
    description="Small and fast speech models inside fairseq: token pruning, PARP, DPHuBERT, PruneSLU",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.9,<3.13",
    packages=find_packages(include=["fairseq_prune", "fairseq_prune.*"]),
    install_requires=[
        # current stack: what development and CI run
        f"torch>=2.11,<2.12; {CURRENT}",
        f"torchaudio>=2.11,<2.12; {CURRENT}",
        f"numpy>=2,<3; {CURRENT}",
        f"fairseq-fixed==0.12.3.1; {CURRENT}",
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
        "safetensors>=0.4,<1",
        "sentencepiece>=0.1.99,<0.3",
        "soundfile>=0.12,<1",
        "soxr>=0.5,<2",
        "tokenizers>=0.14,<1",
        "tqdm>=4.64,<5",
        "whisper-normalizer==0.1.0",  # later ones replace more words than the published one does
    ],
    extras_require={
        "bench": [*TRANSFORMERS, *ONNX, *CTRANSLATE2, "faster-whisper>=1.1,<2"],
        "ctranslate2": [*CTRANSLATE2, *TRANSFORMERS],
        "demo": ["espeakng-loader>=0.2.4,<0.3"],
        "lm": ["flashlight-text>=0.0.7,<0.1", "kenlm>=0.3,<0.4"],
        "onnx": ONNX,
        "openai": TIKTOKEN,
        "test": [
            "espeakng-loader>=0.2.4,<0.3",
            "hypothesis>=6.90,<7",
            "jiwer>=3,<5",
            "pytest>=8,<9",
            "pytest-xdist>=3.5,<4",
            "ruff>=0.15,<0.16",
            *CTRANSLATE2,
            *ONNX,
            *TIKTOKEN,
            *TRANSFORMERS,
        ],
    },
)
