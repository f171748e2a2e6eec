#!/bin/sh
# A producer that knows NATS and nothing of Forseti, by the nats command (github.com/nats-io/natscli).
set -eu
export NATS_URL="${NATS_URL:-nats://127.0.0.1:4222}"

# A task is stored when the publication is acknowledged (--jetstream waits for that); the result lies under its id.
nats publish --jetstream -H Nats-Msg-Id:sh-1 -H forseti-task-id:sh-1 -H forseti-timeout-ms:20000 \
  forseti.v1.task.charge '{"order":1,"amount":12}' >/dev/null
until nats stream get FORSETI_RESULTS --last-for forseti.v1.result.sh-1 2>/dev/null; do sleep 0.2; done

# A call is answered by whichever node has room, and stored nowhere.
nats request --raw --timeout 10s forseti.v1.call.charge '{"order":4,"amount":7}'
