# The multi-model container for GPUs, which must be built from AWS's Triton image. Its name must say
# `triton` (the studio checks). Never built or run by this project: see docs/aws.md.
#
#   docker build -f deploy/triton.Dockerfile --build-arg TRITON=ACCOUNT.dkr.ecr.REGION.amazonaws.com/sagemaker-tritonserver:TAG \
#     --build-arg BASE=models/starter-3 -t avatar-endpoint-triton .
#
# The account that holds the image in a region is in AWS's list of deep learning containers. For
# another base than starter-3 change `base_id` and `family` in serving/triton/base/config.pbtxt.

ARG TRITON
FROM ${TRITON}

ARG BASE=models/starter-3
ENV PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1

LABEL com.amazonaws.sagemaker.capabilities.multi-models=true
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true

WORKDIR /opt/avatar-studio
COPY constraints.txt ./
RUN pip install -c constraints.txt torch \
 && pip install -c constraints.txt \
      "accelerate>=1.15,<2" "diffusers>=0.42,<0.43" \
      "peft>=0.21,<0.22" "pillow>=12.2,<13" "pydantic>=2.11" "safetensors>=0.6" \
      "tokenizers>=0.22" "transformers>=5.0,<6" \
# Triton's Python stub reads NumPy 2's arrays wrongly (every element comes out as the first).
 && pip install --no-deps "numpy>=1.26,<2" \
# The stub ignores PYTHONPATH, so the project is named in site-packages.
 && python3 -c "import site; open(site.getsitepackages()[0] + '/avatar.pth', 'w').write('/opt/avatar-studio')"
COPY diffusion diffusion
COPY serving serving
COPY ${BASE} base
# The resident base is a model beside the people, who ask it from within the server.
COPY serving/triton/base /opt/ml/resident/base
ENV SAGEMAKER_TRITON_ADDITIONAL_ARGS="--model-repository=/opt/ml/resident --load-model=base"
