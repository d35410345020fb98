"""Documents that aren't what they should be, for tests of properties."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def spoilt(draw: st.DrawFn, sound: Any) -> bytes:
    """A document in JSON with some of its values or bytes replaced; or any other bytes."""

    def replaced(node: Any) -> Any:
        if not (isinstance(node, dict | list) and node) or not draw(st.integers(0, 4)):
            return draw(json_values)
        place = draw(st.sampled_from([*node] if isinstance(node, dict) else range(len(node))))
        changed = node.copy()
        changed[place] = replaced(node[place])
        return changed

    kind = draw(st.sampled_from(["value", "bytes", "other"]))
    if kind == "value":
        return json.dumps(replaced(sound)).encode()
    if kind == "other":
        return draw(st.binary(max_size=60))
    content = bytearray(json.dumps(sound).encode())
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)
