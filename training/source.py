"""The trainer as source, for AWS's own PyTorch containers: no image has to be built or pushed.

The toolkit in those containers unpacks an archive, installs its requirements.txt and runs the
program that the hyperparameters name (sagemaker-training-toolkit, README, "Training").
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

PROGRAM = "train.py"
ARCHIVE = "sourcedir.tar.gz"
ROOT = Path(__file__).parent.parent
PACKAGES = ("training", "diffusion")
SUFFIXES = (".py", ".toml", ".json")
REQUIREMENTS = (
    "accelerate>=1.15,<2", "diffusers>=0.42,<0.43", "opencv-python-headless>=4.10,<5",
    "peft>=0.21,<0.22", "pillow>=12.2,<13", "psutil>=6", "pydantic>=2.11", "safetensors>=0.6",
    "tokenizers>=0.22", "transformers>=5.0,<6",
)  # fmt: skip
"""All but torch and numpy, which those containers bring."""

_MAIN = """import sys

from training.container import main

sys.exit(main(sys.argv[1:]))
"""


def is_plain_pytorch(image: str) -> bool:
    """Whether an image is AWS's PyTorch container for training, and not one of ours."""
    return "/pytorch-training:" in image


def archive() -> bytes:
    """The packages, a program and the requirements as sourcedir.tar.gz."""
    files = {PROGRAM: _MAIN.encode(), "requirements.txt": "\n".join(REQUIREMENTS).encode()}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES:
                files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()
