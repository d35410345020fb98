import subprocess
import sys

SCRIPT = """
import sys
from vireo.server.features.lean_feast import prepare_lean_feast
prepare_lean_feast()
from feast import Entity, FeatureStore, ValueType
assert sys.modules["torch"] is None
# typeguard would refuse the name.
entity = Entity(name=3, join_keys=["viewer_id"], value_type=ValueType.STRING)
print(entity.name, entity.join_key)
"""


def test_feast_works_without_torch_and_without_checks_of_its_types() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "3 viewer_id\n", ran.stderr
