#!/bin/sh
# Brings one server (compose.yaml) to this checkout's version: migrates, then replaces one process after the other.
# Each api goes on answering until HAProxy has noticed, and the next one's turn comes when its successor is healthy;
# one that does not become healthy ends this, and the others go on as they are. With a version that was here before
# (docker image ls ottoai), it goes back to that one.
set -eu
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
  docker tag "ottoai:$1" ottoai
else
  docker compose build migrate
  docker tag ottoai "ottoai:$(git describe --always --dirty)"
fi
docker compose run --rm migrate
for api in api-1 api-2 api-3; do
  docker compose up --detach --no-deps --wait "$api"
done
docker compose up --detach --no-deps worker beat dashboard
docker compose ps
