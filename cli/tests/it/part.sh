#!/bin/sh
# A part of `tepui dev` that does nothing but run.
while [ "$1" != --dir ]; do shift; done
mkdir -p "$2"
exec sleep 600 >/dev/null 2>&1
