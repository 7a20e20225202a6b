#!/bin/sh
# Stands before the `apolo` on PATH while mlflow-up runs neuro-flow: hands over what it is to submit, and waits for
# leave. So the job is evaluated once, and checked before anything starts. `HeldRun` is the other side.
PATH=${PATH#*:}
unset PYTHONPATH # it amends neuro-flow alone
case $1 in
  run) printf '%s\0' "$@" >"$MLFLOW_HELD/part" && mv "$MLFLOW_HELD/part" "$MLFLOW_HELD/job" ;;
  mkdir | cp) exec apolo "$@" ;; # what evaluating the flow takes
  *) exit 1 ;;                   # a job runs already
esac
while kill -0 "$MLFLOW_HELD_BY" 2>/dev/null && [ -d "$MLFLOW_HELD" ]; do
  [ -e "$MLFLOW_HELD/go" ] && exec apolo "$@"
  sleep 0.02
done
exit 1
