#!/usr/bin/env bash
# Builds both images, serves the debug model with Compose, uses it as a user would, stops it and takes everything down.
#   scripts/test_container.sh                                  skips (exit 0) where no Docker engine answers
#   PUBLISH=127.0.0.1:9000 scripts/test_container.sh           another port than a free one
#   DOCKER_BUILD_ARGS='--build-arg TORCH_INDEX_URL=…' scripts/test_container.sh
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "SKIP: $1; the container test did not run"; exit 0; }
step() { echo "== $1"; }
fail() { echo "FAIL: $1" >&2; exit 1; }

command -v docker >/dev/null || skip "docker is not installed"
docker info >/dev/null 2>&1 || skip "no Docker engine answers"
if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose)
else
  skip "neither 'docker compose' nor 'docker-compose' is installed"
fi

# Its own project, images, results and port: nothing of a stack that is already up is touched.
compose+=(-p "rewardserve-test-$$")
RUNS=$(mktemp -d)
BENCHMARK_USER="$(id -u):$(id -g)"
export RUNS BENCHMARK_USER MODEL_ID=debug IMAGE=rewardserve:test BENCHMARK_IMAGE=rewardserve-benchmark:test
export PUBLISH=${PUBLISH:-127.0.0.1:0} # port 0: the engine takes a free one
export REWARD_API_KEY=test-key

clean_up() {
  status=$?
  if [ $status -ne 0 ]; then "${compose[@]}" logs --tail 50 || true; fi
  "${compose[@]}" --profile benchmark down --volumes --timeout 5 >/dev/null 2>&1 || true
  rm -rf "$RUNS"
}
trap clean_up EXIT

step "build"
# Unquoted: several arguments in one variable.
docker build ${DOCKER_BUILD_ARGS:-} --target service -t "$IMAGE" .
docker build ${DOCKER_BUILD_ARGS:-} --target benchmark -t "$BENCHMARK_IMAGE" .

step "start"
"${compose[@]}" up -d --no-build reward-service
container=$("${compose[@]}" ps -q reward-service)
url=http://$("${compose[@]}" port reward-service 8000)
url=${url/0.0.0.0/127.0.0.1}

step "wait until healthy"
for _ in $(seq 180); do
  health=$(docker inspect --format '{{.State.Health.Status}}' "$container")
  state=$(docker inspect --format '{{.State.Status}}' "$container")
  [ "$health" != healthy ] && [ "$state" = running ] || break
  sleep 1
done
[ "$health" = healthy ] || fail "the container is $state, $health"

step "score over the published port, $url"
# No proxy: an http_proxy of this shell is not meant for a container beside it.
answer=$(curl --noproxy '*' --silent --show-error --fail --max-time 60 "$url/score" \
  -H "Authorization: Bearer $REWARD_API_KEY" -H 'Content-Type: application/json' \
  -d '{"inputs": [{"prompt": "How do I detail a car?", "completions": ["Wash it first.", "No."]}]}')
echo "$answer"
python3 -c 'import json, math, sys
scores = json.loads(sys.argv[1])["results"][0]["scores"]
assert len(scores) == 2 and all(math.isfinite(score) for score in scores), scores' "$answer" || fail "no two scores"

step "refuse a wrong key"
code=$(curl --noproxy '*' --silent --max-time 60 --output /dev/null --write-out '%{http_code}' "$url/score" \
  -H 'Authorization: Bearer wrong' -H 'Content-Type: application/json' -d '{"inputs": []}')
[ "$code" = 401 ] || fail "a wrong key was answered with $code"

step "not root"
uid=$(docker exec "$container" python -c 'import os; print(os.getuid())')
[ "$uid" = 10001 ] || fail "the service runs as uid $uid"

step "benchmark profile"
"${compose[@]}" --profile benchmark run --rm -T benchmark
[ -n "$(find "$RUNS" -type f -print -quit)" ] || fail "the benchmark wrote no results"

step "SIGTERM"
"${compose[@]}" stop reward-service
code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
[ "$code" = 0 ] || fail "the service exited with $code"

echo "PASS"
