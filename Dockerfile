# CPU: docker build -t dllm-bench .    GPU: see docs/use.md (BASE, EXTRAS).
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG EXTRAS=
# An index of CPU builds of torch, if you have one, spares the 3 GB of CUDA libraries that PyPI's build brings.
ARG PIP_EXTRA_INDEX_URL=
RUN if ! command -v python3 >/dev/null || ! python3 -m venv --help >/dev/null 2>&1; then \
      apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; fi
WORKDIR /work
COPY . /opt/dllm-bench
RUN python3 -m venv /opt/venv && \
    /opt/venv/bin/pip install --no-cache-dir -c /opt/dllm-bench/constraints.txt -e "/opt/dllm-bench${EXTRAS:+[$EXTRAS]}"
ENV PATH=/opt/venv/bin:$PATH
ENTRYPOINT ["bench"]
CMD ["run"]
