#!/bin/sh
# Installs the packages of an image, without the project itself, into /opt/vireo:
#   install.sh ROLE EXTRA...     extras of pyproject.toml, or =NAME for one package without others
#   install.sh fetch EXTRA...    only fetches their wheels, to /wheels, for those that follow
set -eu
role=$1
shift
pip="/opt/tools/bin/pip --quiet"
python3 requirements.py "$@" >"$role.txt"

if [ "$role" = fetch ]; then
  # Of a few packages there is no wheel: those are built here.
  exec $pip wheel --constraint constraints.txt --requirement fetch.txt --wheel-dir /wheels
fi

test -d /wheels && offline="--no-index --find-links /wheels" || offline=""
python3 -m venv --without-pip /opt/vireo
$pip --python /opt/vireo/bin/python install $offline --no-compile --constraint constraints.txt \
  --requirement "$role.txt"
# Feast asks for SQLAlchemy with what checks its types, 55 MB.
case $role in gateway | training) $pip --python /opt/vireo/bin/python uninstall --yes mypy ;; esac
# Headers, sources and tests of packages are of no use where they run.
find /opt/vireo/lib -type d \( -path '*/pyarrow/include' -o -path '*/pyarrow/tests' \
  -o -path '*/pandas/tests' -o -path '*/kubernetes/test' \) -prune -exec rm -rf {} +
find /opt/vireo/lib -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.a' \) -delete
# Nothing can be written where it runs, so that without this each start would compile everything.
/opt/vireo/bin/python -m compileall -q -j 0 -x '/(tests|kubernetes)/' /opt/vireo/lib >/dev/null || true
mkdir -p /opt/vireo/share
/opt/sbom/bin/python sbom.py "$role" >/opt/vireo/share/sbom.cdx.json
