#!/bin/sh
# Installs the packages of an image, without the project itself, into /opt/vireo: install.sh ROLE.
# They are the wheels of wheels/ROLE.txt, or the build fails.
set -eu
role=$1

python3 -m venv --without-pip /opt/vireo
/opt/tools/bin/pip --quiet --python /opt/vireo/bin/python install --no-compile \
  --require-hashes --no-deps --only-binary :all: --requirement "$role.txt"
# Headers, sources and tests of packages are of no use where they run.
find /opt/vireo/lib -type d \( -path '*/pyarrow/include' -o -path '*/pyarrow/tests' \
  -o -path '*/pandas/tests' -o -path '*/kubernetes/test' \) -prune -exec rm -rf {} +
find /opt/vireo/lib -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.a' \) -delete
# Nothing can be written where it runs, so that without this each start would compile everything.
/opt/vireo/bin/python -m compileall -q -j 0 -x '/(tests|kubernetes)/' /opt/vireo/lib >/dev/null || true
mkdir -p /opt/vireo/share
/opt/tools/bin/python sbom.py "$role" >/opt/vireo/share/sbom.cdx.json
