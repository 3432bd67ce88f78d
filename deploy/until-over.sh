#!/bin/sh
# until-over FILE COMMAND...: runs the command, and ends it as its user would once somebody has made the file.
over=$1
shift
"$@" &
command=$!
trap 'kill "$command"' INT TERM
while [ ! -e "$over" ] && kill -0 "$command" 2>/dev/null; do
    sleep 1
done
kill "$command" 2>/dev/null
wait "$command"
