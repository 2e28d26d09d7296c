# The server of decoupe in a container: it runs as nobody, and can write nothing but /tmp and the models' cache.
#
#     docker build -t decoupe .                                            for CPUs: the embedded model, any .onnx
#     docker build -t decoupe --build-arg EXTRAS=server,torch \
#         --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .   for CPUs: the released models too
#     docker build -t decoupe --build-arg ONNXRUNTIME=onnxruntime-gpu \
#         --build-arg BASE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 .  for CUDA
#     docker run --rm --read-only --tmpfs /tmp -p 7000:7000 -e DECOUPE_TOKEN=… decoupe
#
# PyPI's PyTorch brings CUDA along, several gigabytes; the other index has one without. The base is to have the CUDA that
# PyPI's onnxruntime-gpu is built for: 13, of its release 1.31.

ARG BASE=debian:trixie-slim
FROM ${BASE}

# No versions are pinned: Debian's mirrors keep the latest of a release alone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/*

ARG EXTRAS=server
ARG ONNXRUNTIME=onnxruntime
# pip reads it, where it is given.
ARG PIP_EXTRA_INDEX_URL

COPY pyproject.toml README.md LICENSE LICENSE-APACHE-2.0 /source/
COPY src /source/src
# onnxruntime-gpu takes the place of onnxruntime, which is of the same name for Python.
RUN python3 -m venv /opt/decoupe \
    && /opt/decoupe/bin/pip install --no-cache-dir "/source[${EXTRAS}]" \
    && if [ "${ONNXRUNTIME}" != onnxruntime ]; then \
           /opt/decoupe/bin/pip uninstall --yes onnxruntime \
           && /opt/decoupe/bin/pip install --no-cache-dir "${ONNXRUNTIME}"; \
       fi

ENV HF_HOME=/models PYTHONDONTWRITEBYTECODE=1
# A new volume takes its owner from here, and it is nobody who fetches models into it.
RUN install -d -o 65534 -g 65534 /models
VOLUME /models
EXPOSE 7000
# nobody, by number: orchestrators that demand another user than root cannot look names up.
USER 65534:65534
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["/opt/decoupe/bin/python", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:7000/readyz')"]
ENTRYPOINT ["tini", "--", "/opt/decoupe/bin/decoupe", "serve", "--host", "0.0.0.0"]
