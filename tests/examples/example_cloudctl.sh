#!/bin/sh
# A fake cloud, in the directory CLOUD: what a command-line client of AWS or Kubernetes does, as far
# as it matters here. Making something takes its time and can be seen half done; deleting what is not
# there is success.
#
#     example_cloudctl.sh create TOKEN | delete TOKEN | list
set -eu
case ${1-} in
create)
    echo pending >"$CLOUD/$2"
    sleep "${CLOUD_SECONDS:-0.2}"
    echo running >"$CLOUD/$2"
    ;;
delete)
    rm -f "$CLOUD/$2"
    ;;
list)
    ls "$CLOUD"
    ;;
*)
    echo "usage: $0 create TOKEN | delete TOKEN | list" >&2
    exit 2
    ;;
esac
