# Two images from one file:
#   docker build -t rewardserve .                                     reward-service, with torch
#   docker build --target benchmark -t rewardserve-benchmark .        reward-benchmark, without torch
#
# Build arguments: docs/deployment.md. The default torch wheel is the one pip finds, which on Linux x86-64 is a CUDA
# build and runs on CPU too; TORCH_INDEX_URL chooses another, for example PyTorch's much smaller CPU build.

ARG PYTHON_IMAGE=python:3.11-slim

# What both images share: the user, and one folder for every cache.
FROM ${PYTHON_IMAGE} AS runtime
# The cache folder is the home folder, so that models, data sets and compiled kernels all land on the one volume and
# the rest of the file system can be read-only. The fixed uid is what a volume's owner or Kubernetes' fsGroup names.
RUN groupadd --gid 10001 reward \
    && useradd --uid 10001 --gid reward --home-dir /cache --create-home --shell /usr/sbin/nologin reward
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface

# A virtual environment at the path where the final images have it; pip and its caches stay behind in these stages.
FROM ${PYTHON_IMAGE} AS build
# pip's own settings, where they are given: a mirror, a folder of wheels. pip ignores empty ones. They become variables
# because not every builder hands the arguments of a stage to the stages built on it.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ENV PIP_INDEX_URL=${PIP_INDEX_URL} \
    PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL} \
    PIP_FIND_LINKS=${PIP_FIND_LINKS} \
    PIP_TRUSTED_HOST=${PIP_TRUSTED_HOST} \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/venv/bin:$PATH
WORKDIR /src
RUN python3 -m venv /venv

# torch alone, before anything that depends on it could choose a build. Its dependencies come with the rest, from the
# default index: PyTorch's own indexes do not hold every version that constraints.txt names.
FROM build AS build-service
ARG TORCH_INDEX_URL
COPY constraints.txt ./
RUN pip install --no-deps --constraint constraints.txt \
        ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch
# The dependencies before the source, so that a change of the source reinstalls nothing else.
COPY pyproject.toml ./
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*p["dependencies"], *p["optional-dependencies"]["service"], sep="\n")' > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY client/ client/
COPY service/ service/
COPY benchmark/ benchmark/
RUN pip install --no-deps . && pip check

FROM build AS build-benchmark
COPY constraints.txt pyproject.toml ./
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*p["dependencies"], *p["optional-dependencies"]["benchmark"], sep="\n")' > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY client/ client/
COPY service/ service/
COPY benchmark/ benchmark/
RUN pip install --no-deps . && pip check

FROM runtime AS benchmark
COPY --from=build-benchmark /venv /venv
USER 10001:10001
WORKDIR /cache
VOLUME /cache
ENTRYPOINT ["reward-benchmark"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="rewardserve-benchmark" \
      org.opencontainers.image.description="Runs RewardBench and other preference sets against a reward-service endpoint." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The last stage is what a build without --target makes.
FROM runtime AS service
COPY --from=build-service /venv /venv
# Outside a container the service listens on 127.0.0.1 only; in here nobody could reach that.
ENV REWARD_HOST=0.0.0.0 \
    REWARD_PORT=8000
USER 10001:10001
WORKDIR /cache
VOLUME /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
# Healthy means "can score". A large model may download and load for long: until the start period ends, failures do not
# count, and the first success does. No proxy: HTTP_PROXY must not send a request for this very container elsewhere.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ['REWARD_PORT']}/ready\", timeout=4)"]
ENTRYPOINT ["reward-service"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="rewardserve" \
      org.opencontainers.image.description="Reward models and DPO models served over HTTP." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
