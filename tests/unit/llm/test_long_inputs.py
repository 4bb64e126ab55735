"""The paper's longest input, 32,768 tokens: attention must not build a matrix of all pairs (4 GiB a head)."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource
from reasonir.model.tiny import build_tiny

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

encoder = build_tiny(["a b c d"], vocabulary_size=300, hidden_size=16, intermediate_size=16, layers=1, heads=2,
                     key_value_heads=1)
encoder.encode(["a b c d"] * 4, max_tokens=32768)
before = peak()
long, short = "a b c d " * 9000, "d c b a"
rows = encoder.encode([short, long, short], max_tokens=32768)
print(json.dumps({"mib": peak() - before, "cut": encoder.truncated_texts, "norms": (rows ** 2).sum(1).tolist(),
                  "alone": abs(rows - encoder.encode([short])[0]).max(1).tolist()}))
"""


@pytest.mark.slow
def test_memory_of_the_longest_input_is_bounded() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["cut"] == 1, "longer than the limit, so the pass had all 32,768 tokens"
    assert found["mib"] < 200
    assert all(abs(norm - 1) < 1e-5 for norm in found["norms"])
    assert found["alone"][0] < 1e-5 and found["alone"][2] < 1e-5 < found["alone"][1]
