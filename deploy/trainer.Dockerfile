# The trainer as SageMaker runs it, and as any GPU machine may: python -m training.container
#
#   docker build -f deploy/trainer.Dockerfile -t avatar-trainer .
#
# The base model is no part of it: it comes in as the channel `base`, once in S3 for all runs.
# CUDA comes with the PyTorch wheel, so a plain Python image is enough. For a machine without a GPU
# add: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu

FROM python:3.11-slim

ARG TORCH_INDEX=https://pypi.org/simple
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1

WORKDIR /opt/avatar-studio
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install --index-url "$TORCH_INDEX" -c constraints.txt torch \
 && pip install -c constraints.txt \
      "accelerate>=1.15,<2" "diffusers>=0.42,<0.43" "numpy>=2,<3" \
      "opencv-python-headless>=4.10,<5" "peft>=0.21,<0.22" "pillow>=12.2,<13" "psutil>=6" \
      "pydantic>=2.11" "safetensors>=0.6" "tokenizers>=0.22" "transformers>=5.0,<6"
COPY diffusion diffusion
COPY training training

# SageMaker appends `train`, which is ignored. It mounts /opt/ml, and stops with SIGTERM and two
# minutes' grace, in which a checkpoint is written.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "training.container"]
