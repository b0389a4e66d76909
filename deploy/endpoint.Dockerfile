# The multi-model container for CPU instances: our HTTP contract on port 8080. GPUs need Triton, see
# deploy/triton.Dockerfile; AWS serves many models from one GPU with nothing else. An asynchronous
# endpoint runs it on GPUs, too: then add --build-arg TORCH_INDEX=https://pypi.org/simple
#
#   docker build -f deploy/endpoint.Dockerfile --build-arg BASE=models/starter-3 \
#     --build-arg BASE_ID=starter-3 --build-arg FAMILY=starter -t avatar-endpoint .

FROM python:3.11-slim

ARG BASE=models/starter-3
ARG BASE_ID=starter-3
ARG FAMILY=starter
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1 \
    AVATAR_BASE_ID=$BASE_ID AVATAR_FAMILY=$FAMILY AVATAR_DEVICE=cpu

LABEL com.amazonaws.sagemaker.capabilities.multi-models=true
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true

WORKDIR /opt/avatar-studio
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install --index-url "$TORCH_INDEX" -c constraints.txt torch \
 && pip install -c constraints.txt \
      "accelerate>=1.15,<2" "diffusers>=0.42,<0.43" "fastapi>=0.115" "numpy>=2,<3" \
      "peft>=0.21,<0.22" "pillow>=12.2,<13" "pydantic>=2.11" "safetensors>=0.6" \
      "tokenizers>=0.22" "transformers>=5.0,<6" "uvicorn>=0.34"
COPY diffusion diffusion
COPY serving serving
COPY ${BASE} base

EXPOSE 8080
STOPSIGNAL SIGTERM
# SageMaker appends `serve` and may name another port.
ENTRYPOINT ["sh", "-c", "exec python -m serving.contract --base base --base-id \"$AVATAR_BASE_ID\" --family \"$AVATAR_FAMILY\" --device \"$AVATAR_DEVICE\" --port \"${SAGEMAKER_BIND_TO_PORT:-8080}\""]
