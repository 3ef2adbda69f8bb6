"""docs/signing.md: a signature beside a model, which `posttrain verify` and the next stage do not take for its file."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.outputs.manifest import file_hashes, publish
from posttrain.outputs.parents import require_out
from posttrain.paths import GRPO_MODEL

pytest.importorskip("model_signing", reason="the extra `sign` is not installed")

SIGNATURE = GRPO_MODEL.with_name("grpo.sig")


@pytest.fixture
def signed(project: Path) -> Callable[..., int]:
    """A published folder with its signature; what verifies it, and the exit code."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a key with")
    for command in ("ecparam -name prime256v1 -genkey -noout -out my.pem", "ec -in my.pem -pubout -out my.pub"):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    (project / "made").mkdir()
    (project / "made/model.safetensors").write_bytes(bytes(100))
    publish(project / "made", GRPO_MODEL, {"stage": "grpo"})

    def model_signing(do: str, key: str) -> int:
        command = [sys.executable, "-m", "model_signing", do, "key", str(GRPO_MODEL), *key.split()]
        return subprocess.run([*command, "--signature", str(SIGNATURE)], capture_output=True).returncode

    assert model_signing("sign", "--private_key my.pem") == 0
    return lambda: model_signing("verify", "--public_key my.pub")


def test_a_signature_holds_until_a_byte_changes(signed: Callable[..., int]) -> None:
    assert signed() == 0
    assert set(file_hashes(GRPO_MODEL)) == {"model.safetensors"}
    require_out(GRPO_MODEL, "grpo")
    (GRPO_MODEL / "model.safetensors").write_bytes(bytes(99) + b"\1")
    assert signed() == 1
