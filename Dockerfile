# The server of decoupe in a container: nothing of it is writable, and it runs as nobody.
#
#     docker build -t decoupe .                                            for CPUs: the embedded model, any .onnx
#     docker build -t decoupe --build-arg EXTRAS=server,torch .            for CPUs: the released models too
#     docker build -t decoupe --build-arg ONNXRUNTIME=onnxruntime-gpu \
#         --build-arg BASE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 .  for CUDA
#     docker run --rm --read-only --tmpfs /tmp -p 7000:7000 -e DECOUPE_TOKEN=… decoupe

ARG BASE=debian:trixie-slim
FROM ${BASE}

ARG EXTRAS=server
ARG ONNXRUNTIME=onnxruntime

# No versions are pinned: Debian's mirrors keep the latest of a release alone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE /source/
COPY src /source/src
# onnxruntime-gpu takes the place of onnxruntime, which is of the same name for Python.
RUN python3 -m venv /opt/decoupe \
    && /opt/decoupe/bin/pip install --no-cache-dir "/source[${EXTRAS}]" \
    && if [ "${ONNXRUNTIME}" != onnxruntime ]; then \
           /opt/decoupe/bin/pip uninstall --yes onnxruntime \
           && /opt/decoupe/bin/pip install --no-cache-dir "${ONNXRUNTIME}"; \
       fi

ENV HF_HOME=/models PYTHONDONTWRITEBYTECODE=1
VOLUME /models
EXPOSE 7000
# nobody, by number: orchestrators that demand another user than root cannot look names up.
USER 65534:65534
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["/opt/decoupe/bin/python", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:7000/readyz')"]
ENTRYPOINT ["tini", "--", "/opt/decoupe/bin/decoupe", "serve", "--host", "0.0.0.0"]
