#!/usr/bin/env -S python3 -I -S
"""Exits with 0 if a page of this container answers 200: `vireo-healthcheck [PORT PATH]`.

By default it is the page beside the metrics that tells whether the process serves. It is run every
few seconds, so it imports little.
"""

import os
import sys
from http.client import HTTPConnection

_TIMEOUT = 4.0

port, path = sys.argv[1:] or (os.environ["VIREO_METRICS_PORT"], "/ready")
try:
    connection = HTTPConnection("127.0.0.1", int(port), timeout=_TIMEOUT)
    connection.request("GET", path)
    response = connection.getresponse()
except OSError as error:
    sys.exit(f"port {port}: {error}")
if response.status != 200:
    sys.exit(f"port {port}: {response.status} {response.read(200).decode(errors='replace')}")
