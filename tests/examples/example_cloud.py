#!/usr/bin/env python3
"""A request that starts a machine in a (fake) cloud, works on it, and keeps it for its caller.

The machine is named by the request's id, which is known before the machine is made: so the undo can
be recorded first, and finds it however far the making has come.
"""
import os
import shlex
import subprocess
import sys
import time

cloudctl = os.path.join(os.path.dirname(os.path.abspath(__file__)), "example_cloudctl.sh")
token = "machine-" + os.environ["REQUEST_ID"]

undo = "run " + shlex.join([cloudctl, "delete", token]) + "\n"
os.write(int(os.environ["UNDO_FD"]), undo.encode())
subprocess.run([cloudctl, "create", token], check=True)
print("made", token, file=sys.stderr, flush=True)

seconds = float(dict(p.split("=", 1) for p in os.environ["QUERY_STRING"].split("&") if "=" in p)
                .get("seconds", "0"))
time.sleep(seconds)

print("Content-Type: text/plain\n")
print(token)
