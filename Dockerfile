# The image of api, worker and beat; which one it is, the command says. Build: docker build -t ottoai .
FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements-build.in requirements-build.lock requirements.lock ./
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock
# What installed the rest goes again, uv, pip and all: the processes install nothing.
RUN VIRTUAL_ENV=/venv /venv/bin/uv pip install --no-cache --require-hashes --no-build-isolation --compile-bytecode \
      -r requirements.lock \
 && VIRTUAL_ENV=/venv /venv/bin/uv pip uninstall -r requirements-build.in pip

FROM python:3.12-slim-bookworm
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TZ=UTC \
    HOST=0.0.0.0 \
    PORT=8080
# The folder is what a volume for SPOOL_DIR takes its owner from.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin ottoai \
 && install --directory --owner=ottoai --mode=700 /spool
WORKDIR /app
COPY --from=build /venv /venv
COPY ottoai ottoai
COPY jobs jobs
COPY sql sql
# Compiled here because the user below may not write.
RUN python -m compileall -q ottoai jobs
# By number, so that whoever runs the image can see that it is not root's.
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# Worker and beat listen on nothing: run them with --no-healthcheck; they report through Redis, and /ready shows them.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=2)"]
CMD ["python", "-m", "ottoai", "api"]
