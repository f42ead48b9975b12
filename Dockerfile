# The page in a container, as a user of its own, with what it keeps in the volume /data.
#
#   docker build -t mmer .                          CPU: 2 GB
#   docker build -t mmer --build-arg DEVICE=gpu .   GPU: the CUDA libraries come with torch's wheels
#   docker run -p 127.0.0.1:7860:7860 -v mmer:/data mmer
FROM python:3.12-slim-bookworm

ARG DEVICE=cpu

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app

COPY packages.txt requirements.txt ./

RUN apt-get update \
    && xargs -a packages.txt apt-get install -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/*

# torch, torchvision and torchaudio come from one index: mixed, they do not load.
RUN case "$DEVICE" in \
      cpu) index=https://download.pytorch.org/whl/cpu ;; \
      gpu) index=https://pypi.org/simple ;; \
      *) echo "DEVICE is $DEVICE; cpu or gpu is needed" >&2; exit 1 ;; \
    esac \
    && sed '/^# tests$/,$d' requirements.txt > runtime.txt \
    && grep '^torch' runtime.txt > torch.txt \
    && pip install --index-url "$index" -r torch.txt \
    && pip install -r runtime.txt \
    && rm runtime.txt torch.txt

COPY app.py LICENSE README.md pyproject.toml setup.py ./
COPY mmer mmer
COPY annotations annotations
COPY training training

RUN useradd --uid 10001 --create-home mmer \
    && install -d -o mmer -g mmer -m 700 /data
USER 10001

ENV MMER_HOME=/data \
    MMER_LOG=json \
    GRADIO_SERVER_NAME=0.0.0.0 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba
VOLUME /data
EXPOSE 7860

# Whether the process lives; whether it can answer says /readyz, and a proxy asks it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]

STOPSIGNAL SIGTERM
CMD ["python", "app.py", "--port", "7860"]
